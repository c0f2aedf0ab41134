"""How much memory attention and whole training steps pass on an H200, by the program that XLA compiles for one.

python -m benchmarks.gpu_traffic [--steps=v3_base:32x512,v3_large:16x512] [--layers=N] --json=FILE

Nothing runs and no GPU is needed, but requirements-cuda.txt; some twenty minutes of compiling on two cores. Attention
is counted in passes: a pass is two bytes (a bfloat16 number) for every pair of positions in every head. A step's
seconds are modelled, not measured: its kernels one after the other, each taking the longer of its bytes at BANDWIDTH
and its products at the rates below, which are taken to be what an H200 reaches in practice. What a kernel computes
otherwise, reads twice, or waits for is not in them, so a real step is slower.
"""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import gpu_program, report
from benchmarks.gpu_program import Kernel, Shape
from configs import base
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.errors import Refused
from deberta_jax.flags import Arguments

ROWS, LENGTHS = 8, (128, 512, 1024, 2048)
WHOLE = 1024  # positions at most where [q, k] arrays of all heads are there
BANDWIDTH = 4.3e12  # bytes/s
PRODUCTS = {"bf16": 700e12, "f32": 350e12}  # FLOP/s of cuBLAS; float32 rounded to tensor cores' format
ATTENTION = 300e12  # FLOP/s of cuDNN's products at heads of 64
TERMS = ("c2p", "p2c")


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.gpu_traffic", description=__doc__)
    parser.add_argument("--steps", default="v3_base:32x512,v3_large:16x512,v3_base:4x4096", help="SIZE:ROWSxLENGTH,...")
    parser.add_argument("--layers", default=0, type=int, help="0 = as many as the size has")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if not gpu_program.is_installed():
        raise Refused("XLA's compiler for GPUs is not installed: pip install -r requirements-cuda.txt")
    rows = []
    for row in itertools.chain(attention_rows(), *(step_rows(step, args.layers) for step in args.steps.split(","))):
        rows.append(row)
        print(f"{len(rows)} programs compiled", file=sys.stderr)
    print(report.table([row for row in rows if "attention" in row]))
    print(report.table([row for row in rows if "step" in row]))
    if args.json:
        report.write(args.json, rows)


def attention_rows() -> Iterator[dict[str, Any]]:
    """One layer's attention in bfloat16, output and all gradients."""
    for length in LENGTHS:
        shape = Shape(ROWS, length)
        for name, rate in (("gpu", 0.0), ("xla", 0.1), ("blockwise", 0.1), ("reference", 0.1)):
            if length <= WHOLE or name != "reference":
                yield attention_row(name, shape, TERMS, rate)
        yield attention_row("gpu", shape, (), 0.0)
        if length <= WHOLE:
            yield attention_row("xla", shape, (), 0.1)


def attention_row(name: str, shape: Shape, terms: tuple[str, ...], rate: float) -> dict[str, Any]:
    program = gpu_program.compiled(gpu_program.lower_attention(name, shape, terms=terms, rate=rate))
    text = program.as_text()
    found = gpu_program.kernels(text)
    moved = sum(kernel.times * kernel.bytes for kernel in found)
    return {
        "attention": name if terms else f"{name}, plain",
        "length": shape.length,
        "dropout": rate,
        "passes": moved / shape.pass_bytes,
        "MB a row": moved / shape.rows / 1e6,
        "kernels": sum(kernel.times for kernel in found),
        "scatters": text.count(" scatter("),
        "temporary MB a row": program.memory_analysis().temp_size_in_bytes / shape.rows / 1e6,
    }


def step_rows(step: str, layers: int) -> Iterator[dict[str, Any]]:
    """With attention dropout and without; layers scanned and written out; plain attention of the same size."""
    size, _, shape = step.partition(":")
    shape = Shape(*map(int, shape.split("x")))
    for rate in (0.0, 0.1):
        yield step_row(size, shape, layers, rate, scan_layers=True)
        if shape.length <= WHOLE:
            ours = step_row(size, shape, layers, rate, scan_layers=False)
            plain = step_row(size, shape, layers, rate, scan_layers=False, pos_att_type=())
            yield ours | {"times plain": ours["modelled ms"] / plain["modelled ms"]}
            yield plain


def step_row(size: str, shape: Shape, layers: int, rate: float, **model: Any) -> dict[str, Any]:
    c = base.get_config(size)
    c.model.update(dtype="bfloat16", attention_dropout=rate, **model)
    c.model.vocab_size = 128_100
    c.model.num_layers = layers or c.model.num_layers
    c.batch_size = c.eval.batch_size = shape.rows
    start = time.perf_counter()
    program = gpu_program.compiled(gpu_program.lower_step(configs.build(c), shape.length))
    taken = time.perf_counter() - start
    found = gpu_program.kernels(program.as_text())
    ms, memory = 1000 * sum(map(seconds, found)), program.memory_analysis()
    return {
        "step": size if c.model.pos_att_type else f"{size}, plain",
        "scanned": c.model.scan_layers,
        "layers": c.model.num_layers,
        "rows": shape.rows,
        "length": shape.length,
        "dropout": rate,
        "GB moved": sum(kernel.times * kernel.bytes for kernel in found) / 1e9,
        "TFLOP": sum(kernel.times * kernel.flops for kernel in found) / 1e12,
        "attention ms": 1000 * sum(map(seconds, of_attention(found))),
        "modelled ms": ms,
        "modelled tokens/s": 1000 * shape.rows * shape.length / ms,
        "held GB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
        "compiled in s": taken,
    }


def of_attention(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Those of layers in which every position asks."""
    return [kernel for kernel in kernels if "attention._of_all" in kernel.source]


def seconds(kernel: Kernel) -> float:
    """Modelled, of all its launches in a step."""
    rate = ATTENTION if "cudnn" in kernel.target else PRODUCTS.get(kernel.operands, PRODUCTS["f32"])
    return kernel.times * max(kernel.bytes / BANDWIDTH, kernel.flops / rate)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
