"""Disentangled attention as one fused TPU kernel (Pallas): no gather, no scatter, no [length, length] array in memory.

Scores, softmax, dropout and mixing happen on the chip, forward and backward. tpu_plan.py says how the work is cut,
tpu_kernels.py and tpu_scores.py do a tile of it, tpu_skew.py is the one unusual operation. The relative tables are
expanded to one row per distance before the kernel, and the gradients of those rows summed up after it.

The online softmax over tiles and the recomputation in the backward are those of FlashAttention-2 (Dao 2023).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention import tpu_kernels as kernels
from deberta_jax.ops.attention.tpu_plan import Plan, make_plan, rows_at_distances
from deberta_jax.ops.attention.tpu_scores import Inputs
from deberta_jax.ops.attention.tpu_skew import LANES

SUPPORTED_TERMS = ("c2p", "p2c")
SMALLEST_HEAD = 16  # rows of a register of 16-bit numbers
VMEM_BYTES = 96 << 20  # a kernel may take; v5e and v6e have 128 MiB


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
    """Mixed values [b, q, h, d] of disentangled self-attention, in the dtype of the values.

    `terms` are of c2p (needs pos_k) and p2c (needs pos_q). `row_of_distance` [2 * length] gives the table's row for the
    distances -length .. length - 1. Query i may look at key j where document[i] == document[j] > 0; a query that may
    look nowhere gets zeros.

    Attention dropout at `rate` keeps a probability by `tpu_scores.hash_bits` of its row's seed and its key's number, or,
    with `hardware_bits`, by the chip's generator seeded from them: cheaper, but other bits than elsewhere.

    ValueError for terms or sizes of heads that the kernel is not made for: 128 lanes must hold whole heads.
    """
    _check(q_bqhd.shape, terms)
    plan = make_plan(
        q_bqhd.shape[1],
        row_of_distance,
        head_size=q_bqhd.shape[3],
        terms=terms,
        rate=rate,
        hardware_bits=hardware_bits,
        interpret=interpret,
    )
    return run(plan, q_bqhd, k_bkhd, v_bkhd, pos_k_rhd, pos_q_rhd, row_of_distance, document_bk, row_seed_bhq)


def _check(shape: tuple[int, ...], terms: tuple[str, ...]) -> None:
    _, _, heads, head_size = shape
    if not set(terms) <= set(SUPPORTED_TERMS):
        raise ValueError(f"the TPU kernel has the terms {SUPPORTED_TERMS}, not {terms}")
    if head_size < SMALLEST_HEAD or LANES % head_size or heads % (LANES // head_size):
        raise ValueError(f"the TPU kernel needs whole heads in {LANES} lanes, not {heads} heads of {head_size}")


def run(
    plan: Plan,
    q_bqhd: jax.Array,
    k_bkhd: jax.Array,
    v_bkhd: jax.Array,
    pos_k_rhd: jax.Array | None,
    pos_q_rhd: jax.Array | None,
    row_of_distance: np.ndarray,
    document_bk: jax.Array,
    row_seed_bhq: jax.Array | None,
) -> jax.Array:
    """`attend` by a given plan."""
    batch, length, heads, _ = q_bqhd.shape
    missing = plan.length - length

    def merge(a_bnhd):
        return jnp.pad(a_bnhd.reshape(batch, length, -1), ((0, 0), (0, missing), (0, 0)))

    def expand(table_rhd, distances):
        return table_rhd[rows_at_distances(row_of_distance, distances)].reshape(distances.size, -1).T

    document_b1n = jnp.pad(document_bk, ((0, 0), (0, missing)))[:, None]
    seed_bghn = seed_bh = None
    if plan.rate and plan.hardware_bits:
        seed_bh = row_seed_bhq[:, :, 0]
    elif plan.rate:
        seed_bhn = jnp.pad(row_seed_bhq, ((0, 0), (0, 0), (0, missing)))
        seed_bghn = seed_bhn.reshape(batch, heads // plan.heads, plan.heads, plan.length)
    o_bnm = _fused(
        plan,
        Inputs(
            *map(merge, (q_bqhd, k_bkhd, v_bkhd)),
            expand(pos_k_rhd, plan.key_distances()) if "c2p" in plan.terms else None,
            expand(pos_q_rhd, plan.query_distances()) if "p2c" in plan.terms else None,
            jnp.where(document_b1n > 0, document_b1n, -1),
            document_b1n,
            seed_bghn,
            seed_bh,
        ),
    )
    return o_bnm[:, :length].reshape(q_bqhd.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan: Plan, x: Inputs) -> jax.Array:
    return _forward(plan, x).o_il


def _fused_forward(plan: Plan, x: Inputs):
    out = _forward(plan, x)
    return out.o_il, (x, out)


def _fused_backward(plan: Plan, residuals: tuple[Inputs, kernels.Outputs], do_bnm: jax.Array) -> tuple[Inputs]:
    x, out = residuals
    product_bnm = out.o_il.astype(jnp.float32) * do_bnm.astype(jnp.float32)
    delta_bnh = product_bnm.reshape(*do_bnm.shape[:2], -1, plan.head_size).sum(-1)
    delta_bghn = delta_bnh.swapaxes(1, 2).reshape(out.lse_hi.shape)
    grads = _backward(plan, x, kernels.Saved(do_bnm, out.lse_hi, delta_bghn))
    tables = (
        None if table is None else table.astype(x.q_il.dtype)
        for table in (grads.dpos_k_lr, grads.dpos_q_lr)
    )
    return (Inputs(grads.dq_nl, grads.dk_jl, grads.dv_jl, *tables, None, None, None, None),)


_fused.defvjp(_fused_forward, _fused_backward)


class _Blocks:
    """Block specifications for a grid (group, sequence, outer, inner) whose last two axes are tiles."""

    def __init__(self, plan: Plan, queries_inner: bool):
        self.plan, self.queries_inner = plan, queries_inner

    def tiles(self, of_queries: bool) -> pl.BlockSpec:
        """Of [sequence, position, lane of all heads]."""
        tile = self._tile(of_queries)
        return pl.BlockSpec((None, self.plan.tile, LANES), lambda g, b, *at: (b, tile(at), g))

    def document(self, of_queries: bool) -> pl.BlockSpec:
        """Of [sequence, 1, position]."""
        tile = self._tile(of_queries)
        return pl.BlockSpec((None, 1, self.plan.tile), lambda g, b, *at: (b, 0, tile(at)))

    def numbers(self) -> pl.BlockSpec:
        """Of [sequence, group, head, query]."""
        tile = self._tile(of_queries=True)
        return pl.BlockSpec((None, None, self.plan.heads, self.plan.tile), lambda g, b, *at: (b, g, 0, tile(at)))

    def table(self) -> pl.BlockSpec:
        """Of [lane of all heads, row]."""
        return pl.BlockSpec((LANES, self.plan.table_rows), lambda g, *at: (g, 0))

    def whole(self) -> pl.BlockSpec:
        """Of [sequence, position, lane of all heads], all positions."""
        return pl.BlockSpec((None, self.plan.length, LANES), lambda g, b, *at: (b, 0, g))

    def _tile(self, of_queries: bool):
        return lambda at: at[of_queries == self.queries_inner]

    def inputs(self, x: Inputs) -> Inputs:
        return Inputs(
            self.tiles(True),
            self.tiles(False),
            self.tiles(False),
            None if x.pos_k_lr is None else self.table(),
            None if x.pos_q_lr is None else self.table(),
            self.document(True),
            self.document(False),
            None if x.seed_hi is None else self.numbers(),
            None if x.seed_bh is None else pl.BlockSpec(memory_space=pltpu.SMEM),
        )


def _forward(plan: Plan, x: Inputs) -> kernels.Outputs:
    blocks = _Blocks(plan, queries_inner=False)
    batch, length, lanes = x.q_il.shape
    lse_shape = (batch, lanes // LANES, plan.heads, length)
    tile, f32 = plan.tile, jnp.float32
    return _call(
        plan,
        kernels.forward,
        "deberta_attention_forward",
        (x,),
        (blocks.inputs(x),),
        kernels.Outputs(blocks.tiles(True), blocks.numbers()),
        kernels.Outputs(_like(x.q_il), jax.ShapeDtypeStruct(lse_shape, f32)),
        kernels.ForwardScratch(
            score_aji=pltpu.VMEM((plan.abreast, tile, tile), f32),
            document_jl=pltpu.VMEM((tile, LANES), jnp.int32),
            v_lj=pltpu.VMEM((LANES, tile), x.v_jl.dtype),
            o_li=pltpu.VMEM((LANES, tile), f32),
            maximum_hi=pltpu.VMEM((plan.heads, tile), f32),
            sum_hi=pltpu.VMEM((plan.heads, tile), f32),
        ),
    )


def _backward(plan: Plan, x: Inputs, saved: kernels.Saved) -> kernels.Gradients:
    blocks = _Blocks(plan, queries_inner=True)
    tile, f32 = plan.tile, jnp.float32
    turned = pltpu.VMEM((LANES, tile), x.q_il.dtype)
    total = pltpu.VMEM((LANES, tile), f32)
    table_specs = (None if table is None else blocks.table() for table in (x.pos_k_lr, x.pos_q_lr))
    table_shapes = (None if table is None else _like(table, f32) for table in (x.pos_k_lr, x.pos_q_lr))
    return _call(
        plan,
        kernels.backward,
        "deberta_attention_backward",
        (x, saved),
        (blocks.inputs(x), kernels.Saved(blocks.tiles(True), blocks.numbers(), blocks.numbers())),
        kernels.Gradients(blocks.whole(), blocks.tiles(False), blocks.tiles(False), *table_specs),
        kernels.Gradients(_like(x.q_il), _like(x.k_jl), _like(x.v_jl), *table_shapes),
        kernels.BackwardScratch(
            score_aji=pltpu.VMEM((plan.abreast, tile, tile), f32),
            document_jl=pltpu.VMEM((tile, LANES), jnp.int32),
            q_li=turned,
            k_lj=turned,
            do_li=turned,
            q_reversed_li=turned,
            k_reversed_lj=turned,
            dq_tli=pltpu.VMEM((plan.tiles, LANES, tile), f32),
            dk_lj=total,
            dv_lj=total,
        ),
    )


def _call(plan: Plan, kernel, name: str, operands, in_specs, out_specs, out_shape, scratch):
    batch, _, lanes = operands[0].q_il.shape
    (results,) = pl.pallas_call(
        functools.partial(kernel, plan),
        name=name,
        grid=(lanes // LANES, batch, plan.tiles, plan.tiles),
        in_specs=in_specs,
        out_specs=[out_specs],
        out_shape=[out_shape],
        scratch_shapes=[scratch],
        compiler_params=pltpu.CompilerParams(
            # Tables' gradients grow from step to step, except that groups of heads have nothing in common.
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=plan.interpret,
    )(*operands)
    return results


def _like(a: jax.Array, dtype: jnp.dtype | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype)
