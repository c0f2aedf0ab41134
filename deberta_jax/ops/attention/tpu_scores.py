"""What the forward and the backward TPU kernel have in common: the scores of a tile, and what dropout takes from it.

Scores are held keys first, [j, i], so that whatever belongs to a query (maximum, sum, log-sum, seed) is a row of lanes.
Letters: i queries and j keys of a tile; l the 128 lanes with the heads of a step side by side, d the lanes of one of
them; h the heads of a step; r the rows of the expanded tables. A product over l takes one operand with the lanes of the
other heads zeroed.

Exponentials are powers of two, so scores are multiplied by log2(e).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention.tpu_plan import Plan
from deberta_jax.ops.attention.tpu_skew import LANES, skew
from deberta_jax.ops.dropout import kept, threshold

MASKED = -1e30  # below every real score, and below the lowest maximum by more than an exponent's range


class Inputs(NamedTuple):
    """A tile's operands; None is a table of a term that is not used, or the seeds of the other kind of dropout."""

    q_il: jax.Ref
    k_jl: jax.Ref
    v_jl: jax.Ref
    pos_k_lr: jax.Ref | None
    pos_q_lr: jax.Ref | None
    document_1i: jax.Ref  # of the queries; negative where nothing may be seen
    document_1j: jax.Ref  # of the keys
    seed_hi: jax.Ref | None
    seed_bh: jax.Ref | None  # of the whole batch, for the hardware's generator

    def of_sequence(self, index: int) -> "Inputs":
        """Those of one sequence of a step."""
        return of_sequence(self, index, shared=("pos_k_lr", "pos_q_lr", "seed_bh"))


class Step(NamedTuple):
    """Where a kernel stands: one tile of one head. `head` counts within the lanes of a group."""

    group: jax.Array
    sequence: jax.Array
    query_tile: jax.Array
    key_tile: jax.Array
    head: jax.Array | int = 0

    @property
    def offset(self) -> jax.Array:
        return self.query_tile - self.key_tile


def of_sequence(refs, index: int, shared: tuple[str, ...] = ()):
    """A tuple of references to what the sequences of a step have side by side, for one of them."""
    return refs._replace(
        **{name: ref.at[index] for name, ref in refs._asdict().items() if ref is not None and name not in shared}
    )


def near_or_far(plan: Plan, step: Step, near: Callable[[], None], far: Callable[[], None]) -> None:
    """Runs what belongs to the tile's distance from the diagonal."""
    if plan.all_near:
        near()
        return
    low, high = plan.near
    is_near = (step.offset >= low) & (step.offset <= high)
    pl.when(is_near)(near)
    pl.when(~is_near)(far)


def near_scores(plan: Plan, step: Step, x: Inputs, document_jl: jax.Ref, score_ji: jax.Ref) -> None:
    """Writes a head's scores of a tile where each distance has its own row of the tables."""
    q_il, k_jl = only_head(plan, step, x.q_il[...]), only_head(plan, step, x.k_jl[...])
    for here in plan.blocks if "c2p" in plan.terms else ():
        e_ir = dot(plan, _rows(q_il, here), x.pos_k_lr[:, key_window(plan, step, here)], 1, 0)
        score_ji[:, here] = skew(e_ir, plan.interpret).T
    for here in plan.blocks:
        s_ji = dot(plan, x.k_jl[here, :], q_il, 1, 1)
        if "c2p" in plan.terms:
            s_ji += score_ji[here, :]
        if "p2c" in plan.terms:
            e_jr = dot(plan, _rows(k_jl, here), x.pos_q_lr[:, query_window(plan, step, here)], 1, 0)
            s_ji += skew(e_jr, plan.interpret)
        _write(plan, x, document_jl, score_ji, here, s_ji)


def far_scores(plan: Plan, step: Step, x: Inputs, document_jl: jax.Ref, score_ji: jax.Ref) -> None:
    """As `near_scores` where all distances have the same row: one number a query and one a key."""
    q_il, k_jl = only_head(plan, step, x.q_il[...]), only_head(plan, step, x.k_jl[...])
    if "c2p" in plan.terms:
        c2p_1i = dot(plan, x.pos_k_lr[:, far_keys(plan, step)], q_il, 0, 1)[:1]
    for here in plan.blocks:
        s_ji = dot(plan, x.k_jl[here, :], q_il, 1, 1)
        if "c2p" in plan.terms:
            s_ji += c2p_1i
        if "p2c" in plan.terms:
            p2c_jl = dot(plan, _rows(k_jl, here), x.pos_q_lr[:, far_queries(plan, step)], 1, 0)
            s_ji += spread(p2c_jl, plan.tile)
        _write(plan, x, document_jl, score_ji, here, s_ji)


