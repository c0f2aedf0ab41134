"""NVIDIA GPUs: cuDNN's fused attention over a bias made of the position terms (and its gradient of that bias).

cuDNN works in bfloat16, on even lengths. The public function of jax has no attention dropout, so this path has none.
"""

import jax
import jax.numpy as jnp

from deberta_jax.ops.attention.problem import Problem, allowed_pairs
from deberta_jax.ops.attention.xla import position_scores

DTYPE = jnp.bfloat16
HEAD_SIZES = 8, 128  # cuDNN takes multiples of the first up to the second
# Added to a score that must not be seen. jax's own masks have it too: with numbers near the largest of bfloat16 cuDNN
# subtracts wrongly where a query sees no key at all.
MASKED = -(2.0**41)


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`. Raises ValueError for what cuDNN cannot do; `choice` sends nothing of it."""
    if problem.rate or problem.q_bqhd.dtype != DTYPE:
        raise ValueError(f"cuDNN attention has no dropout (rate {problem.rate}) and works in bfloat16")
    length = problem.q_bqhd.shape[1]
    padded = problem.padded(length + length % 2).bound()
    allowed_bqk = allowed_pairs(padded.document_bk, padded.document_bk)
    # Without position terms a mask will do: a bias would have a gradient computed for nothing.
    hidden = {"bias": bias(padded, allowed_bqk)} if padded.terms else {"mask": allowed_bqk[:, None]}
    o_bqhd = jax.nn.dot_product_attention(
        padded.q_bqhd, padded.k_bkhd, padded.v_bkhd, scale=padded.scale, implementation="cudnn", **hidden
    )
    # A query that sees no key gets zeros; cuDNN would give the mean of all values.
    return jnp.where(allowed_bqk.any(-1)[..., None, None], o_bqhd, 0)[:, :length]


def bias(problem: Problem, allowed_bqk: jax.Array) -> jax.Array:
    """bfloat16 [b, h, q, k]: what is added to scale * (q . k)."""
    b_bhqk = position_scores(problem).swapaxes(0, 1) * problem.scale
    # Not by `where`, whose array of MASKED a scan over layers would make once, whole, and read at every layer.
    return (b_bhqk + (1 - allowed_bqk[:, None].astype(jnp.float32)) * MASKED).astype(DTYPE)
