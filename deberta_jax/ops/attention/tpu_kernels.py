"""Bodies of the TPU kernels: what one tile adds to the output, or to the gradients. Letters as in tpu_scores.py.

A product that gives [d, ...] costs half of one that gives [..., l]: a matrix unit is twice as wide as a head. So
outputs and gradients are accumulated with the head size as their rows and turned once for all heads of a step.

Heads are done a few abreast, stage by stage: one's products run beside the other's exponentials.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from deberta_jax.ops.attention.tpu_plan import Plan
from deberta_jax.ops.attention.tpu_scores import (
    Inputs,
    Step,
    columns,
    dot,
    dropout,
    far_keys,
    far_queries,
    far_scores,
    head_rows,
    key_window,
    near_or_far,
    near_scores,
    of_sequence,
    only_head,
    query_window,
    spread,
)
from deberta_jax.ops.attention.tpu_skew import LANES, reverse, unskew_reversed
from deberta_jax.ops.dropout import kept_share

LOWEST = -1e20  # a maximum before the first key; no real score is below


class Outputs(NamedTuple):
    o_il: jax.Ref
    lse_hi: jax.Ref  # base 2


class Saved(NamedTuple):
    """What the backward needs besides: the output's gradient and two numbers a query."""

    do_il: jax.Ref
    lse_hi: jax.Ref
    delta_hi: jax.Ref  # sum of the output times its gradient


class Gradients(NamedTuple):
    dq_nl: jax.Ref  # of the whole sequence
    dk_jl: jax.Ref
    dv_jl: jax.Ref
    dpos_k_lr: jax.Ref | None
    dpos_q_lr: jax.Ref | None

    def of_sequence(self, index: int) -> "Gradients":
        """Those of one sequence of a step."""
        return of_sequence(self, index, shared=("dpos_k_lr", "dpos_q_lr"))


class ForwardScratch(NamedTuple):
    score_aji: jax.Ref  # a are the heads abreast
    document_jl: jax.Ref
    v_lj: jax.Ref
    o_li: jax.Ref
    maximum_hi: jax.Ref
    sum_hi: jax.Ref


class BackwardScratch(NamedTuple):
    score_aji: jax.Ref
    document_jl: jax.Ref
    q_li: jax.Ref
    k_lj: jax.Ref
    do_li: jax.Ref
    q_reversed_li: jax.Ref  # each block of lanes from the last to the first
    k_reversed_lj: jax.Ref
    dq_tli: jax.Ref  # t the query tiles
    dk_lj: jax.Ref
    dv_lj: jax.Ref


class Forward(NamedTuple):
    """All that belongs to one sequence of a step."""

    x: Inputs
    out: Outputs
    scratch: ForwardScratch


class Backward(NamedTuple):
    """All that belongs to one sequence of a step."""

    x: Inputs
    saved: Saved
    grads: Gradients
    scratch: BackwardScratch


