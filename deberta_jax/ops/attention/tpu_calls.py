"""The two Pallas calls: which block of each operand a grid step sees, and the memory that steps share."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from deberta_jax.ops.attention import tpu_kernels as kernels
from deberta_jax.ops.attention.tpu_plan import Plan
from deberta_jax.ops.attention.tpu_scores import Inputs
from deberta_jax.ops.attention.tpu_skew import LANES

VMEM_BYTES = 64 << 20  # what a kernel may take; chips have 96 or 128 MiB, and other operations like some too


def forward(plan: Plan, x: Inputs) -> kernels.Outputs:
    """Output and log-sum-exp of all queries; `x` are whole arrays, positions by lanes of all heads."""
    blocks = Blocks(plan, queries_inner=False)
    batch, length, lanes = x.q_il.shape
    lse_shape = (batch, lanes // LANES, plan.heads, length)
    row = pltpu.VMEM((plan.sequences, plan.heads, plan.tile), jnp.float32)
    scratch = kernels.ForwardScratch(
        score_aji=pltpu.VMEM((plan.sequences, plan.abreast, plan.tile, plan.tile), jnp.float32),
        document_jl=pltpu.VMEM((plan.sequences, plan.tile, LANES), jnp.int32),
        v_lj=pltpu.VMEM((plan.sequences, LANES, plan.tile), x.v_jl.dtype),
        o_li=pltpu.VMEM((plan.sequences, LANES, plan.tile), jnp.float32),
        maximum_hi=row,
        sum_hi=row,
    )
    specs = kernels.Outputs(blocks.positions(of_queries=True), blocks.numbers())
    shapes = kernels.Outputs(_like(x.q_il), jax.ShapeDtypeStruct(lse_shape, jnp.float32))
    call = _call(plan, kernels.forward, x, (blocks.inputs(x),), specs, shapes, scratch)
    return call(x)


def backward(plan: Plan, x: Inputs, saved: kernels.Saved) -> kernels.Gradients:
    """Gradients of all operands; those of the tables in float32."""
    blocks = Blocks(plan, queries_inner=True)
    turned = pltpu.VMEM((plan.sequences, LANES, plan.tile), x.q_il.dtype)
    total = pltpu.VMEM((plan.sequences, LANES, plan.tile), jnp.float32)
    scratch = kernels.BackwardScratch(
        score_aji=pltpu.VMEM((plan.sequences, plan.abreast, plan.tile, plan.tile), jnp.float32),
        document_jl=pltpu.VMEM((plan.sequences, plan.tile, LANES), jnp.int32),
        q_li=turned,
        k_lj=turned,
        do_li=turned,
        q_reversed_li=turned,
        k_reversed_lj=turned,
        dq_tli=pltpu.VMEM((plan.sequences, plan.tiles, LANES, plan.tile), jnp.float32),
        dk_lj=total,
        dv_lj=total,
    )
    queries, keys, inputs = blocks.positions(of_queries=True), blocks.positions(of_queries=False), blocks.inputs(x)
    specs = kernels.Gradients(blocks.sequence(), keys, keys, inputs.pos_k_lr, inputs.pos_q_lr)
    tables = (None if table is None else _like(table, jnp.float32) for table in (x.pos_k_lr, x.pos_q_lr))
    shapes = kernels.Gradients(_like(x.q_il), _like(x.k_jl), _like(x.v_jl), *tables)
    in_specs = (inputs, kernels.Saved(queries, blocks.numbers(), blocks.numbers()))
    return _call(plan, kernels.backward, x, in_specs, specs, shapes, scratch)(x, saved)


class Blocks:
    """Block specifications for a grid (group of heads, sequence, tile, tile), tiles of queries outside or inside."""

    def __init__(self, plan: Plan, queries_inner: bool):
        self.plan, self.queries_inner = plan, queries_inner

    def inputs(self, x: Inputs) -> Inputs:
        table = pl.BlockSpec((LANES, self.plan.table_rows), lambda group, *_: (group, 0))
        return Inputs(
            q_il=self.positions(of_queries=True),
            k_jl=self.positions(of_queries=False),
            v_jl=self.positions(of_queries=False),
            pos_k_lr=None if x.pos_k_lr is None else table,
            pos_q_lr=None if x.pos_q_lr is None else table,
            document_1i=self.documents(of_queries=True),
            document_1j=self.documents(of_queries=False),
            seed_hi=None if x.seed_hi is None else self.numbers(),
            seed_bh=None if x.seed_bh is None else pl.BlockSpec(memory_space=pltpu.SMEM),
        )

    def positions(self, of_queries: bool) -> pl.BlockSpec:
        """A tile of [sequence, position, lane]."""
        tile = self._tile(of_queries)
        return pl.BlockSpec(
            (self.plan.sequences, self.plan.tile, LANES), lambda group, b, *tiles: (b, tile(tiles), group)
        )

    def sequence(self) -> pl.BlockSpec:
        """All positions of [sequence, position, lane]."""
        return pl.BlockSpec((self.plan.sequences, self.plan.length, LANES), lambda group, b, *_: (b, 0, group))

    def documents(self, of_queries: bool) -> pl.BlockSpec:
        """A tile of [sequence, 1, position]."""
        tile = self._tile(of_queries)
        return pl.BlockSpec((self.plan.sequences, 1, self.plan.tile), lambda group, b, *tiles: (b, 0, tile(tiles)))

    def numbers(self) -> pl.BlockSpec:
        """A tile of queries of [sequence, group, head, query]."""
        tile, block = self._tile(of_queries=True), (self.plan.sequences, None, self.plan.heads, self.plan.tile)
        return pl.BlockSpec(block, lambda group, b, *tiles: (b, group, 0, tile(tiles)))

    def _tile(self, of_queries: bool) -> Callable[[tuple[jax.Array, jax.Array]], jax.Array]:
        return lambda tiles: tiles[of_queries == self.queries_inner]


def _call(plan: Plan, kernel, x: Inputs, in_specs, out_specs, out_shape, scratch):
    batch, _, lanes = x.q_il.shape
    call = pl.pallas_call(
        functools.partial(kernel, plan),
        name=f"deberta_attention_{kernel.__name__}",
        grid=(lanes // LANES, batch // plan.sequences, plan.tiles, plan.tiles),
        in_specs=in_specs,
        out_specs=[out_specs],
        out_shape=[out_shape],
        scratch_shapes=[scratch],
        compiler_params=pltpu.CompilerParams(
            # Sums grow from step to step; only groups of heads have nothing in common.
            dimension_semantics=("parallel", "arbitrary", "arbitrary", "arbitrary"),
            vmem_limit_bytes=VMEM_BYTES,
        ),
        interpret=plan.interpret,
    )
    return lambda *operands: call(*operands)[0]


def _like(a: jax.Array, dtype: jnp.dtype | None = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype)
