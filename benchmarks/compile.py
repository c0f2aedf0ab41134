"""How long the training step takes to compile, and the memory it then needs, against depth.

python -m benchmarks.compile [--depths=4,12,24] [--json=FILE]

The step of a base model (width 768, vocabulary 32,000, float32, with dropout and decoder) on 8 rows of 512 tokens is
traced and compiled, not run: its layers scanned, with each remat policy, and unrolled. Seconds are the least of two
rounds. `temp MB` is what the compiled program holds beside the parameters, the optimizer's state and the batch.
Ends with code 1 where the deepest scanned step takes more than 1.3 times the seconds of the shallowest.
"""

import functools
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from benchmarks import report
from configs import base
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.flags import Arguments
from deberta_jax.objectives import Lexicon
from deberta_jax.train import shapes
from deberta_jax.train.build import build_run

ROWS, LENGTH, VOCABULARY = 8, 512, 32_000
ROUNDS = 2
LIMIT = 1.3  # times the seconds of the shallowest that the deepest scanned step may take


class Variant(NamedTuple):
    """A way of laying the layers out."""

    scan: bool
    remat: str


VARIANTS = [Variant(True, "none"), Variant(True, "dots"), Variant(True, "full"), Variant(False, "none")]


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.compile", description=__doc__)
    parser.add_argument("--depths", default=(4, 12, 24), type=whole_numbers, help="numbers of layers, ascending")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    jax.config.update("jax_enable_compilation_cache", False)
    compile_seconds(step_of(Variant(True, "none"), 2))  # what only the first compilation of a process takes
    cells = list(itertools.product(VARIANTS, args.depths))
    rounds = [[compile_seconds(step_of(*cell)) for cell in cells] for _ in range(ROUNDS)]
    rows = [row_of(*cell, times) for cell, *times in zip(cells, *rounds, strict=True)]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)
    for remat, times in growth(rows):
        print(
            f"scanned, remat {remat}: {args.depths[-1]} layers take {times:.2f} times the seconds of {args.depths[0]}"
        )
        if times > LIMIT:
            raise errors.Failed(f"scanned, remat {remat}: {times:.2f} is more than {LIMIT}")


def whole_numbers(text: str) -> tuple[int, ...]:
    """(4, 12) of "4,12"."""
    return tuple(int(number) for number in text.split(","))


def row_of(variant: Variant, depth: int, rounds: Sequence[tuple[float, float, int]]) -> dict[str, Any]:
    """A row of the table."""
    trace, compilation, temp = (min(each) for each in zip(*rounds, strict=True))
    return {
        "layers": depth,
        "laid out": "scanned" if variant.scan else "unrolled",
        "remat": variant.remat,
        "trace s": trace,
        "compile s": compilation,
        "together s": min(sum(each[:2]) for each in rounds),
        "temp MB": temp / 1e6,
    }


def compile_seconds(lower: Callable[[], Any]) -> tuple[float, float, int]:
    """(seconds to trace and lower, seconds to compile, bytes of temporary arrays)."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    return traced - start, time.perf_counter() - traced, compiled.memory_analysis().temp_size_in_bytes


def step_of(variant: Variant, depth: int) -> Callable[[], jax.stages.Lowered]:
    """Traces and lowers the training step of a run."""
    c = base.get_config("v3_base")
    c.model.update(num_layers=depth, vocab_size=VOCABULARY, dtype="float32", remat=variant.remat)
    c.model.scan_layers = variant.scan
    c.batch_size = c.eval.batch_size = ROWS
    run = build_run(configs.build(c), Lexicon(top_id=5, size=VOCABULARY, special_ids=(0, 1, 2, 3), mask_id=4))
    return functools.partial(run.train_step.lower, run.abstract, shapes.masked_batch(run, LENGTH))


def growth(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """(remat policy, seconds of the deepest scanned step over those of the shallowest)."""
    scanned = [row for row in rows if row["laid out"] == "scanned"]
    for remat, of_policy in itertools.groupby(scanned, key=lambda row: row["remat"]):
        seconds = [row["together s"] for row in of_policy]
        yield remat, seconds[-1] / seconds[0]


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
