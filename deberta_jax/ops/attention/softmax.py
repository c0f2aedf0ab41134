"""Probabilities of keys from scores, and values mixed by them."""

import jax
import jax.numpy as jnp

MASKED_SCORE = -1e30  # finite: a row without any key must not become NaN


def masked_softmax(s_hbqk: jax.Array, allowed_bqk: jax.Array) -> jax.Array:
    """float32 softmax over allowed keys; a query without any gets zeros, not a uniform row (released behaviour)."""
    allowed_1bqk = allowed_bqk[None]
    s_hbqk = jnp.where(allowed_1bqk, s_hbqk.astype(jnp.float32), MASKED_SCORE)
    return jnp.where(allowed_1bqk, jax.nn.softmax(s_hbqk, axis=-1), 0)


def mix(p_hbqk: jax.Array, v_bkhd: jax.Array) -> jax.Array:
    """Values mixed by probabilities: [b, q, h, d] in the values' dtype."""
    return jnp.einsum("hbqk,bkhd->bqhd", p_hbqk.astype(v_bkhd.dtype), v_bkhd)
