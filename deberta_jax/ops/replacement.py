"""Putting tokens into a row."""

import jax
import jax.numpy as jnp


def replaced(id_bl: jax.Array, position_bp: jax.Array, new_bp: jax.Array, used_bp: jax.Array) -> jax.Array:
    """`id_bl` with `new_bp` at `position_bp`, where `used_bp`; no position may be used twice in a row.

    By comparison, not by index: a scatter into rows that are split over devices is something partitioners get wrong.
    """
    here_bpl = (position_bp[..., None] == jnp.arange(id_bl.shape[1])[None, None]) & used_bp[..., None]
    new_bl = jnp.where(here_bpl, new_bp[..., None], 0).sum(1)
    return jnp.where(here_bpl.any(1), new_bl, id_bl)