def _write(plan: Plan, x: Inputs, document_jl: jax.Ref, score_ji: jax.Ref, here: pl.Slice, s_ji: jax.Array) -> None:
    same_ji = spread(document_jl[here, :], plan.tile) == x.document_1i[...]
    score_ji[here, :] = jnp.where(same_ji, s_ji * (plan.scale * math.log2(math.e)), MASKED)


def key_window(plan: Plan, step: Step, here: pl.Slice) -> pl.Slice:
    """The rows of the table of c2p that a block of queries needs."""
    return pl.ds(pl.multiple_of(plan.key_window(step.offset, here.start), LANES), plan.window)


def query_window(plan: Plan, step: Step, here: pl.Slice) -> pl.Slice:
    """The rows of the table of p2c that a block of keys needs."""
    return pl.ds(pl.multiple_of(plan.query_window(step.offset, here.start), LANES), plan.window)


def far_keys(plan: Plan, step: Step) -> pl.Slice:
    """128 rows of the table of c2p that are all the tile's one."""
    return _edge(plan, step.offset > 0)


def far_queries(plan: Plan, step: Step) -> pl.Slice:
    """128 rows of the table of p2c that are all the tile's one."""
    return _edge(plan, step.offset < 0)


def _edge(plan: Plan, first: jax.Array) -> pl.Slice:
    return pl.ds(pl.multiple_of(jnp.where(first, 0, plan.table_rows - LANES), LANES), LANES)


def dropout(plan: Plan, step: Step, x: Inputs) -> Callable[[pl.Slice], Callable[[jax.Array], jax.Array]]:
    """dropout(...)(here) is a function that zeroes what is dropped from block `here` of [j, i].

    The blocks must be asked for in order: the hardware's generator goes on from one to the next.
    """
    if plan.rate == 0:
        return lambda here: lambda a_ji: a_ji
    keeps = _drawn(plan, step, x) if plan.hardware_bits else _hashed(plan, step, x)

    def only_kept(here):
        keep_ji = keeps(here)
        return lambda a_ji: jnp.where(keep_ji, a_ji, 0)

    return only_kept


def _hashed(plan: Plan, step: Step, x: Inputs) -> Callable[[pl.Slice], jax.Array]:
    seed_1i = x.seed_hi[pl.ds(step.head, 1), :]
    j = lax.broadcasted_iota(jnp.int32, (plan.block, plan.tile), 0) + step.key_tile * plan.tile
    return lambda here: kept(seed_1i, j + here.start, plan.rate)


def _drawn(plan: Plan, step: Step, x: Inputs) -> Callable[[pl.Slice], jax.Array]:
    seed = x.seed_bh[step.sequence, step.group * plan.heads + step.head]
    pltpu.prng_seed(seed, step.query_tile * plan.tiles + step.key_tile)
    shape = (plan.block, plan.tile)
    return lambda here: lax.bitcast_convert_type(pltpu.prng_random_bits(shape), jnp.int32) >= threshold(plan.rate)


def only_head(plan: Plan, step: Step, a_nl: jax.Array) -> jax.Array:
    """`a_nl` with the lanes of other heads zeroed."""
    if plan.heads == 1:
        return a_nl
    lane_nl = lax.broadcasted_iota(jnp.int32, a_nl.shape, 1) - step.head * plan.head_size
    return jnp.where((lane_nl >= 0) & (lane_nl < plan.head_size), a_nl, jnp.zeros_like(a_nl))


def head_rows(plan: Plan, head: jax.Array | int) -> pl.Slice:
    """The rows of a head in an array [l, ...]."""
    return pl.ds(pl.multiple_of(head * plan.head_size, plan.head_size), plan.head_size)


def _rows(a_nl: jax.Array, here: pl.Slice) -> jax.Array:
    return lax.slice_in_dim(a_nl, here.start, here.start + here.size)


def columns(a_1j: jax.Array) -> jax.Array:
    """A row [1, j] as a column in every lane, [j, l]."""
    return jnp.broadcast_to(a_1j, (LANES, a_1j.shape[1])).T


def spread(a_jl: jax.Array, width: int) -> jax.Array:
    """A column in every lane, in `width` lanes."""
    return jnp.concatenate([a_jl] * (width // LANES), axis=1)


def dot(plan: Plan, a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    """Product over axis `a_axis` of `a` and `b_axis` of `b`, in float32; exact products of float32 operands."""
    if plan.interpret:  # XLA on CPUs lacks some products of 16-bit numbers
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
