"""NVIDIA GPUs: cuDNN's fused attention over a bias made of the position terms (and its gradient of that bias).

cuDNN works in bfloat16, on even lengths. The public function of jax has no attention dropout, so this path has none.
"""

import jax
import jax.numpy as jnp

from deberta_jax.ops.attention.problem import Problem, allowed_pairs
from deberta_jax.ops.attention.softmax import MASKED_SCORE
from deberta_jax.ops.attention.xla import position_scores

DTYPE = jnp.bfloat16


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`. Raises ValueError for what cuDNN cannot do; `choice` sends nothing of it."""
    if problem.rate or problem.q_bqhd.dtype != DTYPE:
        raise ValueError(f"cuDNN attention has no dropout (rate {problem.rate}) and works in bfloat16")
    length = problem.q_bqhd.shape[1]
    padded = problem.padded(length + length % 2)
    allowed_bqk = allowed_pairs(padded.document_bk, padded.document_bk)
    o_bqhd = jax.nn.dot_product_attention(
        padded.q_bqhd,
        padded.k_bkhd,
        padded.v_bkhd,
        bias=bias(padded, allowed_bqk),
        scale=padded.scale,
        implementation="cudnn",
    )
    # A query that sees no key gets zeros; cuDNN would give the mean of all values.
    return jnp.where(allowed_bqk.any(-1)[..., None, None], o_bqhd, 0)[:, :length]


def bias(problem: Problem, allowed_bqk: jax.Array) -> jax.Array:
    """bfloat16 [b, h, q, k]: what is added to scale * (q . k)."""
    shape = (problem.q_bqhd.shape[0], problem.q_bqhd.shape[2], *allowed_bqk.shape[1:])
    b_bhqk = jnp.zeros(shape, jnp.float32)
    if problem.terms:
        b_bhqk += position_scores(problem).swapaxes(0, 1) * problem.scale
    return jnp.where(allowed_bqk[:, None], b_bhqk, MASKED_SCORE).astype(DTYPE)
