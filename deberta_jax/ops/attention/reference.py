"""The formula with a gather for each position term; jax derives its gradient. Slow, and what the others must equal."""

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.problem import Problem, allowed_pairs, product
from deberta_jax.ops.attention.softmax import masked_softmax, mix
from deberta_jax.ops.dropout import dropped


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`."""
    allowed_bqk = allowed_pairs(problem.document_bk, problem.document_bk)
    p_hbqk = masked_softmax(scores(problem), allowed_bqk)
    if problem.seed_bhq is not None:
        p_hbqk = dropped(p_hbqk, problem.seed_bhq.swapaxes(0, 1), problem.rate)
    return mix(p_hbqk, problem.v_bkhd)


def scores(problem: Problem) -> jax.Array:
    """Scaled float32 scores [h, b, q, k] of every position for every position."""
    length = problem.q_bqhd.shape[1]
    row_qk = problem.row_of_distance[length + np.arange(length)[:, None] - np.arange(length)]
    s_hbqk = product("bqhd,bkhd->hbqk", problem.q_bqhd, problem.k_bkhd)
    if "c2p" in problem.terms:
        c_hbqr = product("bqhd,rhd->hbqr", problem.q_bqhd, problem.pos_k_rhd)
        s_hbqk += jnp.take_along_axis(c_hbqr, jnp.asarray(row_qk)[None, None], axis=-1)
    if "p2c" in problem.terms:
        d_hbkr = product("bkhd,rhd->hbkr", problem.k_bkhd, problem.pos_q_rhd)
        s_hbqk += jnp.take_along_axis(d_hbkr, jnp.asarray(row_qk.T)[None, None], axis=-1).swapaxes(-1, -2)
    if "p2p" in problem.terms:
        bias_hr = product("rhd,rhd->hr", problem.pos_q_rhd, problem.pos_k_rhd)
        s_hbqk += bias_hr[:, row_qk][:, None]
    return s_hbqk * problem.scale
