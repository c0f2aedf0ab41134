"""Bodies of the TPU kernels: one tile of scores and its part of the output, or of the gradients.

Scores are held keys first, [j, i], so that whatever belongs to a query (maximum, sum, log-sum, seed) is a row of lanes.
Letters: i queries and j keys of a tile; l the 128 lanes with the heads of a step side by side, d the lanes of one of
them; h the heads of a step; r the rows of the expanded tables. A product over l takes one operand with the lanes of the
other heads zeroed. A product that gives [d, ...] costs half of one that gives [..., l]: a matrix unit is twice as wide
as a head, and not as tall.

Exponentials are powers of two: scores are multiplied by log2(e), and so is the saved log-sum-exp.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention.tpu_plan import Plan
from deberta_jax.ops.attention.tpu_skew import LANES, reverse_lanes, reverse_rows, skew, unskew_reversed

LOWEST = -1e20  # no real score is below
MASKED = -1e30  # 2 ** (MASKED - LOWEST) is 0


class Inputs(NamedTuple):
    """A tile's operands; tables are None for terms that are not used, seeds without dropout."""

    q_il: jax.Ref
    k_jl: jax.Ref
    v_jl: jax.Ref
    pos_k_lr: jax.Ref | None
    pos_q_lr: jax.Ref | None
    document_1i: jax.Ref  # of the queries; negative at padding
    document_1j: jax.Ref  # of the keys; zero at padding
    seed_hi: jax.Ref | None


class Saved(NamedTuple):
    """What the backward needs besides: the output's gradient and two numbers a query."""

    do_il: jax.Ref
    lse_hi: jax.Ref
    delta_hi: jax.Ref  # sum of output times its gradient


class Outputs(NamedTuple):
    o_il: jax.Ref
    lse_hi: jax.Ref


class Gradients(NamedTuple):
    dq_nl: jax.Ref  # of the whole sequence
    dk_jl: jax.Ref
    dv_jl: jax.Ref
    dpos_k_lr: jax.Ref | None
    dpos_q_lr: jax.Ref | None


class ForwardScratch(NamedTuple):
    score_ji: jax.Ref
    document_jl: jax.Ref
    v_lj: jax.Ref
    o_li: jax.Ref
    maximum_hi: jax.Ref
    sum_hi: jax.Ref


class BackwardScratch(NamedTuple):
    score_ji: jax.Ref
    document_jl: jax.Ref
    q_li: jax.Ref
    k_lj: jax.Ref
    do_li: jax.Ref
    q_reversed_li: jax.Ref  # each block of lanes from the last to the first
    k_reversed_lj: jax.Ref
    dq_tli: jax.Ref  # t the query tiles
    dk_lj: jax.Ref
    dv_lj: jax.Ref


class Step(NamedTuple):
    """Where the kernel stands: a head of the step, the tile of queries and the tile of keys."""

    head: jax.Array
    query_tile: jax.Array
    key_tile: jax.Array


def forward(plan: Plan, x: Inputs, out: Outputs, scratch: ForwardScratch) -> None:
    """Grid (head group, sequence, query tile, key tile): the mixed values of a query tile, and their log-sum-exp."""
    query_tile, key_tile = pl.program_id(2), pl.program_id(3)

    @pl.when(key_tile == 0)
    def _():
        scratch.o_li[...] = jnp.zeros_like(scratch.o_li)
        scratch.maximum_hi[...] = jnp.full_like(scratch.maximum_hi, LOWEST)
        scratch.sum_hi[...] = jnp.zeros_like(scratch.sum_hi)

    scratch.v_lj[...] = x.v_jl[...].T
    scratch.document_jl[...] = _columns(x.document_1j[...])

    @pl.loop(0, plan.heads)
    def _(head):
        step = Step(head, query_tile, key_tile)
        _scores(plan, x, step, scratch.document_jl, scratch.score_ji)
        _mix(plan, x, step, scratch)

    @pl.when(key_tile == plan.tiles - 1)
    def _():
        _finish(plan, out, scratch)


