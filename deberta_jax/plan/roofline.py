"""A modelled step time: what an operation computes or moves, at the vendor's figures; nothing is measured here."""

from collections.abc import Iterable
from typing import NamedTuple

from deberta_jax.plan import kernels
from deberta_jax.plan.chips import Chip, Topology
from deberta_jax.plan.collectives import Collective
from deberta_jax.plan.work import Work

ASSUMPTIONS = (
    "operations run one after another; each takes the longer of its FLOPs at the chip's bfloat16 peak and its bytes at "
    "the full bandwidth of the main memory; copies that the compiler starts ahead hide; what the vector unit computes "
    "is free, so a real step is slower",
    "the attention kernel takes the cycles of the compiler's static schedule (python -m benchmarks.tpu_schedule)",
    "messages go round rings, over two links along each axis of the torus that a group spans, one where the axis does "
    "not close; between slices over each chip's share of its host's network; starting one takes no time",
    "asynchronous messages hide behind computation as far as it lasts; nothing runs beside the others",
)


class Estimate(NamedTuple):
    """Seconds of one step."""

    products: float  # all FLOPs at the peak
    memory: float  # all bytes of the main memory at its bandwidth
    operations: float  # one after another, each bound by one of the two; copies in the background
    waiting: float  # messages that nothing runs beside
    hidden: float  # messages that computation runs beside
    between_slices: float  # of both kinds: the part over the data centre's network

    @property
    def step(self) -> float:
        return self.waiting + max(self.operations, self.hidden)


def estimate(work: Iterable[Work], messages: Iterable[Collective], topology: Topology) -> Estimate:
    """Of a compiled step on the chips of `topology`."""
    chip = topology.chip
    work, messages = list(work), list(messages)
    times = [(each.overlapped, each.times * seconds(each, topology)) for each in messages]
    memory = sum(each.times * each.bytes for each in work) / chip.hbm
    alone = sum(each.times * _limit(each, chip) for each in work if not each.in_background)
    return Estimate(
        products=sum(each.times * each.flops for each in work) / chip.flops,
        memory=memory,
        operations=max(memory, alone),
        waiting=sum(time for overlapped, time in times if not overlapped),
        hidden=sum(time for overlapped, time in times if overlapped),
        between_slices=sum(each.times * seconds(each, topology) for each in messages if each.between_slices),
    )


def _limit(work: Work, chip: Chip) -> float:
    """Seconds that an operation takes at least, once."""
    scheduled = kernels.seconds(work.kernel, chip.kind) if work.kernel else 0.0
    return max(work.flops / chip.flops, work.bytes / chip.hbm, scheduled)


def seconds(message: Collective, topology: Topology) -> float:
    """One message, once."""
    if message.between_slices:
        return message.wire_bytes / topology.chip.dcn
    links = sum(links_along(topology.chip, topology.shape[axis]) for axis in message.axes)
    return message.wire_bytes / (links * topology.chip.link) if links else 0.0


def links_along(chip: Chip, length: int) -> int:
    """Links that a chip sends over along an axis of the torus; along a line the ends stop half of them."""
    return 2 if length % chip.closes_at == 0 else 1
