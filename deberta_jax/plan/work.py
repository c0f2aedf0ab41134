"""What each operation of a compiled program computes and moves: FLOPs of its products, bytes of the main memory."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deberta_jax.plan.collectives import is_message
from deberta_jax.plan.hlo import Array, Instruction, Program, executions
from deberta_jax.plan.kernels import Kernel

# They move nothing themselves, or what they call is counted by itself.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "iota"),
    *("async-start", "async-update", "async-done", "copy-done", "partition-id", "replica-id", "after-all", "domain"),
    *("add-dependency", "opt-barrier", "get-dimension-size"),
}
_SLICES = ("dynamic-slice", "gather", "slice")
_ALLOCATION = '"AllocateBuffer"'


HEAD_SIZE = 64  # in all published models, and for the kernel
_KERNEL = re.compile(r"deberta_attention_(forward|backward)\b")


class Work(NamedTuple):
    """Of one operation that runs by itself."""

    flops: float  # of matrix products and convolutions, each time
    bytes: int  # read and written in the main memory, each time
    times: int  # in one run of the program
    in_background: bool  # a copy into or out of the chip that other operations run beside
    kernel: Kernel | None
    name: str


def work(program: Program) -> list[Work]:
    """All operations of `program` but its messages (collectives.py).

    What is read or written of an array is what the operation touches: a slice of it where it slices, nothing where the
    compiler keeps the array inside the chip.
    """
    found = []
    for computation, times in executions(program)[0]:
        lines, copies = program.computations[computation], computation.startswith("async_computation")
        for line in lines.values():
            if line.opcode in FREE or is_message(program, line) or _ALLOCATION in line.attributes:
                continue
            beside = copies or line.opcode == "copy-start"
            amounts = flops_of(program, lines, line), traffic(program, lines, line)
            found.append(Work(*amounts, times, beside, kernel_of(line), line.name))
    return [each for each in found if each.flops or each.bytes]


def flops_of(program: Program, lines: dict[str, Instruction], line: Instruction) -> float:
    """2 per multiply-add of the products in `line`, those inside a fusion too."""
    if line.opcode == "dot":
        return _dot_flops(line, lines[line.operands[0]].arrays[0])
    if line.opcode == "convolution":
        return _convolution_flops(line, *(lines[name].arrays[0] for name in line.operands))
    if line.opcode == "fusion":
        inside = program.computations[line.called("calls")]
        return sum(flops_of(program, inside, each) for each in inside.values())
    kernel = kernel_of(line)
    return _kernel_flops(kernel, lines, line) if kernel else 0.0


def kernel_of(line: Instruction) -> Kernel | None:
    """Our attention kernel, which the program calls by name."""
    named = _KERNEL.search(line.attributes) if line.opcode == "custom-call" else None
    if not named:
        return None
    rows, length, width = line.arrays[0].dims
    return Kernel(named[1], rows * width // HEAD_SIZE, length)


def _kernel_flops(kernel: Kernel, lines: dict[str, Instruction], line: Instruction) -> float:
    """A product per pair of positions and term: the least it can do.

    Forward: scores, values and each position term. Backward: the scores and terms again, four gradients of queries,
    keys, values and probabilities, and two of each term.
    """
    width = line.arrays[0].dims[-1]
    operands = [lines[name].arrays[0].dims for name in line.operands]
    terms = sum(len(dims) == 2 and dims[0] == width for dims in operands)
    products = {"forward": 2 + terms, "backward": 5 + 3 * terms}[kernel.direction]
    return 2.0 * products * kernel.heads * kernel.length**2 * HEAD_SIZE


def _dot_flops(line: Instruction, left: Array) -> float:
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
    terms = math.prod(left.dims[int(axis)] for axis in summed[1].split(",") if axis)
    return 2.0 * math.prod(line.arrays[0].dims) * terms


def _convolution_flops(line: Instruction, left: Array, right: Array) -> float:
    """As the compiler writes batched products too: their batch is a window that meets one position at a time."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    arrays = zip(labels.groups(), (left, right, line.arrays[0]), strict=True)
    of_left, of_right, of_out = (dict(zip(names, array.dims, strict=True)) for names, array in arrays)
    window = _window(line.attributes)
    meetings = math.prod(
        _meetings(of_left[axis], of_right[axis], of_out[axis], window, int(axis)) for axis in of_out if axis.isdigit()
    )
    groups = re.search(r"batch_group_count=(\d+)", line.attributes)
    return 2.0 * meetings * of_right["i"] * of_right["o"] * of_left["b"] / (int(groups[1]) if groups else 1)


