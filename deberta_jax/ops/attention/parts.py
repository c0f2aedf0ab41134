"""The scores of disentangled attention taken apart, term by term, for who wants to look at them."""

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.problem import Problem, product

CONTENT = "c2c"  # the term that every model has


def score_parts(problem: Problem) -> dict[str, jax.Array]:
    """What each term adds to the scaled float32 scores [h, b, q, k]: "c2c", then those that the problem has.

    Their sum is `reference.scores`.
    """
    length = problem.q_bqhd.shape[1]
    row_qk = problem.row_of_distance[length + np.arange(length)[:, None] - np.arange(length)]
    parts = {CONTENT: product("bqhd,bkhd->hbqk", problem.q_bqhd, problem.k_bkhd)}
    if "c2p" in problem.terms:
        c_hbqr = product("bqhd,rhd->hbqr", problem.q_bqhd, problem.pos_k_rhd)
        parts["c2p"] = jnp.take_along_axis(c_hbqr, jnp.asarray(row_qk)[None, None], axis=-1)
    if "p2c" in problem.terms:
        d_hbkr = product("bkhd,rhd->hbkr", problem.k_bkhd, problem.pos_q_rhd)
        parts["p2c"] = jnp.take_along_axis(d_hbkr, jnp.asarray(row_qk.T)[None, None], axis=-1).swapaxes(-1, -2)
    if "p2p" in problem.terms:
        bias_hr = product("rhd,rhd->hr", problem.pos_q_rhd, problem.pos_k_rhd)
        parts["p2p"] = jnp.broadcast_to(bias_hr[:, row_qk][:, None], parts[CONTENT].shape)
    return {name: part_hbqk * problem.scale for name, part_hbqk in parts.items()}


def without_query_mean(part_qk: np.ndarray) -> np.ndarray:
    """[..., q, k] less each query's mean over all keys: a softmax over these keys does not see it."""
    return part_qk - part_qk.mean(-1, keepdims=True)


def mean_by_distance(values_qk: np.ndarray) -> np.ndarray:
    """Means of [..., n, n] over the pairs of each distance i - j of query i from key j: [..., 2n - 1], -(n-1) first."""
    reach = values_qk.shape[-1] - 1
    diagonals = (np.diagonal(values_qk, -distance, -2, -1) for distance in range(-reach, reach + 1))
    return np.stack([diagonal.mean(-1) for diagonal in diagonals], axis=-1)
