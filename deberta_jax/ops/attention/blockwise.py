"""Attention one block of queries at a time, computed again in the backward pass: memory is linear in the length.

Also the fastest form on CPUs, one head at a time: whatever has a side of the length then stays in the cache. Of the
forward pass only the output and each query's log-sum-exp are kept (Dao et al. 2022, FlashAttention, section 3).

Products with the spread table go by tiles of lines (queries for c2p, keys for p2c): a tile of s lines meets its n
partners at n + s distances, and s of these are computed in vain for each line.

Letters: g heads at a time, t queries of a block, n tiles, s lines of a tile, c column of a product with the table.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.distances import expand, skew, unskew
from deberta_jax.ops.attention.heads import over_heads
from deberta_jax.ops.attention.problem import Problem, allowed_pairs, product
from deberta_jax.ops.dropout import dropped

BLOCK = 512  # queries at most
TILE = 128  # lines at most
ALIGNED = 8  # a tile is a multiple of it


@dataclasses.dataclass(frozen=True)
class Plan:
    block: int
    tile: int
    heads: int | None  # at a time; None = all
    scale: float
    rate: float


class Side(NamedTuple):
    """What is split over heads, each [h, ...]; the tables are spread over distances, or absent."""

    q_hbqd: jax.Array
    k_hbkd: jax.Array
    v_hbkd: jax.Array
    far_hcd: jax.Array | None  # the table as keys, distances length - 1 .. -length
    near_hcd: jax.Array | None  # the table as queries, distances -length .. length - 1
    seed_hbq: jax.Array | None  # of dropout


def attend(problem: Problem, *, heads: int | None = None, block: int = BLOCK, tile: int = TILE) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`; position to position has no form here. `heads` at a time (default: all)."""
    length = problem.q_bqhd.shape[1]
    blocks, block, tile = sizes(length, block, tile)
    padded = problem.padded(blocks * block)
    plan = Plan(block, tile, heads, problem.scale, problem.rate)
    o_hbqd = _attend(plan, _side(padded), padded.document_bk)
    return o_hbqd.transpose(1, 2, 0, 3)[:, :length]


def sizes(length: int, block: int, tile: int) -> tuple[int, int, int]:
    """(number of blocks, size of a block, size of a tile): even parts, of `block` and `tile` at most, but aligned."""
    blocks = math.ceil(length / block)
    tiles = math.ceil(length / blocks / tile)
    tile = math.ceil(length / blocks / tiles / ALIGNED) * ALIGNED
    return blocks, tiles * tile, tile


def _side(problem: Problem) -> Side:
    far_chd = near_chd = seed_hbq = None
    if "c2p" in problem.terms:
        far_chd = expand(problem.pos_k_rhd, problem.row_of_distance[::-1]).transpose(1, 0, 2)
    if "p2c" in problem.terms:
        near_chd = expand(problem.pos_q_rhd, problem.row_of_distance).transpose(1, 0, 2)
    if problem.seed_bhq is not None:
        seed_hbq = problem.seed_bhq.swapaxes(0, 1)
    first = (each.transpose(2, 0, 1, 3) for each in (problem.q_bqhd, problem.k_bkhd, problem.v_bkhd))
    return Side(*first, far_chd, near_chd, seed_hbq)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, side: Side, document_bk: jax.Array) -> jax.Array:
    return _forward(plan, side, document_bk)[0]


def _attend_forward(plan, side, document_bk):
    o_hbqd, lse_hbq = _forward(plan, side, document_bk)
    return o_hbqd, (side, document_bk, o_hbqd, lse_hbq)


