"""Which implementation of disentangled attention runs, and why."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deberta_jax.ops.attention import blockwise, gpu, reference, xla
from deberta_jax.ops.attention.problem import Problem

AUTO = "auto"
LONG = 1024  # [h, q, k] arrays of longer rows fill a memory; beyond, blocks are computed twice instead
LANES = 128  # of a TPU's vector registers


class Choice(NamedTuple):
    name: str
    why: str


class Facts(NamedTuple):
    """What the choice depends on."""

    platform: str  # of jax: cpu, gpu (cuda, rocm), tpu
    length: int
    heads: int
    head_size: int
    terms: tuple[str, ...]
    dtype: jnp.dtype
    rate: float  # of dropout on the probabilities, 0 when deterministic
    heads_split: bool  # over devices


def choose(asked: str, facts: Facts) -> Choice:
    """The implementation for `asked`, which is "auto" or a name."""
    if asked != AUTO:
        return Choice(asked, "as asked")
    if "p2p" in facts.terms:
        return Choice("xla", "position to position has no other form")
    if facts.platform == "cpu":
        return Choice("blockwise", "the fastest on CPUs")
    if facts.platform == "tpu":
        return Choice("blockwise", "no kernel")
    if facts.length > LONG:
        return Choice("blockwise", f"rows of more than {LONG} tokens")
    if facts.rate:
        return Choice("xla", "cuDNN's attention has no dropout here; model.attention_dropout=0 allows it")
    if facts.dtype != gpu.DTYPE:
        return Choice("xla", "cuDNN's attention works in bfloat16")
    return Choice("gpu", "cuDNN")


def heads_at_once(platform: str, *, heads_split: bool) -> int | None:
    """How many heads the loops of `blockwise` and `chosen` take together: one on CPUs, elsewhere all (None)."""
    return 1 if platform == "cpu" and not heads_split else None


def implementation(name: str, facts: Facts) -> Callable[[Problem], jax.Array]:
    """The function of this name."""
    return {
        "reference": reference.attend,
        "xla": xla.attend,
        "blockwise": functools.partial(
            blockwise.attend, heads=heads_at_once(facts.platform, heads_split=facts.heads_split)
        ),
        "gpu": gpu.attend,
    }[name]


def attend(problem: Problem, asked: str, facts: Facts) -> jax.Array:
    """[b, q, h, d] by the implementation that `choose` names."""
    return implementation(choose(asked, facts).name, facts)(problem)
