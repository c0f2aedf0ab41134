"""The compiler's buffer assignment: how much main memory a program needs, and which arrays take most of it."""

import re
from typing import NamedTuple

from deberta_jax.plan.hlo import Program

_ALLOCATION = re.compile(
    r"^allocation (?P<number>\d+): size (?P<size>\d+),(?P<color> color \d+,)? page \d+, (?P<what>[\w-]+)"
)
_VALUE = re.compile(
    r"^ value: <\d+ (?P<name>[^{ ]+)(?:\{[\d,]*\})? @\d+> \(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>\S+)"
)


class Buffer(NamedTuple):
    """A piece of the main memory of a device."""

    bytes: int
    shape: str  # of the largest array that lies there
    name: str  # that array's op_name in JAX, or the compiler's name where it has none
    what: str  # parameter (of the step: state and batch), preallocated-temp, ...
    arrays: int  # that lie there one after another


def needed_bytes(assignment: str) -> int:
    """Main memory for arguments, results, temporaries and constants, from a dumped buffer assignment."""
    heads = [_ALLOCATION.match(line) for line in assignment.partition("Used values:")[0].splitlines()]
    return sum(int(head["size"]) for head in heads if head and _in_memory(head))


def _in_memory(head: re.Match) -> bool:
    """Not of another memory (a color), and no scratch of an operation, which the compiler lists but never allocates."""
    return head["color"] is None and head["what"] != "thread-local"


def largest(assignment: str, program: Program, count: int) -> list[Buffer]:
    """The `count` largest pieces of main memory in a dumped buffer assignment, the largest first."""
    places: dict[tuple[str, int], tuple[int, str, str, str]] = {}
    residents: dict[tuple[str, int], int] = {}
    number, what, skip = "", "", True
    for line in assignment.splitlines():
        if line.startswith("Used values:"):
            break
        if head := _ALLOCATION.match(line):
            number, what = head["number"], head["what"]
            skip = not _in_memory(head)
        elif not skip and (value := _VALUE.match(line)):
            place = number, int(value["offset"])
            residents[place] = residents.get(place, 0) + 1
            new = int(value["size"]), value["shape"].split("{")[0], value["name"], what
            places[place] = max(places.get(place, new), new, key=lambda entry: entry[0])
    names = _op_names(program)
    ordered = sorted(places.items(), key=lambda entry: -entry[1][0])[:count]
    return [
        Buffer(size, shape, names.get(name, name), what, residents[place])
        for place, (size, shape, name, what) in ordered
    ]


def _op_names(program: Program) -> dict[str, str]:
    found = {}
    for lines in program.computations.values():
        for line in lines.values():
            if name := re.search(r'op_name="([^"]+)"', line.attributes):
                found[line.name] = name[1].replace("\\'", "'")
    return found
