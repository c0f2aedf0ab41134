"""Disentangled attention by itself: every implementation, forward and with all gradients, against length.

python -m benchmarks.attention [--lengths=128,256,512,1024,2048,4096] [--tokens=4096] [--heads=12] [--dtype=float32]
    [--dropout=0.1] [--compare] [--rounds=5] [--memory=GB] [--json=FILE]

A batch has so many tokens: rows of the length, one document each; heads of 64, c2p and p2c, the released buckets.
`plain` has no position terms and is done by what `auto` picks for it; `transformers` (--compare, needs
requirements-torch.txt) is DisentangledSelfAttention without its linear layers. All take turns, round by round; times
are medians. Gradients are those of queries, keys, values and both tables. `temp MB` is what the compiled program of
output and gradients holds beside these arrays; `peak so far GB` is the device's own account of the whole process, on
GPUs and TPUs.

Errors are those of a smaller problem (one row, two heads) against the reference in float32: `max` the largest
difference of an entry, of gradients as a share of the largest entry where that is above 1, and `L2` the norm of the
difference by the norm; of the worst gradient. transformers draws other dropout: its errors are taken without.

What needs more memory than --memory (default: half of the device's, or a quarter of the machine's) is not run.
"""

import dataclasses
import functools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.timing import alternating, ratio
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.flags import Arguments, whole_number
from deberta_jax.ops.attention import choice, reference
from deberta_jax.ops.attention.problem import Problem
from deberta_jax.ops.buckets import row_of_distance

HEAD_SIZE = 64
BUCKETS, DISTANCE_LIMIT = 256, 512  # as released
TERMS = ("c2p", "p2c")
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
PLAIN, PEER = "plain", "transformers"
WHY_NOT = {"gpu": choice.without_cudnn, "tpu": choice.without_kernel}
LEARNED = ("q_bqhd", "k_bkhd", "v_bkhd", "pos_k_rhd", "pos_q_rhd")  # have gradients
FIXED = ("document_bk", "seed_bhq")

Arrays = dict[str, Any]


class Kind(NamedTuple):
    """What a problem is drawn from."""

    rows: int
    length: int
    heads: int
    dtype: str
    rate: float  # of dropout
    terms: tuple[str, ...] = TERMS


class Competitor(NamedTuple):
    """Both return when their work is done."""

    forward: Callable[[], Any]
    both: Callable[[], tuple[Any, Arrays]]  # output and gradients
    memory: int  # bytes of everything while `both` runs
    temp: int | None = None  # of them those of temporary arrays, where known
    numbers: Callable[[Any], np.ndarray] = lambda array: np.asarray(array).astype(np.float64)


def main(argv: list[str]) -> None:
    args = parse(argv)
    rows = []
    for length in args.lengths:
        jax.clear_caches()  # the constants of long rows are large
        rows += measured(args, length)
    rows += [{"attention": name, "not run": why} for name, why in missing(kind_of(args, args.lengths[0])).items()]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)