def forward(plan: Plan, x: Inputs, out: Outputs, scratch: ForwardScratch) -> None:
    """Grid (group of heads, sequences, query tile, key tile): the mixed values of a query tile and its log-sum-exp."""
    at = Step(*map(pl.program_id, range(4)))
    each = [
        Forward(x.of_sequence(index), of_sequence(out, index), of_sequence(scratch, index))
        for index in range(plan.sequences)
    ]

    @pl.when(at.key_tile == 0)
    def _():
        scratch.o_li[...] = jnp.zeros_like(scratch.o_li)
        scratch.maximum_hi[...] = jnp.full_like(scratch.maximum_hi, LOWEST)
        scratch.sum_hi[...] = jnp.zeros_like(scratch.sum_hi)

    for refs in each:
        refs.scratch.v_lj[...] = refs.x.v_jl[...].T
        refs.scratch.document_jl[...] = columns(refs.x.document_1j[...])

    @pl.loop(0, plan.heads // plan.abreast)
    def _(index):
        work = _work(plan, at, index, each)
        _scores(plan, at, work)
        for step, refs, score_ji in work:
            _mix(plan, step, refs, score_ji)

    @pl.when(at.key_tile == plan.tiles - 1)
    def _():
        for refs in each:
            _finish(plan, refs.out, refs.scratch)


def _work(plan: Plan, at: Step, index: jax.Array, each: list) -> list[tuple[Step, Forward | Backward, jax.Ref]]:
    """What is computed together: heads abreast of the step's sequences, each with its references and its scores."""
    return [
        (
            at._replace(sequence=at.sequence * plan.sequences + number, head=index * plan.abreast + side),
            refs,
            refs.scratch.score_aji.at[side],
        )
        for number, refs in enumerate(each)
        for side in range(plan.abreast)
    ]


def _scores(plan: Plan, at: Step, work: list[tuple[Step, Forward | Backward, jax.Ref]]) -> None:
    def run(write):
        for step, refs, score_ji in work:
            write(plan, step, refs.x, refs.scratch.document_jl, score_ji)

    near_or_far(plan, at, lambda: run(near_scores), lambda: run(far_scores))


def _mix(plan: Plan, step: Step, refs: Forward, score_ji: jax.Ref) -> None:
    """Adds the values of a key tile to a head's output, which is not yet divided by the sum of the exponentials."""
    x, scratch = refs.x, refs.scratch
    row, rows = pl.ds(step.head, 1), head_rows(plan, step.head)
    before_1i = scratch.maximum_hi[row, :]
    maximum_1i = jnp.maximum(before_1i, jnp.max(score_ji[...], axis=0, keepdims=True))
    decay_1i = jnp.exp2(before_1i - maximum_1i)
    sum_1i = scratch.sum_hi[row, :] * decay_1i
    o_di = scratch.o_li[rows, :] * decay_1i
    only_kept = dropout(plan, step, x)
    for here in plan.blocks:
        p_ji = jnp.exp2(score_ji[here, :] - maximum_1i)
        sum_1i += jnp.sum(p_ji, axis=0, keepdims=True)
        o_di += dot(plan, scratch.v_lj[rows, here], only_kept(here)(p_ji).astype(x.v_jl.dtype), 1, 0)
    scratch.maximum_hi[row, :] = maximum_1i
    scratch.sum_hi[row, :] = sum_1i
    scratch.o_li[rows, :] = o_di


def _finish(plan: Plan, out: Outputs, scratch: ForwardScratch) -> None:
    """Divides by the sum of the exponentials; a query that may look nowhere gets zeros."""
    for head in range(plan.heads):
        row, rows = pl.ds(head, 1), head_rows(plan, head)
        sum_1i = scratch.sum_hi[row, :]
        scratch.o_li[rows, :] *= jnp.where(sum_1i > 0, 1 / (sum_1i * kept_share(plan.rate)), 0)
        lse_1i = scratch.maximum_hi[row, :] + jnp.log2(sum_1i)
        out.lse_hi[row, :] = jnp.where(sum_1i > 0, lse_1i, -LOWEST)
    out.o_il[...] = scratch.o_li[...].astype(out.o_il.dtype).T


def backward(plan: Plan, x: Inputs, saved: Saved, grads: Gradients, scratch: BackwardScratch) -> None:
    """Grid (group of heads, sequences, key tile, query tile): gradients; the tables' grow over the sequences."""
    group, sequence, key_tile, query_tile = map(pl.program_id, range(4))
    at = Step(group, sequence, query_tile, key_tile)
    each = [
        Backward(x.of_sequence(index), of_sequence(saved, index), grads.of_sequence(index), of_sequence(scratch, index))
        for index in range(plan.sequences)
    ]

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
        for refs in each:
            refs.scratch.dq_tli[query_tile] = jnp.zeros(refs.scratch.dq_tli.shape[1:], jnp.float32)

    for refs in each:
        _turn(plan, refs)

    @pl.loop(0, plan.heads // plan.abreast)
    def _(index):
        work = _work(plan, at, index, each)
        _scores(plan, at, work)
        for step, refs, score_ji in work:
            _content_gradients(plan, step, refs, score_ji)
        _position_gradients(plan, at, work)

    for refs in each:
        _turn_back(plan, at, refs)


def _turn_back(plan: Plan, at: Step, refs: Backward) -> None:
    """Writes the gradients that are complete."""
    grads, scratch = refs.grads, refs.scratch

    @pl.when(at.query_tile == plan.tiles - 1)
    def _():
        grads.dk_jl[...] = scratch.dk_lj[...].astype(grads.dk_jl.dtype).T
        grads.dv_jl[...] = (scratch.dv_lj[...] / plan.scale).astype(grads.dv_jl.dtype).T

    @pl.when(at.key_tile == plan.tiles - 1)
    def _():
        here = pl.ds(pl.multiple_of(at.query_tile * plan.tile, plan.tile), plan.tile)
        grads.dq_nl[here, :] = scratch.dq_tli[at.query_tile].astype(grads.dq_nl.dtype).T


def _turn(plan: Plan, refs: Backward) -> None:
    """Turns the operands, once for all heads of a step."""
    x, saved, _, scratch = refs
    scratch.document_jl[...] = columns(x.document_1j[...])
    scratch.q_li[...] = x.q_il[...].T
    scratch.k_lj[...] = x.k_jl[...].T
    scratch.do_li[...] = saved.do_il[...].T
    for here in plan.blocks:
        for source, target in ((x.q_il, scratch.q_reversed_li), (x.k_jl, scratch.k_reversed_lj)):
            target[:, here] = reverse(source[here, :].astype(jnp.float32), 0, plan.interpret).astype(source.dtype).T


def _content_gradients(plan: Plan, step: Step, refs: Backward, score_ji: jax.Ref) -> None:
    """Gradients of values, and of queries and keys by their products; writes the scores' in place of the scores.

    The probabilities here are scale / kept_share times the real ones, which saves a product per score.
    """
    x, saved, _, scratch = refs
    row, rows = pl.ds(step.head, 1), head_rows(plan, step.head)
    lse_1i = saved.lse_hi[row, :] - math.log2(plan.scale / kept_share(plan.rate))
    delta_1i = saved.delta_hi[row, :] * kept_share(plan.rate)
    do_il = only_head(plan, step, saved.do_il[...])
    dq_di = scratch.dq_tli[step.query_tile, rows, :]
    only_kept = dropout(plan, step, x)
    for here in plan.blocks:
        p_ji = jnp.exp2(score_ji[here, :] - lse_1i)
        keep = only_kept(here)
        ds_ji = p_ji * (keep(dot(plan, x.v_jl[here, :], do_il, 1, 1)) - delta_1i)
        score_ji[here, :] = ds_ji
        p_ji, ds_ji = keep(p_ji).astype(do_il.dtype), ds_ji.astype(do_il.dtype)
        scratch.dv_lj[rows, here] += dot(plan, scratch.do_li[rows, :], p_ji, 1, 1)
        scratch.dk_lj[rows, here] += dot(plan, scratch.q_li[rows, :], ds_ji, 1, 1)
        dq_di += dot(plan, scratch.k_lj[rows, here], ds_ji, 1, 0)
    scratch.dq_tli[step.query_tile, rows, :] = dq_di


def _position_gradients(plan: Plan, at: Step, work: list[tuple[Step, Backward, jax.Ref]]) -> None:
    """What positions add to the gradients of queries and keys, and the tables' own, from the scores' gradients."""

    def run(add):
        for step, refs, ds_ji in work:
            add(plan, step, refs, ds_ji)

    near_or_far(plan, at, lambda: run(_near_gradients), lambda: run(_far_gradients))


def _near_gradients(plan: Plan, step: Step, refs: Backward, ds_ji: jax.Ref) -> None:
    x, _, grads, scratch = refs
    rows, dtype = head_rows(plan, step.head), x.q_il.dtype
    for here in plan.blocks if "p2c" in plan.terms else ():
        window = query_window(plan, step, here)
        ds_jr = unskew_reversed(ds_ji[here, :], dtype, plan.interpret)
        dk_dj = dot(plan, x.pos_q_lr[rows, window], ds_jr, 1, 1)
        scratch.dk_lj[rows, here] += reverse(dk_dj, 1, plan.interpret)
        grads.dpos_q_lr[rows, window] += dot(plan, scratch.k_reversed_lj[rows, here], ds_jr, 1, 0)
    for here in plan.blocks if "c2p" in plan.terms else ():
        window = key_window(plan, step, here)
        ds_ij = ds_ji[:, here].astype(dtype).T.astype(jnp.float32)  # 16-bit numbers are turned at a third of the price
        ds_ir = unskew_reversed(ds_ij, dtype, plan.interpret)
        dq_di = dot(plan, x.pos_k_lr[rows, window], ds_ir, 1, 1)
        scratch.dq_tli[step.query_tile, rows, here] += reverse(dq_di, 1, plan.interpret)
        grads.dpos_k_lr[rows, window] += dot(plan, scratch.q_reversed_li[rows, here], ds_ir, 1, 0)


def _far_gradients(plan: Plan, step: Step, refs: Backward, ds_ji: jax.Ref) -> None:
    """One row of each table: sums over keys and over queries. Its gradient may lie on any of the row's 128 copies."""
    x, _, grads, scratch = refs
    rows, f32 = head_rows(plan, step.head), jnp.float32
    if "p2c" in plan.terms:
        row, ones = far_queries(plan, step), jnp.ones((16, plan.tile), x.k_jl.dtype)
        for here in plan.blocks:
            sum_1j = dot(plan, ones, ds_ji[here, :].astype(ones.dtype), 1, 1)[:1]
            scratch.dk_lj[rows, here] += spread(x.pos_q_lr[rows, row].astype(f32), plan.block) * sum_1j
            grads.dpos_q_lr[rows, row] += _fold(scratch.k_lj[rows, here].astype(f32) * sum_1j)
    if "c2p" in plan.terms:
        row, sum_1i = far_keys(plan, step), jnp.sum(ds_ji[...], axis=0, keepdims=True)
        scratch.dq_tli[step.query_tile, rows, :] += spread(x.pos_k_lr[rows, row].astype(f32), plan.tile) * sum_1i
        grads.dpos_k_lr[rows, row] += _fold(scratch.q_li[rows, :].astype(f32) * sum_1i)


def _fold(a_dn: jax.Array) -> jax.Array:
    """[d, n] as [d, 128]: the sum of its groups of lanes."""
    return sum(a_dn[:, start : start + LANES] for start in range(0, a_dn.shape[1], LANES))
