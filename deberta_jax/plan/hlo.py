"""Compiled programs in XLA's text form (HLO): their instructions, and how often each computation runs."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0} | {  # of one number; others end in their number of bits
    name: bits
    for bits, names in {
        2: ("s2", "u2"),
        4: ("s4", "u4", "f4e2m1fn"),
        8: ("s8", "u8", "f8e4m3", "f8e4m3fn", "f8e4m3b11fnuz", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "f8e8m0fnu"),
        16: ("s16", "u16", "f16", "bf16"),
        32: ("s32", "u32", "f32"),
        64: ("s64", "u64", "f64", "c64"),
        128: ("c128",),
    }.items()
    for name in names
}

_ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,<=]*)\](?:\{(?P<layout>[^}]*)\})?")
_HEAD = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_DEFINITION = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<rest>.*)$")
_NAME = re.compile(r"%([\w.-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
_MEMORY_SPACE = re.compile(r"S\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Array(NamedTuple):
    """One array of an instruction's result."""

    dtype: str
    dims: tuple[int, ...]
    space: int  # 0 = the device's main memory (HBM); others are inside the chip

    @property
    def bytes(self) -> int:
        """Of its numbers, without the padding of tiles."""
        return math.prod(self.dims) * BITS[self.dtype] // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result; several of a tuple
    operands: tuple[str, ...]  # names
    arguments: str  # the text between the parentheses
    attributes: str  # the text behind them
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of the result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, attribute: str) -> str | None:
        """The computation that `attribute` (calls, body, condition, to_apply) names."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.attributes)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Program:
    """A module: computations by name."""

    entry: str
    computations: dict[str, dict[str, Instruction]]

    def root(self, computation: str) -> Instruction:
        return next(line for line in self.computations[computation].values() if line.is_root)


class Execution(NamedTuple):
    """A computation that runs by itself, not inside a fusion."""

    computation: str
    times: int  # in one run of the program


def parse(text: str) -> Program:
    """The program of a dump or of `Compiled.as_text`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, lines = "", {}
    for line in text.splitlines():
        if definition := _DEFINITION.match(line):
            name = definition["name"]
            lines[name] = _instruction(name, definition["rest"], definition["root"] is not None)
        elif head := _HEAD.match(line):
            lines = computations.setdefault(head["name"], {})
            entry = head["name"] if head["entry"] else entry
    if not entry:
        raise ValueError("no HLO module: it has no ENTRY computation")
    return Program(entry, computations)


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    rest = _COMMENT.sub("", rest)
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = _closing(rest, opened)
    arguments = rest[opened + 1 : closed - 1]
    return Instruction(
        name=name,
        opcode=rest[:opened],
        arrays=tuple(arrays_of(result)),
        operands=tuple(_NAME.findall(arguments)),
        arguments=arguments,
        attributes=rest[closed:],
        is_root=is_root,
    )


def arrays_of(text: str) -> Iterator[Array]:
    """The arrays of a type as HLO writes it: f32[2,3]{1,0:T(8,128)S(1)}, or several in parentheses."""
    for found in _ARRAY.finditer(text):
        space = _MEMORY_SPACE.search(found["layout"] or "")
        dims = tuple(int(size.removeprefix("<=")) for size in found["dims"].split(",") if size)
        yield Array(found["dtype"], dims, int(space[1]) if space else 0)


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced parentheses: {text[:200]}")


def executions(program: Program) -> tuple[list[Execution], list[str]]:
    """(what runs and how often, names of the loops whose length cannot be read: they count once).

    Nested loops multiply. Every branch of a conditional counts, though only one is taken.
    """
    found, unknown = [], []

    def visit(computation: str, times: int) -> None:
        found.append(Execution(computation, times))
        for line in program.computations[computation].values():
            if line.opcode == "while":
                trips = trip_count(program, computation, line)
                if trips is None:
                    unknown.append(line.name)
                visit(line.called("body"), times * (1 if trips is None else trips))
            elif line.opcode in ("call", "async-start"):
                visit(line.called("to_apply") or line.called("calls"), times)
            elif line.opcode == "conditional":
                for branch in _branches(line):
                    visit(branch, times)

    visit(program.entry, 1)
    return found, unknown


def _branches(line: Instruction) -> list[str]:
    if listed := _BRANCHES.search(line.attributes):
        return _NAME.findall(listed[1])
    return [line.called("true_computation"), line.called("false_computation")]


def trip_count(program: Program, computation: str, loop: Instruction) -> int | None:
    """How often the body of a `while` of `computation` runs; None where the text does not tell.

    What the compiler notes (known_trip_count), else what a counting loop says of itself: it starts at a constant and
    goes on while that entry of what it carries is below another constant, one more at each turn.
    """
    if noted := _TRIPS.search(loop.attributes):
        return int(noted[1])
    condition = program.computations[loop.called("condition")]
    compare = program.root(loop.called("condition"))
    if compare.opcode != "compare" or "direction=LT" not in compare.attributes:
        return None
    counter, limit = (condition[name] for name in compare.operands)
    start = _carried(program, computation, loop, counter)
    end = _constant(condition, limit)
    if start is None or end is None or not _counts_by_one(program, loop, counter):
        return None
    return max(0, end - start)


def _index(line: Instruction) -> int | None:
    found = re.search(r"index=(\d+)", line.attributes)
    return int(found[1]) if line.opcode == "get-tuple-element" and found else None


def _carried(program: Program, computation: str, loop: Instruction, counter: Instruction) -> int | None:
    """The constant that the loop's counter starts at."""
    lines, index = program.computations[computation], _index(counter)
    initial = lines[loop.operands[0]]
    if index is None or initial.opcode != "tuple":
        return None
    return _constant(lines, lines[initial.operands[index]])


def _constant(lines: dict[str, Instruction], line: Instruction) -> int | None:
    while line.opcode in ("copy", "bitcast", "convert") and line.operands[0] in lines:
        line = lines[line.operands[0]]
    is_number = line.opcode == "constant" and re.fullmatch(r"-?\d+", line.arguments)
    return int(line.arguments) if is_number else None


def _counts_by_one(program: Program, loop: Instruction, counter: Instruction) -> bool:
    body, result = program.computations[loop.called("body")], program.root(loop.called("body"))
    if result.opcode != "tuple":
        return False
    line = body[result.operands[_index(counter)]]
    while line.opcode in ("copy", "bitcast"):
        line = body[line.operands[0]]
    if line.opcode == "fusion":
        body, line = program.computations[line.called("calls")], program.root(line.called("calls"))
    return line.opcode == "add" and 1 in [_constant(body, body[name]) for name in line.operands]