def parse(argv: list[str]):
    parser = Arguments(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--lengths", default=LENGTHS, type=whole_numbers)
    parser.add_argument("--tokens", default=4096, type=whole_number, help="of a batch")
    parser.add_argument("--heads", default=12, type=whole_number)
    parser.add_argument("--dtype", default="float32", choices=configs.DTYPES)
    parser.add_argument("--dropout", default=0.1, type=float, help="on the probabilities")
    parser.add_argument("--compare", action="store_true", help="with transformers beside")
    parser.add_argument("--rounds", default=5, type=whole_number)
    parser.add_argument("--memory", default=spare_memory() / 1e9, type=float, help="GB that one may take")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def whole_numbers(text: str) -> tuple[int, ...]:
    """(128, 256) of "128,256"."""
    return tuple(whole_number(number) for number in text.split(","))


def spare_memory() -> float:
    """Bytes: half of the device's, or a quarter of the machine's where the device has none of its own."""
    stats = jax.devices()[0].memory_stats()
    return stats["bytes_limit"] / 2 if stats else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 4


def kind_of(args, length: int) -> Kind:
    return Kind(max(args.tokens // length, 1), length, args.heads, args.dtype, args.dropout)


def missing(kind: Kind) -> dict[str, str]:
    """What cannot run here, and why."""
    reasons = {name: why_not(facts_of(kind)) for name, why_not in WHY_NOT.items()}
    return {name: why for name, why in reasons.items() if why}


def kinds_of(kind: Kind) -> dict[str, Kind]:
    """The problem of each implementation that can run here, and that of `plain`."""
    names = [name for name in configs.ATTENTION if name != choice.AUTO and name not in missing(kind)]
    return {name: kind for name in names} | {PLAIN: kind._replace(terms=())}


def measured(args, length: int) -> Iterator[dict[str, Any]]:
    """A row for each competitor at this length."""
    kind = kind_of(args, length)
    kinds = kinds_of(kind) | ({PEER: kind} if args.compare else {})
    competitors = {name: competitor(name, each) for name, each in kinds.items()}
    large = {name: each.memory / 1e9 for name, each in competitors.items() if each.memory > 1e9 * args.memory}
    seconds = timed({name: each for name, each in competitors.items() if name not in large}, args.rounds)
    peak, automatic = process_peak(), choice.choose(choice.AUTO, facts_of(kind)).name
    for name, each in competitors.items():
        row = {"attention": name, "auto": "yes" if name == automatic else "", **kind._asdict()}
        del row["terms"]
        if name in large:
            row["not run"] = f"needs {large[name]:.1f} GB, --memory={args.memory:.1f}"
        else:
            row |= speed(seconds, name)
        if each.temp is not None:
            row["temp MB"] = each.temp / 1e6
        yield row | peak | error_of(name, kinds[name])


def process_peak() -> dict[str, float]:
    """GB in use at most since the process began, where the device says so."""
    stats = jax.devices()[0].memory_stats()
    return {"peak so far GB": stats["peak_bytes_in_use"] / 1e9} if stats else {}


def timed(competitors: Mapping[str, Competitor], rounds: int) -> dict[str, list[float]]:
    """Seconds of NAME/forward and NAME/both in each round."""
    steps = {}
    for name, each in competitors.items():
        steps |= {f"{name}/forward": each.forward, f"{name}/both": each.both}
    return alternating(steps, rounds=rounds, warm_up=1)


def speed(seconds: Mapping[str, list[float]], name: str) -> dict[str, float]:
    forward, both = seconds[f"{name}/forward"], seconds[f"{name}/both"]
    found = {"forward ms": 1000 * statistics.median(forward), "with gradients ms": 1000 * statistics.median(both)}
    plain = f"{PLAIN}/both"
    return found | ({"times plain": ratio(both, seconds[plain])} if plain in seconds else {})


def problem_of(kind: Kind) -> Problem:
    """Random numbers, always the same; dropout has a seed for each line."""
    rng = np.random.default_rng(0)
    of_batch, of_table = (kind.rows, kind.length, kind.heads, HEAD_SIZE), (2 * BUCKETS, kind.heads, HEAD_SIZE)
    q, k, v, pos_k, pos_q = (
        jnp.asarray(rng.standard_normal(shape, np.float32), kind.dtype) for shape in (*3 * [of_batch], *2 * [of_table])
    )
    seed_bhq = jnp.asarray(rng.integers(-(2**31), 2**31, (kind.rows, kind.heads, kind.length)), jnp.int32)
    return Problem(
        *(q, k, v),
        pos_k_rhd=pos_k if "c2p" in kind.terms else None,
        pos_q_rhd=pos_q if "p2c" in kind.terms else None,
        row_of_distance=row_of_distance(np.arange(-kind.length, kind.length), BUCKETS, DISTANCE_LIMIT, clamp=True),
        terms=kind.terms,
        document_bk=jnp.ones((kind.rows, kind.length), jnp.int32),
        seed_bhq=seed_bhq if kind.rate else None,
        rate=kind.rate,
    )


def weight_of(kind: Kind) -> np.ndarray:
    """[b, q, h, d]: the gradients are those of the output's sum weighted by it."""
    shape = (kind.rows, kind.length, kind.heads, HEAD_SIZE)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def facts_of(kind: Kind) -> choice.Facts:
    return choice.Facts(
        platform=jax.default_backend(),
        rows=kind.rows,
        length=kind.length,
        heads=kind.heads,
        head_size=HEAD_SIZE,
        terms=kind.terms,
        dtype=jnp.dtype(kind.dtype),
        rate=kind.rate,
        hardware_bits=False,
    )


def competitor(name: str, kind: Kind) -> Competitor:
    if name == PEER:
        from benchmarks import torch_attention  # here: the others must not need torch

        found = torch_attention.competitor(problem_of(kind), weight_of(kind))
        return Competitor(*found, numbers=torch_attention.numbers)
    facts = facts_of(kind)
    if name == PLAIN:
        name = choice.choose(choice.AUTO, facts).name
    return compiled(choice.implementation(name, facts), problem_of(kind), weight_of(kind))


def compiled(attend: Callable[[Problem], jax.Array], problem: Problem, weight: np.ndarray) -> Competitor:
    """`attend` of a problem like this one, with gradients; without, it is compiled when it is first asked for."""
    learned, fixed = arrays_of(problem, LEARNED), arrays_of(problem, FIXED)
    weight_bqhd = jnp.asarray(weight, problem.q_bqhd.dtype)
    precision = "highest" if weight_bqhd.dtype == jnp.float32 else "default"  # float32 means float32, as in training

    @jax.jit
    def forward(learned: Arrays, fixed: Arrays) -> jax.Array:
        with jax.default_matmul_precision(precision):
            return attend(dataclasses.replace(problem, **learned, **fixed))

    @jax.jit
    def both(learned: Arrays, fixed: Arrays, weight_bqhd: jax.Array) -> tuple[jax.Array, Arrays]:
        with jax.default_matmul_precision(precision):
            output_bqhd, pull = jax.vjp(lambda learned: forward(learned, fixed), learned)
            return output_bqhd, pull(weight_bqhd)[0]

    run_both = both.lower(learned, fixed, weight_bqhd).compile()
    sizes = run_both.memory_analysis()
    temp = sizes.temp_size_in_bytes
    return Competitor(
        lambda: jax.block_until_ready(forward(learned, fixed)),
        lambda: jax.block_until_ready(run_both(learned, fixed, weight_bqhd)),
        memory=temp + sizes.argument_size_in_bytes + sizes.output_size_in_bytes,
        temp=temp,
    )


def arrays_of(problem: Problem, names: tuple[str, ...]) -> Arrays:
    values = vars(problem)
    return {name: values[name] for name in names if values[name] is not None}


def error_of(name: str, kind: Kind) -> dict[str, float]:
    """Of the output and of the worst gradient, on one row of two heads."""
    small = kind._replace(rows=1, heads=min(kind.heads, 2), rate=0.0 if name == PEER else kind.rate)
    found, expected = solved(competitor(name, small)), expected_of(small)
    gradients = [difference(found[1][each], right) for each, right in expected[1].items()]
    columns = ("output max", "output L2", "gradient max", "gradient L2")
    return dict(zip(columns, (*difference(found[0], expected[0]), *map(max, *gradients)), strict=True))


@functools.lru_cache(maxsize=3)  # with and without terms, without dropout
def expected_of(kind: Kind) -> tuple[np.ndarray, Arrays]:
    """The reference in float32, of the same numbers."""
    problem = problem_of(kind)
    exact = {name: array.astype(jnp.float32) for name, array in arrays_of(problem, LEARNED).items()}
    weight = weight_of(kind).astype(jnp.dtype(kind.dtype)).astype(np.float32)
    return solved(compiled(reference.attend, dataclasses.replace(problem, **exact), weight))


def solved(competitor: Competitor) -> tuple[np.ndarray, Arrays]:
    """Output and gradients in float64."""
    output, gradients = competitor.both()
    return competitor.numbers(output), {name: competitor.numbers(array) for name, array in gradients.items()}


def difference(found: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """(largest error by the largest entry or 1, norm of the error by the norm); torch's have heads joined."""
    error = found.reshape(expected.shape) - expected
    scale = max(1.0, np.abs(expected).max())
    return float(np.abs(error).max() / scale), float(np.linalg.norm(error) / np.linalg.norm(expected))


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
