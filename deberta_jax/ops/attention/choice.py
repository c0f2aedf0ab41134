"""Which implementation of disentangled attention runs, and why."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deberta_jax.errors import Refused
from deberta_jax.ops.attention import blockwise, by_device, gpu, reference, tpu, xla
from deberta_jax.ops.attention.by_device import Split
from deberta_jax.ops.attention.problem import Problem

AUTO = "auto"
# [h, q, k] arrays of longer rows fill a memory; beyond, blocks are computed twice instead.
LONG = 1024
LONG_ON_GPUS = 2048  # of bfloat16, for which `xla` keeps two such arrays of each layer; of float32 twice the bytes
LONG_FOR_CUDNN = 4096  # which keeps one


class Choice(NamedTuple):
    name: str
    why: str


class Facts(NamedTuple):
    """What the choice depends on."""

    platform: str  # of jax: cpu, gpu (cuda, rocm), tpu
    rows: int  # of the batch
    length: int
    heads: int
    head_size: int
    terms: tuple[str, ...]
    dtype: jnp.dtype
    rate: float  # of dropout on the probabilities, 0 when deterministic
    hardware_bits: bool  # for dropout
    devices: int = 1  # of the mesh
    split: Split = Split()  # of rows and heads over them

    @property
    def heads_split(self) -> bool:
        return self.split.heads > 1


def choose(asked: str, facts: Facts) -> Choice:
    """The implementation for `asked`, which is "auto" or a name. Raises Refused for one of another platform."""
    if asked != AUTO:
        why_not = without_kernel(facts) if asked == "tpu" else without_cudnn(facts) if asked == "gpu" else None
        if why_not:
            raise Refused(f"model.attention {asked!r}: {why_not}; 'auto' finds another")
        return Choice(asked, "as asked")
    if "p2p" in facts.terms:
        return Choice("xla", "position to position has no other form")
    if facts.platform == "cpu":
        return Choice("blockwise", "the fastest on CPUs")
    if facts.platform == "tpu":
        why_not = without_kernel(facts)
        return Choice("blockwise", why_not) if why_not else Choice("tpu", "the kernel")
    why_not = without_cudnn(facts)
    if facts.length > (_longest(facts.dtype) if why_not else LONG_FOR_CUDNN):
        return Choice("blockwise", f"rows of {facts.length} tokens" + (f"; {why_not}" if why_not else ""))
    return Choice("xla", why_not) if why_not else Choice("gpu", "cuDNN")


def _longest(dtype: jnp.dtype) -> int:
    """For which `xla` is taken on GPUs, where it passes the memory less than half as often as `blockwise`."""
    return LONG_ON_GPUS if dtype == gpu.DTYPE else LONG


def without_kernel(facts: Facts) -> str | None:
    """Why the TPU kernel cannot be used; None where it can."""
    if facts.platform != "tpu":
        return f"the kernel runs on TPUs, this is a {facts.platform}"
    why_not = facts.split.uneven(facts.rows, facts.heads)
    if why_not:
        return why_not
    why_not = tpu.unfit(facts.heads // facts.split.heads, facts.head_size, facts.terms)
    where = " on each device" if facts.heads_split else ""
    return why_not and f"the kernel is not made for {why_not}{where}"


def without_cudnn(facts: Facts) -> str | None:
    """Why cuDNN's attention cannot be used; None where it can."""
    if facts.platform in ("cpu", "tpu"):
        return f"cuDNN runs on GPUs, this is a {facts.platform}"
    if facts.rate:
        return "cuDNN's attention has no dropout here; model.attention_dropout=0 allows it"
    if facts.dtype != gpu.DTYPE:
        return "cuDNN's attention works in bfloat16"
    step, largest = gpu.HEAD_SIZES
    if facts.head_size % step or facts.head_size > largest:
        return f"cuDNN's attention is not made for heads of {facts.head_size}"
    return None


def heads_at_once(platform: str, *, heads_split: bool) -> int | None:
    """How many heads `blockwise` takes together: one on CPUs, elsewhere all (None)."""
    return 1 if platform == "cpu" and not heads_split else None


def decoder_heads_at_once(platform: str, length: int, *, heads_split: bool) -> int | None:
    """How many heads `chosen` takes together: of long rows one, since each makes a [k, 2k] array."""
    return 1 if length > LONG and not heads_split else heads_at_once(platform, heads_split=heads_split)


def implementation(name: str, facts: Facts) -> Callable[[Problem], jax.Array]:
    """The function of this name."""
    return {
        "reference": reference.attend,
        "xla": xla.attend,
        "blockwise": functools.partial(
            blockwise.attend, heads=heads_at_once(facts.platform, heads_split=facts.heads_split)
        ),
        "gpu": gpu.attend,
        "tpu": functools.partial(_kernel, facts),
    }[name]


def _kernel(facts: Facts, problem: Problem) -> jax.Array:
    attend = functools.partial(tpu.attend, hardware_bits=facts.hardware_bits)
    return attend(problem) if facts.devices == 1 else by_device.attend(problem, facts.split, attend)


def attend(problem: Problem, asked: str, facts: Facts) -> jax.Array:
    """[b, q, h, d] by the implementation that `choose` names."""
    return implementation(choose(asked, facts).name, facts)(problem)