def _attend_backward(plan, saved, do_hbqd):
    side, document_bk, o_hbqd, lse_hbq = saved
    backward = functools.partial(_group_backward, plan, document_bk=document_bk)
    dside = over_heads(plan.heads, lambda given: backward(*given), (side, o_hbqd, lse_hbq, do_hbqd))
    return dside, None


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(plan: Plan, side: Side, document_bk: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(output [h, b, q, d], log-sum-exp of each query's scores [h, b, q]; 0 for a query that sees no key)."""

    def group(side: Side):
        def block(_, start):
            return None, _block_forward(plan, side, document_bk, start)

        _, parts = jax.lax.scan(block, None, _starts(plan, side))
        return jax.tree.map(_joined, parts)

    return over_heads(plan.heads, group, side)


def _block_forward(plan: Plan, side: Side, document_bk: jax.Array, start: jax.Array) -> tuple[jax.Array, jax.Array]:
    s_gbtk, allowed_1btk = _scores(plan, side, document_bk, start), _allowed(plan, document_bk, start)
    s_gbtk = jnp.where(allowed_1btk, s_gbtk, -jnp.inf)
    top_gbt1 = s_gbtk.max(-1, keepdims=True)
    top_gbt1 = jnp.where(top_gbt1 == -jnp.inf, 0, top_gbt1)
    weight_gbtk = jnp.exp(s_gbtk - top_gbt1)
    total_gbt1 = weight_gbtk.sum(-1, keepdims=True)
    total_gbt1 = jnp.where(total_gbt1 == 0, 1, total_gbt1)
    mixed_gbtd = product(
        "gbtk,gbkd->gbtd", _dropped(plan, weight_gbtk, side, start).astype(side.v_hbkd.dtype), side.v_hbkd
    )
    return (mixed_gbtd / total_gbt1).astype(side.v_hbkd.dtype), (top_gbt1 + jnp.log(total_gbt1))[..., 0]


def _group_backward(plan: Plan, side: Side, o_gbqd, lse_gbq, do_gbqd, *, document_bk: jax.Array) -> Side:
    """Gradients of a group of heads, summed over its blocks in float32."""
    delta_gbq = (o_gbqd.astype(jnp.float32) * do_gbqd.astype(jnp.float32)).sum(-1)
    float32 = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), side._replace(q_hbqd=None, seed_hbq=None))

    def block(total: Side, start):
        given = (_lines(plan, each, start) for each in (lse_gbq, delta_gbq, do_gbqd))
        found = _block_backward(plan, side, document_bk, start, *given)
        far_hcd = near_hcd = None
        if side.far_hcd is not None:
            far_hcd = _add_at(total.far_hcd, found.far_hcd, _far_start(plan, side, start))
        if side.near_hcd is not None:
            near_hcd = _add_at(total.near_hcd, found.near_hcd, start)
        k_hbkd, v_hbkd = total.k_hbkd + found.k_hbkd, total.v_hbkd + found.v_hbkd
        return Side(None, k_hbkd, v_hbkd, far_hcd, near_hcd, None), found.q_hbqd

    total, dq = jax.lax.scan(block, float32, _starts(plan, side))
    total = total._replace(q_hbqd=_joined(dq))
    return jax.tree.map(lambda g, x: g.astype(x.dtype), total, side._replace(seed_hbq=None))


def _block_backward(plan: Plan, side: Side, document_bk, start, lse_gbt, delta_gbt, do_gbtd) -> Side:
    """float32 gradients: of the block's queries, of all keys and values, of the part of the tables that it sees."""
    s_gbtk, allowed_1btk = _scores(plan, side, document_bk, start), _allowed(plan, document_bk, start)
    p_gbtk = jnp.where(allowed_1btk, jnp.exp(s_gbtk - lse_gbt[..., None]), 0)
    dtype = side.k_hbkd.dtype
    dv_gbkd = _over_lines("gb", _dropped(plan, p_gbtk, side, start).astype(dtype), do_gbtd)
    dp_gbtk = _dropped(plan, product("gbtd,gbkd->gbtk", do_gbtd, side.v_hbkd), side, start)
    ds_gbtk = (p_gbtk * (dp_gbtk - delta_gbt[..., None]) * plan.scale).astype(dtype)
    q_gbtd = _lines(plan, side.q_hbqd, start)
    dq_gbtd = product("gbtk,gbkd->gbtd", ds_gbtk, side.k_hbkd)
    dk_gbkd = _over_lines("gb", ds_gbtk, q_gbtd)
    dfar_gcd = dnear_gcd = None
    if side.far_hcd is not None:
        de_gnbsc = unskew(_split(plan, ds_gbtk), plan.tile - 1)
        dq_gbtd += _whole(product("gnbsc,gncd->gnbsd", de_gnbsc, _far_windows(plan, side, start)))
        dfar_gcd = _merged(plan, _over_lines("gn", de_gnbsc, _split(plan, q_gbtd)))
    if side.near_hcd is not None:
        df_gnbsc = unskew(_split(plan, ds_gbtk.swapaxes(-1, -2)), plan.tile)
        dk_gbkd += _whole(product("gnbsc,gncd->gnbsd", df_gnbsc, _near_windows(plan, side, start)))
        dnear_gcd = _merged(plan, _over_lines("gn", df_gnbsc, _split(plan, side.k_hbkd)))
    return Side(dq_gbtd, dk_gbkd, dv_gbkd, dfar_gcd, dnear_gcd, None)


def _over_lines(batch: str, x_lc: jax.Array, y_ld: jax.Array) -> jax.Array:
    """[*batch, c, d]: the transpose of `x` times `y`, summed over all lines that are not in `batch`.

    In float32 the product is written [d, c]: the other way XLA's product on CPUs takes twice as long. In bfloat16
    jaxlib 0.10.2 has no such product there, and fails when it runs.
    """
    lines = {"gb": "t", "gn": "bt"}[batch]
    if x_lc.dtype == jnp.float32:
        return product(f"{batch}{lines}c,{batch}{lines}d->{batch}dc", x_lc, y_ld).swapaxes(-1, -2)
    return product(f"{batch}{lines}c,{batch}{lines}d->{batch}cd", x_lc, y_ld)


