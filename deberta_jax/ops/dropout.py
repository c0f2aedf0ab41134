"""Dropout whose bits depend on (seed, step, layer, site, global row) and on nothing else.

`flax.linen.Dropout` draws one array per call, so its bits change with the batch's split over devices and micro-batches;
here each row of the global batch has its own key.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

LEVELS = 1 << 16  # two draws from each 32-bit word; a rate is rounded to a multiple of 1 / LEVELS


class Noise(struct.PyTreeNode):
    """Where dropout bits come from: a key and the global row number of each row of the batch."""

    key: jax.Array
    row_b: jax.Array

    def at(self, index: int | jax.Array) -> "Noise":
        """The noise of one layer, or of one site within a layer."""
        return self.replace(key=jax.random.fold_in(self.key, index))


def keep_mask(key: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    """Booleans of `shape`, each False with probability round(rate * 65536) / 65536."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]
    return draws.reshape(shape) >= round(rate * LEVELS)


def dropout(x: jax.Array, rate: float, noise: Noise | None, *, batch_axis: int = 0) -> jax.Array:
    """`x` with entries zeroed, row by row of `batch_axis`, and the rest scaled up; `x` itself without noise."""
    if noise is None or rate == 0:
        return x
    row_shape = x.shape[:batch_axis] + x.shape[batch_axis + 1 :]
    draw = jax.vmap(lambda row: keep_mask(jax.random.fold_in(noise.key, row), rate, row_shape), out_axes=batch_axis)
    return _scaled(x, draw(noise.row_b), rate)


def shared_dropout(x: jax.Array, rate: float, noise: Noise | None) -> jax.Array:
    """As `dropout`, for an array that all rows share: one mask for the whole global batch."""
    if noise is None or rate == 0:
        return x
    return _scaled(x, keep_mask(noise.key, rate, x.shape), rate)


def drop_rows(x: jax.Array, rate: jax.Array, noise: Noise | None) -> jax.Array:
    """`x` [b, ...] with whole rows zeroed, each with probability `rate` (may be traced), and the others scaled up.

    Stochastic depth (Huang et al. 2016) of a residual branch, per row; `x` itself without noise.
    """
    if noise is None:
        return x
    draw_b = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(noise.key, row)))(noise.row_b)
    keep = (draw_b >= rate).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _scaled(x: jax.Array, keep: jax.Array, rate: float) -> jax.Array:
    kept_share = 1 - round(rate * LEVELS) / LEVELS
    return jnp.where(keep, x / kept_share, 0).astype(x.dtype)
