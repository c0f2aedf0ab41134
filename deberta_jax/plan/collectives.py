"""Messages between devices in a compiled program: which kinds, how many, how many bytes."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from deberta_jax.plan.hlo import Instruction, Program, executions

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_OPCODES = {kind + end: kind for kind in (*KINDS, "ragged-all-to-all") for end in ("", "-start")}
_ENDS = ("send", "send-done", "recv", "recv-done", *(kind + "-done" for kind in KINDS))
# What XLA for TPUs calls a fusion of an all-reduce and the slice of it that a device keeps: a reduce-scatter.
_SCATTERING = "all-reduce-scatter"
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_START_AND_END = ("AsyncCollectiveStart", "AsyncCollectiveDone")
_MEANWHILE = "async_collective_fusion"
_EXPLICIT = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_AXIS = re.compile(r"(?P<name>[\w'\"]+)(?:=(?P<size>\d+)|:\((?P<before>\d+)\)(?P<part>\d+))?")
_TURNED = re.compile(r"(?:<=)?\[([\d,]+)\]T\(([\d,]+)\)")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


class Collective(NamedTuple):
    """One message of a program, as often as its loops send it."""

    kind: str  # of KINDS
    bytes: int  # of the larger side, a device's whole operand or result, each time
    group: int  # devices that exchange
    axes: tuple[int, ...]  # of the torus along which the members of a group differ; () between slices
    between_slices: bool
    times: int  # in one run of the program
    overlapped: bool  # computation goes on meanwhile
    name: str  # where it comes from: the op_name of JAX

    @property
    def wire_bytes(self) -> float:
        """What a device sends, each time, when the group works as a ring."""
        share = (self.group - 1) / self.group
        if self.kind.startswith("all-reduce"):
            return 2 * share * self.bytes
        return self.bytes if self.kind in ("collective-permute", "collective-broadcast") else share * self.bytes


class Total(NamedTuple):
    """All messages of one kind in one run of the program."""

    count: int
    bytes: int
    wire_bytes: float


def totals(found: Iterable[Collective]) -> dict[str, Total]:
    """By kind; loops are multiplied out."""
    by_kind: dict[str, Total] = {}
    for each in found:
        old = by_kind.get(each.kind, Total(0, 0, 0.0))
        by_kind[each.kind] = Total(
            old.count + each.times,
            old.bytes + each.times * each.bytes,
            old.wire_bytes + each.times * each.wire_bytes,
        )
    return dict(sorted(by_kind.items(), key=lambda entry: -entry[1].wire_bytes))


def collectives(program: Program, places: np.ndarray, slices: int = 1) -> list[Collective]:
    """The messages of `program`, which is that of one slice, the others run the same.

    `places` [devices, axes] has where each of its devices stands in the torus. What goes to the other slices is sent
    through the host, to a runtime that combines it; the program says how, which is part of the kind.
    A start and its end count once, and so do the pieces of an asynchronous one on TPUs: the compiler writes it into
    the fusion that starts it, those that run meanwhile and the one that ends it.
    """
    found = []
    for computation, times in executions(program)[0]:
        for line in program.computations[computation].values():
            if line.opcode in _OPCODES:
                overlapped = line.opcode.endswith("-start") or computation.startswith("async_computation")
                found.append(_collective(line, _OPCODES[line.opcode], places, times, overlapped))
            elif line.opcode == "send" and (operation := _BETWEEN_SLICES.search(line.attributes)):
                found.append(_between_slices(line, operation[1], slices, times))
            elif line.opcode == "fusion":
                for piece, inside in fused_collectives(program, line.called("calls")):
                    starts, continues = _asynchronous(program, inside)
                    if not continues:
                        kind = "reduce-scatter" if inside.startswith(_SCATTERING) else _OPCODES[piece.opcode]
                        found.append(_collective(piece, kind, places, times, starts))
    return found


def is_message(program: Program, line: Instruction) -> bool:
    """Whether `line` does nothing but exchange: a collective, the end of one, or a fusion around one."""
    if line.opcode in _OPCODES or line.opcode in _ENDS:
        return True
    inside = line.called("calls") if line.opcode == "fusion" else None
    if inside is None or not fused_collectives(program, inside):
        return False
    return inside.startswith(_SCATTERING) or (any(_asynchronous(program, inside)) and not inside.startswith(_MEANWHILE))


def fused_collectives(program: Program, computation: str) -> list[tuple[Instruction, str]]:
    """(collective, the computation it stands in) of a fusion and the fusions in it."""
    found = []
    for line in program.computations[computation].values():
        if line.opcode in _OPCODES:
            found.append((line, computation))
        elif line.opcode == "fusion":
            found += fused_collectives(program, line.called("calls"))
    return found


def _asynchronous(program: Program, computation: str) -> tuple[bool, bool]:
    """Whether a fused computation with a collective (starts, goes on with or ends) it."""
    attributes = [line.attributes for line in program.computations[computation].values()]
    starts, ends = (any(f'"{target}"' in text for text in attributes) for target in _START_AND_END)
    return starts, ends or computation.startswith(_MEANWHILE)


def _collective(line: Instruction, kind: str, places: np.ndarray, times: int, overlapped: bool) -> Collective:
    groups = device_groups(line.attributes, len(places))
    differs = (places[groups] != places[groups[:, :1]]).any(axis=(0, 1))
    name = re.search(r'op_name="([^"]*)"', line.attributes)
    return Collective(
        kind=kind,
        bytes=payload(line, kind, groups.shape[1]),
        group=groups.shape[1],
        axes=tuple(int(axis) for axis in np.flatnonzero(differs)),
        between_slices=False,
        times=times,
        overlapped=overlapped,
        name=name[1] if name else line.name,
    )


def _between_slices(line: Instruction, operation: str, slices: int, times: int) -> Collective:
    sent, kind = line.arrays[0].bytes, operation.lower().replace("_", "-")
    return Collective(
        kind=f"{kind} between slices",
        bytes=sent * slices if kind == "all-gather" else sent,
        group=slices,
        axes=(),
        between_slices=True,
        times=times,
        overlapped=True,  # the end of it stands elsewhere in the program
        name=line.name,
    )


def payload(line: Instruction, kind: str, group: int) -> int:
    """Bytes of the larger side. An all-gather's start shows operand and result, a permute's both and more."""
    arrays = line.arrays
    if line.opcode == "all-gather-start":
        arrays = arrays[len(arrays) // 2 :]
    elif line.opcode == "collective-permute-start":
        arrays = arrays[:1]
    size = sum(array.bytes for array in arrays)
    return size * group if line.opcode.startswith("reduce-scatter") else size


def device_groups(attributes: str, devices: int) -> np.ndarray:
    """[groups, members]: who exchanges with whom, in the three ways that HLO writes it."""
    if pairs := _PAIRS.search(attributes):
        return _rows(pairs[1])
    if explicit := _EXPLICIT.search(attributes):
        return _rows(explicit[1])
    if iota := _IOTA.search(attributes):
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else range(len(dims))
        return np.arange(np.prod(dims)).reshape(dims).transpose(order).reshape(shape)
    if mesh := _OF_MESH.search(attributes):
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    if "replica_groups={}" in attributes:
        return np.arange(devices)[None]
    raise ValueError(f"groups of devices in an unknown form: {attributes[:300]}")


def _rows(text: str) -> np.ndarray:
    return np.array([_numbers(row) for row in re.findall(r"\{([\d,]*)\}", text)])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _mesh_groups(axes: str, ids: str | None, exchanging: str) -> np.ndarray:
    """Of mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'b'}; 'a':(2)2 is a part of an axis: 2 long, 2 before it."""
    parts: dict[str, list[tuple[int, int]]] = {}
    for axis in _AXIS.finditer(exchanging):
        parts.setdefault(axis["name"], []).append((int(axis["before"] or 1), int(axis["part"] or 0)))
    sizes = {axis["name"]: int(axis["size"]) for axis in _AXIS.finditer(axes)}
    pieces = [piece for name, size in sizes.items() for piece in _pieces(size, sorted(parts.get(name, [])))]
    inside = [place for place, (_, exchanges) in enumerate(pieces) if exchanges]
    outside = [place for place, (_, exchanges) in enumerate(pieces) if not exchanges]
    devices = _device_order(ids, math.prod(sizes.values())).reshape([size for size, _ in pieces])
    return devices.transpose(outside + inside).reshape(-1, math.prod(pieces[place][0] for place in inside))


def _pieces(size: int, parts: list[tuple[int, int]]) -> Iterator[tuple[int, bool]]:
    """(length, whether its members exchange) of the pieces of an axis, of which (before, length) do; length 0 = all."""
    done = 1
    for before, length in parts:
        if before > done:
            yield before // done, False
        length = length or size
        yield length, True
        done = before * length
    if done < size:
        yield size // done, False


def _device_order(ids: str | None, devices: int) -> np.ndarray:
    if ids is None:
        return np.arange(devices)
    if turned := _TURNED.fullmatch(ids):
        dims = _numbers(turned[1])
        return np.arange(devices).reshape(dims).transpose(_numbers(turned[2])).ravel()
    return np.array(_numbers(ids))
