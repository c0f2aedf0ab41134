"""The formula with a gather for each position term; jax derives its gradient. Slow, and what the others must equal."""

import jax

from deberta_jax.ops.attention.parts import score_parts
from deberta_jax.ops.attention.problem import Problem, allowed_pairs
from deberta_jax.ops.attention.softmax import masked_softmax, mix
from deberta_jax.ops.dropout import dropped


def attend(problem: Problem) -> jax.Array:
    """[b, q, h, d], see `problem.Problem`."""
    p_hbqk = probabilities(problem)
    if problem.seed_bhq is not None:
        p_hbqk = dropped(p_hbqk, problem.seed_bhq.swapaxes(0, 1), problem.rate)
    return mix(p_hbqk, problem.v_bkhd)


def probabilities(problem: Problem) -> jax.Array:
    """float32 [h, b, q, k]: the softmax of each query's scores, before any dropout."""
    return masked_softmax(scores(problem), allowed_pairs(problem.document_bk, problem.document_bk))


def scores(problem: Problem) -> jax.Array:
    """Scaled float32 scores [h, b, q, k] of every position for every position."""
    return sum(score_parts(problem).values())
