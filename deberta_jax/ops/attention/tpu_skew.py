"""Relative shifts inside a TPU kernel: row x of a block moves by an amount that grows with x.

The table of relative positions is expanded to one row per distance, so a block of queries times a window of that table
has its scores on diagonals: entry [x, rows - 1 - x + y] belongs to key y. TPUs rotate the lanes of a register by an
amount that grows with the row in one instruction (`pltpu.roll` with a stride); no gather is needed. The rotation only
grows, which is the direction of `skew`; its transpose turns the rows around first and gives them back in that order.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

LANES = 128
REGISTER = (8, LANES)  # rows and columns of one, of 32-bit numbers


def skew(e_xw: jax.Array, interpret: bool) -> jax.Array:
    """[x, y + x] to [x, y]: row x from its column rows - 1 - x on."""
    rows, width = e_xw.shape
    return rotate(e_xw, width - (rows - 1), interpret)[:, : width - rows]


def unskew_reversed(s_xy: jax.Array, dtype: jnp.dtype, interpret: bool) -> jax.Array:
    """The transpose of `skew`, [x, y] to [x, y + x], with its rows in reversed order, as `dtype`; the rest is zero."""
    rows = s_xy.shape[0]
    turned_xy = reverse(s_xy, 0, interpret).astype(dtype)  # 16-bit numbers rotate at half the price
    padded_xw = jnp.concatenate([turned_xy, jnp.zeros((rows, rows), dtype)], axis=1)
    return rotate(padded_xw, 0, interpret)


def rotate(a_xw: jax.Array, shift: int, interpret: bool) -> jax.Array:
    """Row x with its columns moved right by shift + x, around the end."""
    if not interpret:
        return pltpu.roll(a_xw, shift, 1, stride=1, stride_axis=0)
    # The interpreter has one operation a row, which takes XLA minutes to compile. The same by a reshape:
    rows, width = a_xw.shape
    twice_xw = jnp.concatenate([jnp.roll(a_xw, shift, 1)] * 2, axis=1)
    flat = jnp.append(twice_xw.reshape(-1), jnp.zeros(width, a_xw.dtype))[width:]
    return flat[: rows * (2 * width - 1)].reshape(rows, 2 * width - 1)[:, :width]


def reverse(a_xy: jax.Array, axis: int, interpret: bool) -> jax.Array:
    """A 32-bit array of whole registers with its rows (axis 0) or columns (axis 1) from the last to the first."""
    if interpret:
        return jnp.flip(a_xy, axis)
    # A TPU's gather may not leave a register, so each one is turned around and then their order.
    size = REGISTER[axis]
    groups = (lax.slice_in_dim(a_xy, at, at + size, axis=axis) for at in reversed(range(0, a_xy.shape[axis], size)))
    turned = (_take(group, size - 1 - lax.broadcasted_iota(jnp.int32, group.shape, axis), axis) for group in groups)
    return jnp.concatenate(list(turned), axis=axis)


def _take(a: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    return jnp.take_along_axis(a, index, axis=axis, mode="promise_in_bounds")
