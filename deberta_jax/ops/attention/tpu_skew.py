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

SUBLANES, LANES = 8, 128  # of a register of 32-bit numbers


def skew(e_xw: jax.Array, interpret: bool) -> jax.Array:
    """[x, y + x] to [x, y]: row x from its column rows - 1 - x on."""
    rows, width = e_xw.shape
    return rotate(e_xw, width - (rows - 1), interpret)[:, : width - rows]


def unskew_reversed(s_xy: jax.Array, dtype: jnp.dtype, interpret: bool) -> jax.Array:
    """The transpose of `skew`, [x, y] to [x, y + x], with its rows in reversed order, as `dtype`; the rest is zero."""
    rows = s_xy.shape[0]
    turned_xy = reverse_rows(s_xy).astype(dtype)  # 16-bit numbers rotate at half the price
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


def reverse_rows(a_xy: jax.Array) -> jax.Array:
    """The rows of a 32-bit array [8 n, y] from the last to the first."""
    # A gather over rows may not leave a register, so each one is turned around and then their order.
    starts = range(a_xy.shape[0] - SUBLANES, -1, -SUBLANES)
    turn_sy = SUBLANES - 1 - lax.broadcasted_iota(jnp.int32, (SUBLANES, a_xy.shape[1]), 0)
    groups = (lax.slice_in_dim(a_xy, start, start + SUBLANES) for start in starts)
    return jnp.concatenate([_take(group, turn_sy, axis=0) for group in groups])


def reverse_lanes(a_xy: jax.Array) -> jax.Array:
    """The columns of a 32-bit array [x, 128 n] from the last to the first."""
    starts = range(a_xy.shape[1] - LANES, -1, -LANES)
    turn_xl = LANES - 1 - lax.broadcasted_iota(jnp.int32, (a_xy.shape[0], LANES), 1)
    groups = (lax.slice_in_dim(a_xy, start, start + LANES, axis=1) for start in starts)
    return jnp.concatenate([_take(group, turn_xl, axis=1) for group in groups], axis=1)


def _take(a: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    return jnp.take_along_axis(a, index, axis=axis, mode="promise_in_bounds")