def _scores(plan: Plan, side: Side, document_bk: jax.Array, start: jax.Array) -> jax.Array:
    """Scaled float32 scores [g, b, t, k] of a block."""
    q_gbtd = _lines(plan, side.q_hbqd, start)
    s_gbtk = product("gbtd,gbkd->gbtk", q_gbtd, side.k_hbkd)
    if side.far_hcd is not None:
        e_gnbsc = product("gnbsd,gncd->gnbsc", _split(plan, q_gbtd), _far_windows(plan, side, start))
        s_gbtk += _whole(skew(e_gnbsc, plan.tile - 1))
    if side.near_hcd is not None:
        f_gnbsc = product("gnbsd,gncd->gnbsc", _split(plan, side.k_hbkd), _near_windows(plan, side, start))
        s_gbtk += _whole(skew(f_gnbsc, plan.tile)).swapaxes(-1, -2)
    return s_gbtk * plan.scale


def _allowed(plan: Plan, document_bk: jax.Array, start: jax.Array) -> jax.Array:
    of_queries = jax.lax.dynamic_slice_in_dim(document_bk, start, plan.block, 1)
    return allowed_pairs(of_queries, document_bk)[None]


def _dropped(plan: Plan, x_gbtk: jax.Array, side: Side, start: jax.Array) -> jax.Array:
    if side.seed_hbq is None:
        return x_gbtk
    return dropped(x_gbtk, _lines(plan, side.seed_hbq, start), plan.rate)


def _starts(plan: Plan, side: Side) -> np.ndarray:
    return np.arange(0, side.k_hbkd.shape[2], plan.block, dtype=np.int32)


def _lines(plan: Plan, x_gbq: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x_gbq, start, plan.block, 2)


def _far_start(plan: Plan, side: Side, start: jax.Array) -> jax.Array:
    return side.k_hbkd.shape[2] - plan.block - start


def _far_windows(plan: Plan, side: Side, start: jax.Array) -> jax.Array:
    """[g, n, k + s, d]: for each tile of the block's queries its distances to all keys, its last query's first."""
    return _windows(plan, side.far_hcd, _far_start(plan, side, start), plan.block // plan.tile)


def _near_windows(plan: Plan, side: Side, start: jax.Array) -> jax.Array:
    """[g, n, t + s, d]: for each tile of keys its distances from the block's queries, its last key's first."""
    return _windows(plan, side.near_hcd, start, side.k_hbkd.shape[2] // plan.tile)


def _windows(plan: Plan, table_hcd: jax.Array, start: jax.Array, tiles: int) -> jax.Array:
    """[g, n, c, d]: overlapping parts of what a block sees of the table, each a tile before the last one."""
    length = table_hcd.shape[1] // 2
    seen_gcd = jax.lax.dynamic_slice_in_dim(table_hcd, start, length + plan.block, 1)
    size = length + plan.block - plan.tile * (tiles - 1)
    return jnp.stack([seen_gcd[:, n * plan.tile :][:, :size] for n in reversed(range(tiles))], axis=1)


def _merged(plan: Plan, window_gncd: jax.Array) -> jax.Array:
    """The transpose of cutting windows out of what a block sees: [g, k + t, d]."""
    g, n, c, d = window_gncd.shape
    steps = c // plan.tile
    x_gnmsd = window_gncd[:, ::-1].reshape(g, n, steps, plan.tile, d)
    # Window i's step m belongs to step i + m of the whole; the sum runs over the shorter of both.
    parts = [x_gnmsd[:, i] for i in range(n)] if n < steps else [x_gnmsd[:, :, m] for m in range(steps)]
    length = n + steps - 1
    whole = sum(
        jnp.pad(part, ((0, 0), (shift, length - shift - part.shape[1]), (0, 0), (0, 0)))
        for shift, part in enumerate(parts)
    )
    return whole.reshape(g, length * plan.tile, d)


def _split(plan: Plan, x_gbkd: jax.Array) -> jax.Array:
    """[g, b, k, d] to [g, n, b, s, d]: lines in tiles. Heads and tiles lead, as a product of each wants it."""
    return jnp.moveaxis(x_gbkd.reshape(*x_gbkd.shape[:2], -1, plan.tile, x_gbkd.shape[-1]), 2, 1)


def _whole(x_gnbsd: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    x = jnp.moveaxis(x_gnbsd, 1, 2)
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _add_at(total_gcd: jax.Array, part_gcd: jax.Array, start: jax.Array) -> jax.Array:
    old = jax.lax.dynamic_slice_in_dim(total_gcd, start, part_gcd.shape[1], 1)
    return jax.lax.dynamic_update_slice_in_dim(total_gcd, old + part_gcd, start, 1)


def _joined(part_sgbt: jax.Array) -> jax.Array:
    """[blocks, g, b, t, ...] to [g, b, q, ...]."""
    x = jnp.moveaxis(part_sgbt, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])
