"""Disentangled attention as one fused TPU kernel (Pallas): no gather, no scatter, no [length, length] array in memory.

Scores, softmax, dropout and mixing happen on the chip, forward and backward. tpu_plan.py says how the work is cut,
tpu_calls.py places it, tpu_kernels.py and tpu_scores.py do a tile of it, tpu_skew.py has the one unusual operation. The
relative tables are expanded to one row per distance before the kernel, and the gradients of those rows are summed up
after it.

The online softmax over tiles and the recomputation in the backward are those of FlashAttention-2 (Dao 2023).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention import tpu_calls
from deberta_jax.ops.attention.distances import expand
from deberta_jax.ops.attention.problem import Problem
from deberta_jax.ops.attention.tpu_kernels import Outputs, Saved
from deberta_jax.ops.attention.tpu_plan import Plan, make_plan, rows_at_distances
from deberta_jax.ops.attention.tpu_scores import Inputs
from deberta_jax.ops.attention.tpu_skew import LANES

TERMS = ("c2p", "p2c")
SMALLEST_HEAD = 16  # rows of a register of 16-bit numbers


def attend(problem: Problem, *, hardware_bits: bool = False, interpret: bool = False) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`.

    With `hardware_bits`, what dropout takes is drawn by the chip's own generator, seeded from the first seed of each
    head: cheaper, but other entries than elsewhere. With `interpret` it runs on any platform, slowly and without that.

    ValueError for what `unfit` says.
    """
    heads, head_size = problem.q_bqhd.shape[2:]
    why_not = unfit(heads, head_size, problem.terms)
    if why_not:
        raise ValueError(f"the TPU kernel is not made for {why_not}")
    return run(plan_for(problem, hardware_bits=hardware_bits, interpret=interpret), problem)


def unfit(heads: int, head_size: int, terms: tuple[str, ...]) -> str | None:
    """What the kernel is not made for in attention of this kind; None where it can be used."""
    others = [term for term in terms if term not in TERMS]
    if others:
        return f"the term {others[0]}"
    if head_size < SMALLEST_HEAD or LANES % head_size or heads % (LANES // head_size):
        return f"{heads} heads of {head_size}: {LANES} lanes must hold whole heads"
    return None


def plan_for(problem: Problem, **settings: int | bool) -> Plan:
    """The plan for a problem; `settings` are other arguments of `make_plan`."""
    return make_plan(
        *problem.q_bqhd.shape[:2],
        problem.row_of_distance,
        head_size=problem.q_bqhd.shape[3],
        terms=problem.terms,
        rate=0.0 if problem.seed_bhq is None else problem.rate,
        **settings,
    )


def run(plan: Plan, problem: Problem) -> jax.Array:
    """`attend` by a given plan."""
    padded = problem.padded(plan.length)
    batch, length, heads, _ = padded.q_bqhd.shape
    document_b1n = padded.document_bk[:, None]
    seed_bghn = seed_bh = None
    if plan.rate and plan.hardware_bits:
        seed_bh = padded.seed_bhq[:, :, 0]
    elif plan.rate:
        seed_bghn = padded.seed_bhq.reshape(batch, heads // plan.heads, plan.heads, length)
    x = Inputs(
        *(a_bnhd.reshape(batch, length, -1) for a_bnhd in (padded.q_bqhd, padded.k_bkhd, padded.v_bkhd)),
        _expanded(problem, problem.pos_k_rhd, plan.key_distances()) if "c2p" in plan.terms else None,
        _expanded(problem, problem.pos_q_rhd, plan.query_distances()) if "p2c" in plan.terms else None,
        jnp.where(document_b1n > 0, document_b1n, -1),
        document_b1n,
        seed_bghn,
        seed_bh,
    )
    return _fused(plan, x).reshape(padded.q_bqhd.shape)[:, : problem.q_bqhd.shape[1]]


def _expanded(problem: Problem, table_rhd: jax.Array, distances: np.ndarray) -> jax.Array:
    """[lane of all heads, distance], in float32: gradients are rounded once they have met in the table's row."""
    rows = rows_at_distances(problem.row_of_distance, distances)
    return expand(table_rhd.astype(jnp.float32), rows).reshape(distances.size, -1).T


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(plan: Plan, x: Inputs) -> jax.Array:
    return _fused_forward(plan, x)[0]


def _fused_forward(plan: Plan, x: Inputs):
    tables = (table if table is None else table.astype(x.q_il.dtype) for table in (x.pos_k_lr, x.pos_q_lr))
    x = Inputs(x.q_il, x.k_jl, x.v_jl, *tables, *x[5:])
    out = tpu_calls.forward(plan, x)
    return out.o_il, (x, out)


def _fused_backward(plan: Plan, residuals: tuple[Inputs, Outputs], do_bnm: jax.Array) -> tuple[Inputs]:
    x, out = residuals
    product_bnm = out.o_il.astype(jnp.float32) * do_bnm.astype(jnp.float32)
    delta_bnh = product_bnm.reshape(*do_bnm.shape[:2], -1, plan.head_size).sum(-1)
    delta_bghn = delta_bnh.swapaxes(1, 2).reshape(out.lse_hi.shape)
    grads = tpu_calls.backward(plan, x, Saved(do_bnm, out.lse_hi, delta_bghn))
    return (Inputs(*grads, document_1i=None, document_1j=None, seed_hi=None, seed_bh=None),)


_fused.defvjp(_fused_forward, _fused_backward)