def _mix(plan: Plan, x: Inputs, step: Step, scratch: ForwardScratch) -> None:
    """Adds the values of a key tile to a head's output, which is not yet divided by the sum of the exponentials."""
    row, rows = pl.ds(step.head, 1), _head_rows(plan, step.head)
    before_1i = scratch.maximum_hi[row, :]
    maximum_1i = jnp.maximum(before_1i, jnp.max(scratch.score_ji[...], axis=0, keepdims=True))
    decay_1i = jnp.exp2(before_1i - maximum_1i)
    sum_1i = scratch.sum_hi[row, :] * decay_1i
    o_di = scratch.o_li[rows, :] * decay_1i
    kept = _dropout(plan, x.seed_hi, step)
    for start in plan.starts:
        here = pl.ds(start, plan.block)
        p_ji = jnp.exp2(scratch.score_ji[here, :] - maximum_1i)
        sum_1i += jnp.sum(p_ji, axis=0, keepdims=True)
        p_ji = kept(start)(p_ji).astype(x.v_jl.dtype)
        o_di += _dot(scratch.v_lj[rows, here], p_ji, 1, 0)
    scratch.maximum_hi[row, :] = maximum_1i
    scratch.sum_hi[row, :] = sum_1i
    scratch.o_li[rows, :] = o_di


def _finish(plan: Plan, out: Outputs, scratch: ForwardScratch) -> None:
    """Divides by the sum of the exponentials; queries without any key get zeros."""
    for head in range(plan.heads):
        rows = _head_rows(plan, head)
        sum_1i = scratch.sum_hi[head : head + 1, :]
        some_1i = sum_1i > 0
        scratch.o_li[rows, :] *= jnp.where(some_1i, 1 / (sum_1i * plan.kept_share), 0)
        lse_1i = scratch.maximum_hi[head : head + 1, :] + jnp.log2(sum_1i)
        out.lse_hi[head : head + 1, :] = jnp.where(some_1i, lse_1i, -LOWEST)
    out.o_il[...] = scratch.o_li[...].astype(out.o_il.dtype).T


def backward(plan: Plan, x: Inputs, saved: Saved, grads: Gradients, scratch: BackwardScratch) -> None:
    """Grid (head group, sequence, key tile, query tile): gradients; the tables' grow over the sequences."""
    sequence, key_tile, query_tile = (pl.program_id(axis) for axis in (1, 2, 3))

    @pl.when((sequence == 0) & (key_tile == 0) & (query_tile == 0))
    def _():
        for dpos_lr in (grads.dpos_k_lr, grads.dpos_q_lr):
            if dpos_lr is not None:
                dpos_lr[...] = jnp.zeros_like(dpos_lr)

    @pl.when(query_tile == 0)
    def _():
        scratch.dk_lj[...] = jnp.zeros_like(scratch.dk_lj)
        scratch.dv_lj[...] = jnp.zeros_like(scratch.dv_lj)

    @pl.when(key_tile == 0)
    def _():
        scratch.dq_tli[query_tile] = jnp.zeros(scratch.dq_tli.shape[1:], jnp.float32)

    _turn(plan, x, saved, scratch)

    @pl.loop(0, plan.heads)
    def _(head):
        step = Step(head, query_tile, key_tile)
        _scores(plan, x, step, scratch.document_jl, scratch.score_ji)
        _content_gradients(plan, x, step, saved, scratch)
        _near_or_far(plan, step, lambda: _near_gradients(plan, x, step, grads, scratch), lambda: None)

    @pl.when(query_tile == plan.tiles - 1)
    def _():
        grads.dk_jl[...] = scratch.dk_lj[...].astype(grads.dk_jl.dtype).T
        grads.dv_jl[...] = (scratch.dv_lj[...] / plan.score_scale).astype(grads.dv_jl.dtype).T

    @pl.when(key_tile == plan.tiles - 1)
    def _():
        here = pl.ds(pl.multiple_of(query_tile * plan.tile, plan.tile), plan.tile)
        grads.dq_nl[here, :] = scratch.dq_tli[query_tile].astype(grads.dq_nl.dtype).T


