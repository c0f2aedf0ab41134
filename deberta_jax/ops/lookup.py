"""Reading rows of a table by number, where one number stands at many places."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table_ve: jax.Array, id_bl: jax.Array, frequent_id: int) -> jax.Array:
    """table_ve[id_bl], [b, l, e]; NaN for an id beyond the table.

    The gradient of the row `frequent_id` is summed as a dense array, those of the other rows are scattered. A scatter
    adds to one row by turns: [MASK] stands at every seventh place of a masked batch, and all the others wait for it.
    """
    return jnp.take(table_ve, id_bl, axis=0)


def _forward(table_ve: jax.Array, id_bl: jax.Array, frequent_id: int) -> tuple:
    return lookup(table_ve, id_bl, frequent_id), (table_ve, id_bl)  # of the table only shape and dtype are used


def _backward(frequent_id: int, residuals: tuple, slope_ble: jax.Array) -> tuple:
    table_ve, id_bl = residuals
    slope_ble = slope_ble.astype(jnp.float32)
    is_frequent_bl = id_bl == frequent_id
    dropped_bl = jnp.where(is_frequent_bl, table_ve.shape[0], id_bl)
    of_table_ve = jnp.zeros(table_ve.shape, jnp.float32).at[dropped_bl].add(slope_ble, mode="drop")
    of_row_e = jnp.einsum("bl,ble->e", is_frequent_bl.astype(jnp.float32), slope_ble, precision="highest")
    return of_table_ve.at[frequent_id].add(of_row_e).astype(table_ve.dtype), None


lookup.defvjp(_forward, _backward)
