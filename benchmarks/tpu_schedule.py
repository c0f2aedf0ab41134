"""How many cycles the TPU attention kernel takes by the compiler's static schedule: computed without a TPU.

python -m benchmarks.tpu_schedule --json=benchmarks/results/tpu_schedule.json

Cycles per head and sequence, forward and backward, with c2p and p2c, documents, and dropout at 0.1; heads of 64,
released spans. Waiting for memory and starting a grid step are not in them. Beyond 1024 positions the steps near the
diagonal and those far from it are counted as often as they occur. Beside them, on one chip and at one length: without
windows (every query multiplied by the table's rows for all distances), and what a bare kernel took there, one without
windows, masks, documents and dropout. Needs requirements-libtpu.txt; a few minutes.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.ahead_of_time import CHIPS, GIGAHERTZ, compile_for, schedules
from deberta_jax import errors
from deberta_jax.flags import Arguments
from deberta_jax.ops.attention import tpu_calls
from deberta_jax.ops.attention.tpu_kernels import Saved
from deberta_jax.ops.attention.tpu_plan import Plan, make_plan
from deberta_jax.ops.attention.tpu_scores import Inputs
from deberta_jax.ops.attention.tpu_skew import LANES
from deberta_jax.ops.buckets import row_of_distance

LENGTHS = 128, 512, 1024, 2048, 4096
SPAN = 256, 512  # buckets and distance limit of the released models
BATCH, HEADS = 4, 12
COMPARED = "v5e", 512
BARE = {"forward": 5392, "backward": 11498}  # the prototype that the kernel began as, there


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.tpu_schedule", description=__doc__)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    rows = [counted("kernel", chip, length) for chip in CHIPS for length in LENGTHS]
    rows += [counted("without windows", *COMPARED, block=COMPARED[1]), row_of("bare prototype", *COMPARED, **BARE)]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)


def counted(name: str, chip: str, length: int, **sizes: int) -> dict:
    """Cycles of both kernels; `sizes` of the plan, when not the usual ones."""
    plan = released_plan(length, **sizes)
    return row_of(name, chip, length, cycles(chip, plan, compile_forward), cycles(chip, plan, compile_backward))


def row_of(name: str, chip: str, length: int, forward: int, backward: int) -> dict:
    """A row of the table: cycles per head and sequence, microseconds of all heads of a sequence."""
    microseconds = (forward + backward) * HEADS / GIGAHERTZ[chip] / 1000
    row = {"cycles of": name, "chip": chip, "length": length, "forward": forward, "backward": backward}
    return row | {f"microseconds, {HEADS} heads": microseconds}


def released_plan(length: int, **settings) -> Plan:
    """The plan of a released base model with everything on."""
    rows = row_of_distance(np.arange(-length, length), *SPAN, clamp=True)
    usual = {"head_size": 64, "terms": ("c2p", "p2c"), "rate": 0.1, "hardware_bits": False, "interpret": False}
    return make_plan(BATCH, length, rows, **{**usual, **settings})


def cycles(chip: str, plan: Plan, compile_kernel) -> int:
    """Cycles of a kernel per head and sequence."""
    both = step_cycles(chip, plan, compile_kernel)
    if plan.all_near:
        return both * plan.tiles**2 // (plan.heads * plan.sequences)
    # The kernel has code for near tiles and for far ones; one with near tiles only tells them apart.
    everywhere = dataclasses.replace(plan, near=(1 - plan.tiles, plan.tiles - 1))
    near, (low, high) = step_cycles(chip, everywhere, compile_kernel), plan.near
    near_tiles = sum(plan.tiles - abs(offset) for offset in range(low, high + 1))
    return (near_tiles * near + (plan.tiles**2 - near_tiles) * (both - near)) // (plan.heads * plan.sequences)


def step_cycles(chip: str, plan: Plan, compile_kernel) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = schedules(folder, compile_kernel, chip, plan)
    (count,) = (count for name, count in found.items() if "deberta_attention" in name)
    return count


def compile_forward(chip: str, plan: Plan) -> None:
    compile_for(chip, lambda x: tpu_calls.forward(plan, x), operand_shapes(plan))


def compile_backward(chip: str, plan: Plan) -> None:
    x = operand_shapes(plan)
    number = jax.ShapeDtypeStruct((BATCH, HEADS // plan.heads, plan.heads, plan.length), jnp.float32)
    compile_for(chip, lambda x, saved: tpu_calls.backward(plan, x, saved), x, Saved(x.q_il, number, number))


def operand_shapes(plan: Plan) -> Inputs:
    """What the kernels get, in bfloat16."""
    lanes, groups = HEADS * plan.head_size, HEADS * plan.head_size // LANES
    positions = jax.ShapeDtypeStruct((BATCH, plan.length, lanes), jnp.bfloat16)
    table = jax.ShapeDtypeStruct((lanes, plan.table_rows), jnp.bfloat16)
    document = jax.ShapeDtypeStruct((BATCH, 1, plan.length), jnp.int32)
    seed = jax.ShapeDtypeStruct((BATCH, groups, plan.heads, plan.length), jnp.int32)
    return Inputs(*[positions] * 3, table, table, document, document, seed, None)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