def _window(attributes: str) -> Callable[[str, int, int], tuple[int, ...]]:
    """(entry, axis, default) -> the numbers of that entry of window={size=2x3 pad=0_1x0_0 ...}."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    entries = dict(entry.split("=") for entry in found[1].split()) if found else {}

    def numbers(entry: str, axis: int, default: int) -> tuple[int, ...]:
        if entry not in entries:
            return (default,)
        return tuple(int(number) for number in entries[entry].split("x")[axis].split("_"))

    return numbers


def _meetings(left: int, right: int, out: int, window, axis: int) -> int:
    """How many pairs (position of the result, position of the window) meet a number and not padding."""
    (stride,), low = window("stride", axis, 1), window("pad", axis, 0)[0]
    (spread,), (dilation,) = window("lhs_dilate", axis, 1), window("rhs_dilate", axis, 1)
    place = np.arange(out)[:, None] * stride - low + np.arange(right)[None] * dilation
    return int(((place >= 0) & (place <= (left - 1) * spread) & (place % spread == 0)).sum())


def traffic(program: Program, lines: dict[str, Instruction], line: Instruction) -> int:
    """Bytes of the main memory that `line` reads and writes."""
    if line.opcode == "fusion":
        inside = line.called("calls")
        read = sum(
            min(in_memory(lines[name]), _read(program, inside, place))
            for place, name in enumerate(line.operands)
            if name in lines
        )
        return read + _written(program, inside, program.root(inside), line.arrays)
    if line.opcode in _SLICES:
        return min(in_memory(lines[line.operands[0]]), line.bytes) + in_memory(line)
    if line.opcode == "dynamic-update-slice":
        return 2 * in_memory(lines[line.operands[1]])
    if line.opcode == "copy-start":
        return sum(array.bytes for array in line.arrays[:2] if array.space == 0)
    return in_memory(line) + sum(in_memory(lines[name]) for name in dict.fromkeys(line.operands) if name in lines)


def in_memory(line: Instruction) -> int:
    """Bytes of the result that lie in the main memory."""
    return sum(array.bytes for array in line.arrays if array.space == 0)


def _read(program: Program, computation: str, place: int) -> int:
    """Bytes of its parameter number `place` that a fused computation reads."""
    lines = program.computations[computation]
    parameter = next(x for x in lines.values() if x.opcode == "parameter" and x.arguments == str(place))
    return _used(program, lines, parameter)


def _used(program: Program, lines: dict[str, Instruction], value: Instruction) -> int:
    total = 0
    for line in lines.values():
        if value.name not in line.operands:
            continue
        if line.opcode in _SLICES and line.operands[0] == value.name:
            total += line.bytes
        elif line.opcode == "dynamic-update-slice" and line.operands[0] == value.name:
            continue  # written in place
        elif line.opcode == "bitcast" and not line.is_root:
            total += _used(program, lines, line)
        elif line.opcode == "fusion":
            places = [place for place, name in enumerate(line.operands) if name == value.name]
            total += sum(_read(program, line.called("calls"), place) for place in places)
        else:
            total += value.bytes
    return min(total, value.bytes)


def _written(program: Program, computation: str, root: Instruction, results: tuple[Array, ...]) -> int:
    """Bytes that a fused computation writes to the main memory: of an array changed in place, what changes."""
    lines = program.computations[computation]
    if root.opcode == "tuple" and len(root.operands) == len(results):
        parts = zip(root.operands, results, strict=True)
        return sum(_written(program, computation, lines[name], (result,)) for name, result in parts)
    stored = sum(array.bytes for array in results if array.space == 0)
    while root.opcode == "bitcast" and root.operands[0] in lines:
        root = lines[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return min(stored, lines[root.operands[1]].bytes)
    if root.opcode == "fusion":
        inside = root.called("calls")
        return min(stored, _written(program, inside, program.root(inside), results))
    return stored
