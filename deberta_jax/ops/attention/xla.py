"""Whole [q, k] scores with gathers, forward and backward: what XLA turns into few passes on GPUs.

Each query is multiplied by the whole table, and the products are gathered by distance. A gather's own gradient would be
a scatter with atomics; but the keys of one table row are neighbours, so it is a sum of a few gathers (6 with the
released buckets), and for rows that hold many far distances a difference of running sums.

What counts on GPUs is how often a [q, k] array passes the memory. So all of them lie as [h, b, q, k], of each layer the
scores are kept, from which the gradient makes the softmax again, and the gradient of the softmax is written out:
autodiff's is in float32 throughout.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.distances import Runs, pick
from deberta_jax.ops.attention.problem import Problem, allowed_pairs, product
from deberta_jax.ops.dropout import dropped

FAR = 1e30
# Scaled scores are kept with more digits than bfloat16 has: float16 is as small, and they stay far below its 65,504.
KEPT = {jnp.dtype(jnp.bfloat16): jnp.float16}
SHORT = 8  # distances of a row of the table that are gathered one by one


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`."""
    problem = problem.bound()
    q_hbqd, k_hbkd, v_hbkd = (x.transpose(2, 0, 1, 3) for x in (problem.q_bqhd, problem.k_bkhd, problem.v_bkhd))
    bias_hbqk = position_scores(problem) if problem.terms else None
    seed_hbq = None if problem.seed_bhq is None else problem.seed_bhq.swapaxes(0, 1)
    o_hbqd = biased(problem.scale, problem.rate, q_hbqd, k_hbkd, v_hbkd, bias_hbqk, problem.document_bk, seed_hbq)
    return o_hbqd.transpose(1, 2, 0, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def biased(scale: float, rate: float, q_hbqd, k_hbkd, v_hbkd, bias_hbqk, document_bk, seed_hbq) -> jax.Array:
    """[h, b, q, d]: values mixed by softmax(scale (q k + bias)) with dropout; of a query without a key zeros."""
    return _biased_forward(scale, rate, q_hbqd, k_hbkd, v_hbkd, bias_hbqk, document_bk, seed_hbq)[0]


def _biased_forward(scale, rate, q_hbqd, k_hbkd, v_hbkd, bias_hbqk, document_bk, seed_hbq):
    s_hbqk = product("hbqd,hbkd->hbqk", q_hbqd, k_hbkd)
    if bias_hbqk is None:
        s_hbqk *= scale
    else:
        # Behind a barrier: XLA would write the bias in float32 for cuBLAS to add the product to.
        s_hbqk = scale * (jax.lax.optimization_barrier(s_hbqk) + bias_hbqk)
        s_hbqk = jax.lax.optimization_barrier(s_hbqk.astype(KEPT.get(q_hbqd.dtype, jnp.float32)))
    p_hbqk = _dropped(_probabilities(s_hbqk, document_bk).astype(v_hbkd.dtype), seed_hbq, rate)
    o_hbqd = jnp.einsum("hbqk,hbkd->hbqd", p_hbqk, v_hbkd)
    bias = None if bias_hbqk is None else ()  # whether there is one
    return o_hbqd, (q_hbqd, k_hbkd, v_hbkd, bias, document_bk, seed_hbq, s_hbqk, o_hbqd)


def _biased_backward(scale, rate, saved, do_hbqd):
    q_hbqd, k_hbkd, v_hbkd, bias, document_bk, seed_hbq, s_hbqk, o_hbqd = saved
    p_hbqk = _probabilities(s_hbqk, document_bk)
    dp_hbqk = _dropped(jnp.einsum("hbqd,hbkd->hbqk", do_hbqd, v_hbkd), seed_hbq, rate)
    delta_hbq1 = (do_hbqd.astype(jnp.float32) * o_hbqd.astype(jnp.float32)).sum(-1, keepdims=True)
    ds_hbqk = (scale * p_hbqk * (dp_hbqk.astype(jnp.float32) - delta_hbq1)).astype(q_hbqd.dtype)
    dq_hbqd = jnp.einsum("hbqk,hbkd->hbqd", ds_hbqk, k_hbkd)
    dk_hbkd = jnp.einsum("hbqk,hbqd->hbkd", ds_hbqk, q_hbqd)
    p_hbqk = _dropped(p_hbqk.astype(v_hbkd.dtype), seed_hbq, rate)
    dv_hbkd = jnp.einsum("hbqk,hbqd->hbkd", p_hbqk, do_hbqd)
    return dq_hbqd, dk_hbkd, dv_hbkd, None if bias is None else ds_hbqk.astype(jnp.float32), None, None


biased.defvjp(_biased_forward, _biased_backward)


def _dropped(x_hbqk: jax.Array, seed_hbq: jax.Array | None, rate: float) -> jax.Array:
    return x_hbqk if seed_hbq is None else dropped(x_hbqk, seed_hbq, rate)


def _probabilities(s_hbqk: jax.Array, document_bk: jax.Array) -> jax.Array:
    """float32 [h, b, q, k]; zeros for a query without a key."""
    allowed_1bqk = allowed_pairs(document_bk, document_bk)[None].astype(jnp.float32)
    # By arithmetic: what `where` puts in would be another whole array that a scan over layers keeps.
    s_hbqk = s_hbqk.astype(jnp.float32) + (allowed_1bqk - 1) * FAR
    return jax.nn.softmax(s_hbqk, axis=-1) * allowed_1bqk


def position_scores(problem: Problem) -> jax.Array:
    """float32 [h, b, q, k], not scaled: all that the position terms add to the product of queries and keys.

    Products with the table are kept in the operands' dtype.
    """
    table = problem.pos_q_rhd if problem.pos_k_rhd is None else problem.pos_k_rhd
    distances = Distances(problem.row_of_distance, table.shape[0])
    of_queries = of_keys = None
    if "c2p" in problem.terms:
        of_queries = of_table(problem.q_bqhd, problem.pos_k_rhd)
    if "p2c" in problem.terms:
        of_keys = of_table(problem.k_bkhd, problem.pos_q_rhd)
    if "p2p" in problem.terms:  # a number for each head and row of the table, the same for all queries
        bias_h11r = product("rhd,rhd->hr", problem.pos_q_rhd, problem.pos_k_rhd)[:, None, None]
        bias_h11r = bias_h11r.astype(problem.q_bqhd.dtype)
        if of_queries is None:
            shape = (*bias_h11r.shape[:1], *problem.q_bqhd.shape[:2], bias_h11r.shape[-1])
            of_queries = jnp.broadcast_to(bias_h11r, shape)
        else:
            of_queries += bias_h11r
    s_hbqk = jnp.zeros((), jnp.float32) if of_queries is None else gather_keys(distances, of_queries)
    s_hbqk = s_hbqk.astype(jnp.float32)
    return s_hbqk if of_keys is None else s_hbqk + gather_queries(distances, of_keys).astype(jnp.float32)


def of_table(x_bnhd: jax.Array, table_rhd: jax.Array) -> jax.Array:
    """[h, b, n, r]: each token's product with each row of the table. One axis of tokens: two would be turned around."""
    b, n, h, d = x_bnhd.shape
    x_hmd = x_bnhd.transpose(2, 0, 1, 3).reshape(h, b * n, d)
    return jnp.einsum("hmd,hrd->hmr", x_hmd, table_rhd.transpose(1, 0, 2)).reshape(h, b, n, -1)


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
    line = np.arange(distances.length)[:, None]
    start_r = distances.runs.start_r - distances.length  # the smallest distance of each row
    long = [row for row in sorted(set(distances.runs.ends())) if distances.runs.width_r[row] > SHORT]
    width_r = distances.runs.width_r.copy()
    width_r[long] = 0
    total_hbmr = jnp.zeros((), jnp.float32)
    for step in range(width_r.max()):
        n_mr = line + towards * (start_r + step)[None]
        inside_mr = (step < width_r) & (n_mr >= 0) & (n_mr < distances.length)
        place_mr = line * distances.length + np.where(inside_mr, n_mr, 0)
        total_hbmr += pick(g_hbmn, place_mr, inside_mr).astype(jnp.float32)
    for row in long:
        low = start_r[row]
        high = low + distances.runs.width_r[row] - 1
        ends = (line - high, line - low) if towards < 0 else (line + low, line + high)
        total_hbmr += _between(_sums_up_to(g_hbmn), *ends) * (np.arange(distances.rows) == row)[None, None, None]
    return total_hbmr


def _sums_up_to(g_hbmn: jax.Array) -> jax.Array:
    """float32 [h, b, m, n + 1]: the sum of the first n entries of each line."""
    return jnp.pad(jnp.cumsum(g_hbmn.astype(jnp.float32), axis=-1), [(0, 0)] * 3 + [(1, 0)])


def _between(below_hbmn: jax.Array, first_m1: np.ndarray, last_m1: np.ndarray) -> jax.Array:
    """[h, b, m, 1]: the sum from `first` to `last`, where they lie inside."""
    size = below_hbmn.shape[-1]
    line = np.arange(len(first_m1))[:, None] * size
    high, low = (pick(below_hbmn, line + np.clip(n, 0, size - 1)) for n in (last_m1 + 1, first_m1))
    return high - low
