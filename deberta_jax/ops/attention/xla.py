"""Whole [q, k] scores with gathers, forward and backward: what XLA turns into few passes on GPUs.

Each query is multiplied by the whole table, and the products are gathered by distance. A gather's own gradient would be
a scatter with atomics; but the keys of one table row are neighbours, so it is a sum of a few gathers (6 with the
released buckets), and for the first and the last row, which hold all far distances, a sum from the row's end on.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.distances import Runs, pick
from deberta_jax.ops.attention.problem import Problem, allowed_pairs, product
from deberta_jax.ops.attention.softmax import masked_softmax, mix
from deberta_jax.ops.dropout import dropped


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`."""
    s_hbqk = product("bqhd,bkhd->hbqk", problem.q_bqhd, problem.k_bkhd)
    if problem.terms:
        s_hbqk += position_scores(problem)
    p_hbqk = masked_softmax(s_hbqk * problem.scale, allowed_pairs(problem.document_bk, problem.document_bk))
    if problem.seed_bhq is not None:
        p_hbqk = dropped(p_hbqk, problem.seed_bhq.swapaxes(0, 1), problem.rate)
    return mix(p_hbqk, problem.v_bkhd)


def position_scores(problem: Problem) -> jax.Array:
    """float32 [h, b, q, k], not scaled: all that the position terms add to the product of queries and keys."""
    table = problem.pos_q_rhd if problem.pos_k_rhd is None else problem.pos_k_rhd
    distances = Distances(problem.row_of_distance, table.shape[0])
    of_queries = of_keys = None
    if "c2p" in problem.terms:
        of_queries = product("bqhd,rhd->hbqr", problem.q_bqhd, problem.pos_k_rhd)
    if "p2c" in problem.terms:
        of_keys = product("bkhd,rhd->hbkr", problem.k_bkhd, problem.pos_q_rhd)
    if "p2p" in problem.terms:  # a number for each head and row of the table, the same for all queries
        bias_h11r = product("rhd,rhd->hr", problem.pos_q_rhd, problem.pos_k_rhd)[:, None, None]
        if of_queries is None:
            shape = (*bias_h11r.shape[:1], *problem.q_bqhd.shape[:2], bias_h11r.shape[-1])
            of_queries = jnp.broadcast_to(bias_h11r, shape)
        else:
            of_queries += bias_h11r
    s_hbqk = 0 if of_queries is None else gather_keys(distances, of_queries)
    return s_hbqk if of_keys is None else s_hbqk + gather_queries(distances, of_keys)


class Distances:
    """The table's row of each pair of positions, and where each row's pairs lie."""

    def __init__(self, row_of_distance: np.ndarray, rows: int):
        self.length = len(row_of_distance) // 2
        self.rows = rows
        self.row_n = row_of_distance
        self.row_qk = row_of_distance[self.length + np.arange(self.length)[:, None] - np.arange(self.length)]
        self.runs = Runs.of(row_of_distance, rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gather_keys(distances: Distances, c_hbqr: jax.Array) -> jax.Array:
    """[h, b, q, k]: of each query's products with the table the one for its distance to the key."""
    place_qk = np.arange(distances.length)[:, None] * distances.rows + distances.row_qk
    return pick(c_hbqr, place_qk)


def _gather_keys_forward(distances, c_hbqr):
    return gather_keys(distances, c_hbqr), None


def _gather_keys_backward(distances, _, g_hbqk):
    return (sum_of_distance(distances, g_hbqk, towards=-1).astype(g_hbqk.dtype),)


gather_keys.defvjp(_gather_keys_forward, _gather_keys_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gather_queries(distances: Distances, d_hbkr: jax.Array) -> jax.Array:
    """[h, b, q, k]: of each key's products with the table the one for the query's distance to it."""
    place_qk = np.arange(distances.length)[None] * distances.rows + distances.row_qk
    return pick(d_hbkr, place_qk)


def _gather_queries_forward(distances, d_hbkr):
    return gather_queries(distances, d_hbkr), None


def _gather_queries_backward(distances, _, g_hbqk):
    return (sum_of_distance(distances, g_hbqk.swapaxes(-1, -2), towards=1).astype(g_hbqk.dtype),)


gather_queries.defvjp(_gather_queries_forward, _gather_queries_backward)


def sum_of_distance(distances: Distances, g_hbmn: jax.Array, *, towards: int) -> jax.Array:
    """float32 [h, b, m, r]: for each line the sum over those of its n whose distance has row r.

    With `towards` -1 the lines are queries and their n are keys (n = m - distance), with 1 keys and queries.
    """
    g_hbmn = g_hbmn.astype(jnp.float32)
    first, last = distances.runs.ends()
    line = np.arange(distances.length)[:, None]
    start_r = distances.runs.start_r - distances.length  # the smallest distance of each row
    width_r = distances.runs.width_r.copy()
    width_r[[first, last]] = 0
    total_hbmr = 0
    for step in range(width_r.max()):
        n_mr = line + towards * (start_r + step)[None]
        inside_mr = (step < width_r) & (n_mr >= 0) & (n_mr < distances.length)
        place_mr = line * distances.length + np.where(inside_mr, n_mr, 0)
        total_hbmr += pick(g_hbmn, place_mr, inside_mr)
    below_hbmn = _sums_up_to(g_hbmn)
    for row in {first, last}:
        low = start_r[row]
        high = low + distances.runs.width_r[row] - 1
        ends = (line - high, line - low) if towards < 0 else (line + low, line + high)
        total_hbmr += _between(below_hbmn, *ends) * (np.arange(distances.rows) == row)[None, None, None]
    return total_hbmr


def _sums_up_to(g_hbmn: jax.Array) -> jax.Array:
    """[h, b, m, n + 1]: the sum of the first n entries of each line."""
    return jnp.pad(jnp.cumsum(g_hbmn, axis=-1), [(0, 0)] * 3 + [(1, 0)])


def _between(below_hbmn: jax.Array, first_m1: np.ndarray, last_m1: np.ndarray) -> jax.Array:
    """[h, b, m, 1]: the sum from `first` to `last`, where they lie inside."""
    size = below_hbmn.shape[-1]
    line = np.arange(len(first_m1))[:, None] * size
    high, low = (pick(below_hbmn, line + np.clip(n, 0, size - 1)) for n in (last_m1 + 1, first_m1))
    return high - low
