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
from deberta_jax.ops.attention.tpu_kernels import Outputs, Saved
from deberta_jax.ops.attention.tpu_plan import Plan, make_plan, rows_at_distances
from deberta_jax.ops.attention.tpu_scores import Inputs
from deberta_jax.ops.attention.tpu_skew import LANES

SUPPORTED_TERMS = ("c2p", "p2c")
SMALLEST_HEAD = 16  # rows of a register of 16-bit numbers


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

    Attention dropout at `rate` keeps a probability by `tpu_scores.hash_bits` of its row's seed and its key's number or,
    with `hardware_bits`, by the chip's own generator, seeded from them: cheaper, but other bits than elsewhere.

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
        # float32, so that the gradients of many distances are rounded once, after they have met in their row.
        rows = rows_at_distances(row_of_distance, distances)
        return table_rhd.astype(jnp.float32)[rows].reshape(distances.size, -1).T

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
