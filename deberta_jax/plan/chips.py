"""TPU chips: what a vendor says of each, and slices of them by name."""

import math
import re
from typing import NamedTuple

from deberta_jax.errors import Refused, nearest
from deberta_jax.train.flops import PEAK_FLOPS


class Chip(NamedTuple):
    """Figures of the vendor's pages (cloud.google.com/tpu/docs/v5e, v5p, v6e and v4, read in 2026), per chip."""

    kind: str  # JAX's `device_kind`
    memory: int  # bytes of HBM
    hbm: float  # bytes/s
    link: float  # bytes/s of one link between neighbours, in one direction
    axes: int  # of the torus; two links along each
    closes_at: int  # an axis whose length is a multiple of this is a ring, shorter ones are lines
    dcn: float  # bytes/s between slices, a chip's share of its host's network

    @property
    def flops(self) -> float:
        """FLOP/s of dense bfloat16 products."""
        return PEAK_FLOPS[self.kind]


CHIPS = {
    # "Bidirectional ICI bandwidth per chip" divided by 2 directions and 4 (2D torus) or 6 (3D) links; data centre
    # network: 6.4 and 25.6 Tbit/s over 256 chips (v5e, v6e), 50 Gbit/s per chip (v5p; v4's is not published, taken to
    # be the same).
    "v4": Chip("TPU v4", 32 << 30, 1228e9, 50e9, 3, 4, 6.25e9),
    "v5e": Chip("TPU v5 lite", 16 << 30, 819e9, 50e9, 2, 16, 3.125e9),
    "v5p": Chip("TPU v5", 95 << 30, 2765e9, 100e9, 3, 4, 6.25e9),
    "v6e": Chip("TPU v6 lite", 32 << 30, 1640e9, 100e9, 2, 16, 12.5e9),
}

_TOPOLOGY = re.compile(r"(?P<chip>\w+):(?P<shape>\d+(?:x\d+)*)")


class Topology(NamedTuple):
    """A slice, or several equal ones."""

    name: str  # v5e:16x16
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis of the torus
    slices: int

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * math.prod(self.shape)


def topology_of(name: str, slices: int = 1) -> Topology:
    """Of "v5e:16x16". Raises Refused for another form or an unknown chip."""
    found = _TOPOLOGY.fullmatch(name)
    if not found:
        raise Refused(f"topology {name!r} is not of the form CHIP:SIZExSIZE, as v5e:16x16 or v5p:4x4x4")
    if found["chip"] not in CHIPS:
        raise Refused(f"topology {name!r}: unknown chip {found['chip']!r}{nearest(found['chip'], CHIPS)}")
    chip, shape = CHIPS[found["chip"]], tuple(map(int, found["shape"].split("x")))
    if len(shape) != chip.axes:
        raise Refused(f"topology {name!r}: slices of {found['chip']} have {chip.axes} axes")
    return Topology(name, chip, shape, slices)