def _turn(plan: Plan, x: Inputs, saved: Saved, scratch: BackwardScratch) -> None:
    """Transposed operands, once for all heads of a step."""
    scratch.document_jl[...] = _columns(x.document_1j[...])
    scratch.q_li[...] = x.q_il[...].T
    scratch.k_lj[...] = x.k_jl[...].T
    scratch.do_li[...] = saved.do_il[...].T
    for start in plan.starts:
        here = pl.ds(start, plan.block)
        for source, target in ((x.q_il, scratch.q_reversed_li), (x.k_jl, scratch.k_reversed_lj)):
            target[:, here] = reverse_rows(source[here, :].astype(jnp.float32)).astype(source.dtype).T


def _content_gradients(plan: Plan, x: Inputs, step: Step, saved: Saved, scratch: BackwardScratch) -> None:
    """Gradients of values, and of queries and keys by their products; leaves the scores' in place of the scores.

    The probabilities here are score_scale / kept_share times the real ones, which saves a product per score.
    """
    row, rows = pl.ds(step.head, 1), _head_rows(plan, step.head)
    lse_1i = saved.lse_hi[row, :] - math.log2(plan.score_scale / plan.kept_share)
    delta_1i = saved.delta_hi[row, :] * plan.kept_share
    do_il = _only(plan, step.head, saved.do_il[...])
    dq_di = scratch.dq_tli[step.query_tile, rows, :]
    kept = _dropout(plan, x.seed_hi, step)
    for start in plan.starts:
        here = pl.ds(start, plan.block)
        p_ji = jnp.exp2(scratch.score_ji[here, :] - lse_1i)
        keep = kept(start)
        ds_ji = p_ji * (keep(_dot(x.v_jl[here, :], do_il, 1, 1)) - delta_1i)
        scratch.score_ji[here, :] = ds_ji
        p_ji, ds_ji = keep(p_ji).astype(do_il.dtype), ds_ji.astype(do_il.dtype)
        scratch.dv_lj[rows, here] += _dot(scratch.do_li[rows, :], p_ji, 1, 1)
        scratch.dk_lj[rows, here] += _dot(scratch.q_li[rows, :], ds_ji, 1, 1)
        dq_di += _dot(scratch.k_lj[rows, here], ds_ji, 1, 0)
    scratch.dq_tli[step.query_tile, rows, :] = dq_di


def _near_gradients(plan: Plan, x: Inputs, step: Step, grads: Gradients, scratch: BackwardScratch) -> None:
    """What positions add to the gradients of queries and keys, and the tables' own, in a tile near the diagonal."""
    rows, dtype = _head_rows(plan, step.head), x.q_il.dtype
    for start in plan.starts if "p2c" in plan.terms else ():
        here, window = pl.ds(start, plan.block), _query_window(plan, step, start)
        ds_jr = unskew_reversed(scratch.score_ji[here, :], dtype, plan.interpret)
        scratch.dk_lj[rows, here] += reverse_lanes(_dot(x.pos_q_lr[rows, window], ds_jr, 1, 1))
        grads.dpos_q_lr[rows, window] += _dot(scratch.k_reversed_lj[rows, here], ds_jr, 1, 0)
    for start in plan.starts if "c2p" in plan.terms else ():
        here, window = pl.ds(start, plan.block), _key_window(plan, step, start)
        ds_ij = scratch.score_ji[:, here].astype(dtype).T  # the transposition of 16-bit numbers is cheaper
        ds_ir = unskew_reversed(ds_ij.astype(jnp.float32), dtype, plan.interpret)
        scratch.dq_tli[step.query_tile, rows, here] += reverse_lanes(_dot(x.pos_k_lr[rows, window], ds_ir, 1, 1))
        grads.dpos_k_lr[rows, window] += _dot(scratch.q_reversed_li[rows, here], ds_ir, 1, 0)


