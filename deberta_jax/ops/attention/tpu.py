"""Disentangled attention as one fused TPU kernel (Pallas): no gather, no scatter, no [length, length] array in memory.

Scores, softmax, dropout and mixing of a tile happen on the chip, forward and backward; see tpu_plan.py for how the work
is cut, tpu_kernels.py for a tile, tpu_skew.py for the one unusual operation. The relative tables are expanded to one
row per distance outside the kernel, which is also where their gradients are summed up again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention import tpu_kernels as kernels
from deberta_jax.ops.attention.tpu_plan import Plan, make_plan, rows_at_distances
from deberta_jax.ops.attention.tpu_skew import LANES

VMEM_BYTES = 96 << 20  # what a kernel may take of the 128 MiB of v5e and v6e, or of the 96 of v5p


def attend(
    q_bqhd: jax.Array,
    k_bkhd: jax.Array,
    v_bkhd: jax.Array,
    pos_k_rhd: jax.Array | None,
    pos_q_rhd: jax.Array | None,
    *,
    row_of_distance: np.ndarray,
    terms: tuple[str, ...],
    document_bk: jax.Array,
    row_seed_bhq: jax.Array | None,
    rate: float,
    hardware_bits: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """Mixed values [b, q, h, d] of self-attention, with gradients of both tables.

    `row_of_distance` [2 * length] gives the table's row for the distances -length .. length - 1. Query i may look at
    key j where document[i] == document[j] > 0; a query that may look nowhere gets zeros.
    """
    length, head_size = q_bqhd.shape[1], q_bqhd.shape[3]
    plan = make_plan(
        length, row_of_distance, head_size=head_size, terms=terms, rate=rate, hardware_bits=hardware_bits, interpret=interpret
    )
    return run_plan(
        plan, q_bqhd, k_bkhd, v_bkhd, pos_k_rhd, pos_q_rhd, row_of_distance, document_bk, row_seed_bhq
    )


def run_plan(
    plan: Plan, q_bqhd, k_bkhd, v_bkhd, pos_k_rhd, pos_q_rhd, row_of_distance, document_bk, row_seed_bhq
):
    """`attend` by a given plan."""
    batch, length, heads, head_size = q_bqhd.shape
    padding = plan.length - length
    pad = lambda a: jnp.pad(a.reshape(batch, length, -1), ((0, 0), (0, padding), (0, 0)))  # noqa: E731
    q, k, v = map(pad, (q_bqhd, k_bkhd, v_bkhd))
    document = jnp.pad(document_bk, ((0, 0), (0, padding)))[:, None]
    document_q = jnp.where(document > 0, document, -1)
    seed = None
    if plan.rate:
        seed = jnp.pad(row_seed_bhq, ((0, 0), (0, 0), (0, padding))).reshape(batch, -1, plan.heads, plan.length)
    flat = lambda t, dist: t[rows_at_distances(row_of_distance, dist)].reshape(dist.size, -1).T  # noqa: E731
    pk = flat(pos_k_rhd, plan.key_distances()) if "c2p" in plan.terms else None
    pq = flat(pos_q_rhd, plan.query_distances()) if "p2c" in plan.terms else None
    o = _fused(plan, q, k, v, pk, pq, document_q, document, seed)
    return o[:, :length].reshape(q_bqhd.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan, q, k, v, pk, pq, document_q, document_k, seed):
    return _forward(plan, q, k, v, pk, pq, document_q, document_k, seed)[0]


def _fused_forward(plan, *operands):
    o, lse = _forward(plan, *operands)
    return o, (operands, o, lse)


def _fused_backward(plan, residuals, do):
    operands, o, lse = residuals
    batch, length, _ = o.shape
    delta = (o.astype(jnp.float32) * do.astype(jnp.float32)).reshape(batch, length, -1, plan.head_size).sum(-1)
    delta = delta.transpose(0, 2, 1).reshape(lse.shape)
    grads = _backward(plan, operands, do, lse, delta)
    zeros = [None if a is None else np.zeros(a.shape, jax.dtypes.float0) for a in operands[5:]]
    return (*grads, *zeros)


_fused.defvjp(_fused_forward, _fused_backward)


def _specs(plan, query, key, present_k, present_q, seeded):
    """Block specs with maps from grid indices; query/key pick the tile from the last two grid axes."""
    tile, rows = plan.tile, plan.table_rows
    along_q = pl.BlockSpec((None, tile, LANES), lambda g, b, x, y: (b, query(x, y), g))
    along_k = pl.BlockSpec((None, tile, LANES), lambda g, b, x, y: (b, key(x, y), g))
    table = pl.BlockSpec((LANES, rows), lambda g, b, x, y: (g, 0))
    doc_q = pl.BlockSpec((None, 1, tile), lambda g, b, x, y: (b, 0, query(x, y)))
    doc_k = pl.BlockSpec((None, 1, tile), lambda g, b, x, y: (b, 0, key(x, y)))
    row = pl.BlockSpec((None, None, plan.heads, tile), lambda g, b, x, y: (b, g, 0, query(x, y)))
    inputs = kernels.Inputs(
        along_q, along_k, along_k, table if present_k else None, table if present_q else None, doc_q, doc_k,
        row if seeded else None,
    )
    return inputs, along_q, along_k, row, table


def _forward(plan, q, k, v, pk, pq, document_q, document_k, seed):
    batch, length, width = q.shape
    groups = width // LANES
    inputs, along_q, _, row, _ = _specs(plan, lambda x, y: x, lambda x, y: y, pk is not None, pq is not None, seed is not None)
    f32, dt = jnp.float32, q.dtype
    T = plan.tile
    scratch = kernels.ForwardScratch(
        pltpu.VMEM((T, T), f32), pltpu.VMEM((T, LANES), jnp.int32), pltpu.VMEM((LANES, T), dt),
        pltpu.VMEM((LANES, T), f32), pltpu.VMEM((plan.heads, T), f32), pltpu.VMEM((plan.heads, T), f32),
    )

    def body(x, o, l, *scr):
        kernels.forward(plan, x, kernels.Outputs(o, l), kernels.ForwardScratch(*scr))

    return pl.pallas_call(
        body,
        grid=(groups, batch, plan.tiles, plan.tiles),
        in_specs=[inputs],
        out_specs=[along_q, row],
        out_shape=[jax.ShapeDtypeStruct(q.shape, dt), jax.ShapeDtypeStruct((batch, groups, plan.heads, length), f32)],
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=plan.interpret,
        name="deberta_attention_forward",
    )(kernels.Inputs(q, k, v, pk, pq, document_q, document_k, seed))


def _backward(plan, operands, do, lse, delta):
    q, k, v, pk, pq, document_q, document_k, seed = operands
    batch, length, width = q.shape
    groups = width // LANES
    inputs, along_q, along_k, row, table = _specs(plan, lambda x, y: y, lambda x, y: x, pk is not None, pq is not None, seed is not None)
    f32, dt = jnp.float32, q.dtype
    T = plan.tile
    scratch = kernels.BackwardScratch(
        pltpu.VMEM((T, T), f32), pltpu.VMEM((T, LANES), jnp.int32), *[pltpu.VMEM((LANES, T), dt)] * 5,
        pltpu.VMEM((plan.tiles, LANES, T), f32), *[pltpu.VMEM((LANES, T), f32)] * 2,
    )
    whole = pl.BlockSpec((None, length, LANES), lambda g, b, x, y: (b, 0, g))
    grads = kernels.Gradients(whole, along_k, along_k, None if pk is None else table, None if pq is None else table)
    S = jax.ShapeDtypeStruct
    shapes = kernels.Gradients(
        *[S(q.shape, dt)] * 3, None if pk is None else S(pk.shape, f32), None if pq is None else S(pq.shape, f32)
    )

    def body(x, saved, grads, *scr):
        kernels.backward(plan, x, saved, grads, kernels.BackwardScratch(*scr))

    out = pl.pallas_call(
        body,
        grid=(groups, batch, plan.tiles, plan.tiles),
        in_specs=[inputs, kernels.Saved(along_q, row, row)],
        out_specs=[grads],
        out_shape=[shapes],
        scratch_shapes=list(scratch),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=plan.interpret,
        name="deberta_attention_backward",
    )(kernels.Inputs(*operands), kernels.Saved(do, lse, delta))[0]
    cast = lambda g, p: None if p is None else g.astype(p.dtype)  # noqa: E731
    return out.dq_nl, out.dk_jl, out.dv_jl, cast(out.dpos_k_lr, pk), cast(out.dpos_q_lr, pq)
