"""How long our attention kernel takes: its FLOPs are the smaller part of it, most is done by the vector unit."""

from typing import NamedTuple

# Cycles of the compiler's static schedule for one head of one sequence, (forward, backward) by the sequence's length;
# modelled: python -m benchmarks.tpu_schedule (libtpu 0.0.51, bfloat16, heads of 64, both position terms, dropout).
CYCLES = {
    "TPU v5 lite": {
        128: (423, 756),
        512: (4256, 6065),
        1024: (14401, 21697),
        2048: (50426, 83494),
        4096: (140126, 239802),
    },
    "TPU v5": {
        128: (462, 806),
        512: (4422, 6272),
        1024: (14566, 21890),
        2048: (52128, 85727),
        4096: (143928, 245089),
    },
    "TPU v6 lite": {
        128: (345, 615),
        512: (3394, 4999),
        1024: (11576, 16153),
        2048: (39468, 64861),
        4096: (108588, 194915),
    },
}
CYCLES["TPU v4"] = CYCLES["TPU v5"]  # the same kind of core; its own was not scheduled
# Of one core, and how many of them share a chip's heads.
CLOCKS = {"TPU v4": (1.05e9, 2), "TPU v5 lite": (1.5e9, 1), "TPU v5": (1.75e9, 2), "TPU v6 lite": (1.75e9, 1)}
DIRECTIONS = ("forward", "backward")


class Kernel(NamedTuple):
    """One call of it."""

    direction: str
    heads: int  # of all rows together
    length: int


def seconds(kernel: Kernel, kind: str) -> float:
    """Of one call on a chip of this `device_kind`; between lengths that were scheduled, by pairs of positions."""
    scheduled = CYCLES[kind]
    nearest = min(scheduled, key=lambda length: abs(length - kernel.length))
    cycles = scheduled[nearest][DIRECTIONS.index(kernel.direction)] * (kernel.length / nearest) ** 2
    clock, cores = CLOCKS[kind]
    return kernel.heads * cycles / clock / cores
