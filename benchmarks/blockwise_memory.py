"""How the memory of attention grows with the length: compiled for a TPU and for CPUs, and measured on this CPU.

python -m benchmarks.blockwise_memory --json=benchmarks/results/blockwise_memory.json

Value and all gradients of attention by itself: one row, 12 heads of 64, bfloat16, released spans, both terms, document
mask, dropout at 0.1. `temp` is what the compiled program says it holds beside arguments and results, `peak` its peak
with them. `grown` is what a fresh process grew by while it ran once, results included; only `blockwise` is run. Needs
requirements-libtpu.txt and Linux; some minutes.
"""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.ahead_of_time import compile_for
from deberta_jax import errors
from deberta_jax.flags import Arguments
from deberta_jax.ops.attention import choice
from deberta_jax.ops.attention.problem import Problem
from deberta_jax.ops.buckets import row_of_distance

LENGTHS = 512, 1024, 2048, 4096, 8192
COMPARED = 512, 1024, 2048, 4096  # of `xla`, whose arrays have a number for each pair of positions
CHIP = "v5e"
SPAN = 256, 512  # buckets and distance limit of the released models
HEADS, HEAD_SIZE, RATE = 12, 64, 0.1
TERMS = "c2p", "p2c"


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.blockwise_memory", description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows = [row for name, lengths in (("blockwise", LENGTHS), ("xla", COMPARED)) for row in of(name, lengths)]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)


def of(name: str, lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each length: megabytes, and kilobytes that each token more than in the row before has cost."""
    before: tuple[int, dict[str, int]] | None = None
    for length in lengths:
        found = sizes(name, length)
        row = {"attention": name, "length": length} | {f"{kind} MB": size / 1e6 for kind, size in found.items()}
        if before:
            old, more = before[1], length - before[0]
            row |= {f"{kind} KB/token more": (size - old[kind]) / more / 1e3 for kind, size in found.items()}
        before = length, found
        yield row


def sizes(name: str, length: int) -> dict[str, int]:
    """Bytes by what they are."""
    on_tpu = compile_for(CHIP, gradient(name, "tpu", length), *operands(length)).memory_analysis()
    on_cpu = jax.jit(gradient(name, "cpu", length)).lower(*operands(length)).compile().memory_analysis()
    found = {
        f"{CHIP} temp": on_tpu.temp_size_in_bytes,
        f"{CHIP} peak": on_tpu.peak_memory_in_bytes,
        "cpu temp": on_cpu.temp_size_in_bytes,
    }
    return found | ({"cpu grown": in_own_process(grown, name, length)} if name == "blockwise" else {})


def gradient(name: str, platform: str, length: int) -> Callable:
    """(arrays of `operands`) -> value and all gradients, as the model calls this implementation on this platform."""
    facts = choice.Facts(
        platform=platform,
        rows=1,
        length=length,
        heads=HEADS,
        head_size=HEAD_SIZE,
        terms=TERMS,
        dtype=jnp.dtype(jnp.bfloat16),
        rate=RATE,
        hardware_bits=False,
    )
    attend = choice.implementation(name, facts)
    rows = row_of_distance(np.arange(-length, length), *SPAN, clamp=True)

    def loss(q, k, v, pos_k, pos_q, document_bk, seed_bhq):
        given = Problem(q, k, v, pos_k, pos_q, rows, TERMS, document_bk, seed_bhq, RATE)
        return attend(given).astype(jnp.float32).sum()

    return jax.value_and_grad(loss, argnums=range(5))


def operands(length: int) -> list[jax.ShapeDtypeStruct]:
    """Queries, keys, values, both tables, document numbers, seeds of dropout."""
    position, table = (1, length, HEADS, HEAD_SIZE), (2 * SPAN[0], HEADS, HEAD_SIZE)
    shapes = [(shape, jnp.bfloat16) for shape in (position, position, position, table, table)]
    shapes += [((1, length), jnp.int32), ((1, HEADS, length), jnp.int32)]
    return [jax.ShapeDtypeStruct(*shape) for shape in shapes]


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """What `function` returns in a process that gives memory back to the system as soon as it is free."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(64 << 10)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *arguments).result()
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def grown(name: str, length: int) -> int:
    """Bytes that this process grows by while it runs once; what a run has taken it keeps for the next."""
    run = jax.jit(gradient(name, "cpu", length)).lower(*operands(length)).compile()
    arrays = [jnp.ones(each.shape, each.dtype) for each in operands(length)]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    jax.block_until_ready(run(*arrays))
    return status("VmHWM") - before


def status(name: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