def _scores(plan: Plan, x: Inputs, step: Step, document_jl: jax.Ref, score_ji: jax.Ref) -> None:
    """Writes a head's scores, scaled and times log2(e), to `score_ji`; MASKED where a query may not look."""
    q_il, k_jl = _only(plan, step.head, x.q_il[...]), _only(plan, step.head, x.k_jl[...])

    def write(start, *position_ji):
        here = pl.ds(start, plan.block)
        s_ji = sum(position_ji, _dot(x.k_jl[here, :], q_il, 1, 1)) * (plan.score_scale * math.log2(math.e))
        same_ji = _spread(document_jl[here, :], plan.tile) == x.document_1i[...]
        score_ji[here, :] = jnp.where(same_ji, s_ji, MASKED)

    def near():
        for start in plan.starts if "c2p" in plan.terms else ():
            here, window = pl.ds(start, plan.block), _key_window(plan, step, start)
            e_ir = _dot(q_il[start : start + plan.block], x.pos_k_lr[:, window], 1, 0)
            score_ji[:, here] = skew(e_ir, plan.interpret).T
        for start in plan.starts:
            here, window = pl.ds(start, plan.block), _query_window(plan, step, start)
            position_ji = [score_ji[here, :]] if "c2p" in plan.terms else []
            if "p2c" in plan.terms:
                e_jr = _dot(k_jl[start : start + plan.block], x.pos_q_lr[:, window], 1, 0)
                position_ji.append(skew(e_jr, plan.interpret))
            write(start, *position_ji)

    _near_or_far(plan, step, near, lambda: None)


def _near_or_far(plan: Plan, step: Step, near, far) -> None:
    """Runs what belongs to the tile's distance from the diagonal."""
    if plan.all_near:
        near()
        return
    offset, (low, high) = step.query_tile - step.key_tile, plan.near
    is_near = (offset >= low) & (offset <= high)
    pl.when(is_near)(near)
    pl.when(~is_near)(far)


def _dropout(plan: Plan, seed_hi: jax.Ref | None, step: Step):
    """kept(start) is a function that zeroes what dropout takes from block `start` of [j, i]."""
    if plan.rate == 0:
        return lambda start: lambda a_ji: a_ji
    seed_1i = seed_hi[pl.ds(step.head, 1), :]

    def kept(start):
        j = step.key_tile * plan.tile + start + lax.broadcasted_iota(jnp.int32, (plan.block, plan.tile), 0)
        keep_ji = hash_bits(seed_1i, j) >= plan.threshold
        return lambda a_ji: jnp.where(keep_ji, a_ji, 0)

    return kept


def hash_bits(row_seed: jax.Array, column: jax.Array) -> jax.Array:
    """32 well-mixed bits, as int32, from the seed of a row of scores and a column's number."""
    x = row_seed ^ (column * _int32(0x9E3779B1))
    x = (x ^ lax.shift_right_logical(x, 16)) * _int32(0x85EBCA6B)
    return (x ^ lax.shift_right_logical(x, 13)) * _int32(0xC2B2AE35)


def _int32(bits: int) -> jax.Array:
    return jnp.int32(bits - (bits >> 31 << 32))


def _head_rows(plan: Plan, head) -> pl.Slice:
    return pl.ds(pl.multiple_of(head * plan.head_size, plan.head_size), plan.head_size)


def _key_window(plan: Plan, step: Step, start: int) -> pl.Slice:
    at = plan.key_window(step.query_tile - step.key_tile, start)
    return pl.ds(pl.multiple_of(at, LANES), plan.window)


def _query_window(plan: Plan, step: Step, start: int) -> pl.Slice:
    at = plan.query_window(step.query_tile - step.key_tile, start)
    return pl.ds(pl.multiple_of(at, LANES), plan.window)


def _only(plan: Plan, head: jax.Array, a_nl: jax.Array) -> jax.Array:
    """`a_nl` with the lanes of other heads zeroed."""
    lane_nl = lax.broadcasted_iota(jnp.int32, a_nl.shape, 1) - head * plan.head_size
    return jnp.where((lane_nl >= 0) & (lane_nl < plan.head_size), a_nl, jnp.zeros_like(a_nl))


def _columns(a_1j: jax.Array) -> jax.Array:
    """A row [1, j] as a column in every lane, [j, l]."""
    return jnp.broadcast_to(a_1j, (LANES, a_1j.shape[1])).T


def _spread(a_jl: jax.Array, width: int) -> jax.Array:
    """A column in every lane, as `width` lanes."""
    return jnp.concatenate([a_jl] * (width // LANES), axis=1)


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product over axis a_axis of `a` and b_axis of `b`, in float32; exact products of float32 operands."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
