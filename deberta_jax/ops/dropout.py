"""Dropout whose bits depend on (seed, step, layer, site, global row, place) and on nothing else.

`flax.linen.Dropout` draws one array per call, so its bits change with the batch's split over devices and micro-batches;
here each row of the global batch has its own key.

An entry's bits are a hash of its place (the finalizer of MurmurHash3, public domain, over a seed per line of the
array), not a stream: any tile of a mask can be computed where it is needed, also inside a kernel and again in its
backward pass, at ten integer operations an entry, where threefry takes some fifty for the same 32 bits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

ODD, FIRST, SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


class Noise(struct.PyTreeNode):
    """Where dropout bits come from: a key and the global row number of each row of the batch.

    With `hardware` they come from the device's own generator instead: the cheapest bits on TPUs, but they depend on
    how the arrays are laid out over devices.
    """

    key: jax.Array
    row_b: jax.Array
    hardware: bool = struct.field(pytree_node=False, default=False)

    def at(self, index: int | jax.Array) -> "Noise":
        """The noise of one layer, or of one site within a layer."""
        return self.replace(key=jax.random.fold_in(self.key, index))

    def line_seeds(self, *shape: int) -> jax.Array:
        """int32 [b, *shape]: a seed for each line of an array [b, *shape, columns], for `kept`."""
        word_b2 = jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(self.key, row), (2,), jnp.uint32))(self.row_b)
        return _line_seeds(word_b2, shape)


def kept(seed: jax.Array, column: jax.Array, rate: float) -> jax.Array:
    """Whether to keep each entry: False with probability `rate`, a hash of its line's seed and its column (int32)."""
    x = seed.astype(jnp.uint32) ^ (column.astype(jnp.uint32) * ODD)
    x = (x ^ (x >> 16)) * FIRST
    x = (x ^ (x >> 13)) * SECOND
    return jax.lax.bitcast_convert_type(x, jnp.int32) >= threshold(rate)


def threshold(rate: float) -> int:
    """What a hashed int32 must reach to be kept."""
    return round(rate * 2**32) - 2**31


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def dropped(x: jax.Array, seed: jax.Array, rate: float) -> jax.Array:
    """`x` [..., columns] with entries zeroed and the rest scaled up; `seed` [...] is that of each line.

    The gradient makes the bits again, so that no mask is kept for it.
    """
    column = jnp.arange(x.shape[-1], dtype=jnp.int32).reshape((1,) * seed.ndim + (-1,))
    return _scaled(x, kept(seed[..., None], column, rate), rate)


dropped.defvjp(
    lambda x, seed, rate: (dropped(x, seed, rate), seed), lambda rate, seed, g: (dropped(g, seed, rate), None)
)


def dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """`x` [b, ...] with entries zeroed, and the rest scaled up; `x` itself without noise."""
    if noise is None or rate == 0:
        return x
    if noise.hardware:
        return _scaled(x, _hardware_mask(noise.key, x.shape, rate), rate)
    return dropped(x, noise.line_seeds(*x.shape[1:-1]), rate)


def shared_dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """As `dropout`, for an array that all rows share: one mask for the whole global batch."""
    if noise is None or rate == 0:
        return x
    if noise.hardware:
        return _scaled(x, _hardware_mask(noise.key, x.shape, rate), rate)
    word_2 = jax.random.bits(noise.key, (2,), jnp.uint32)
    return dropped(x, _line_seeds(word_2[None], x.shape[:-1])[0], rate)


def drop_rows(x: jax.Array, rate: jax.Array, noise: Noise | None) -> jax.Array:
    """`x` [b, ...] with whole rows zeroed, each with probability `rate` (may be traced), and the others scaled up.

    Stochastic depth (Huang et al. 2016) of a residual branch, per row; `x` itself without noise.
    """
    if noise is None:
        return x
    draw_b = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(noise.key, row)))(noise.row_b)
    keep = (draw_b >= rate).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _line_seeds(word_b2: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Two words of a row and the number of a line, mixed: neighbouring lines get unrelated seeds."""
    number = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32) * ODD
    x = word_b2[:, :1] ^ number[None]
    x = (x ^ (x >> 16)) * FIRST
    x = (x ^ (x >> 13)) * SECOND
    x = x ^ (x >> 16) ^ word_b2[:, 1:]
    return jax.lax.bitcast_convert_type(x, jnp.int32).reshape(-1, *shape)


def _hardware_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    words_4 = jax.random.bits(key, (4,), jnp.uint32)
    _, bits = jax.lax.rng_bit_generator(words_4, shape, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(bits, jnp.int32) >= threshold(rate)


def _scaled(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    """Scaled in float32: the factor itself, rounded to bfloat16, is 0.2 % off at rate 0.1, and so would the mean be."""
    return (x.astype(jnp.float32) * keep.astype(jnp.float32) / kept_share(rate)).astype(x.dtype)


def kept_share(rate: float) -> float:
    """The probability of being kept, exactly; kept entries are divided by it."""
    return 1 - round(rate * 2**32) / 2**32
