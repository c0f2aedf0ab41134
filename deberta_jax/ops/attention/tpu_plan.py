"""How the TPU kernels cut their work: tiles of the scores, blocks of a tile, windows of the expanded table.

The scores of a head and a sequence are cut into square tiles of `tile` queries and keys. A tile is made in blocks of
`block` rows, each of which needs only tile + block of the table's distances: a window. Tiles far from the diagonal see
one row of the table (distances saturate); the others are near, and only their distances are in the expanded table.
"""

import dataclasses
import functools
import math

import numpy as np
from jax.experimental import pallas as pl

from deberta_jax.ops.attention.problem import score_scale
from deberta_jax.ops.attention.tpu_skew import LANES

WHOLE = 1024  # a sequence up to here is one tile
TILE = 512  # the largest tile of a longer one
BLOCK = 256  # rows, where a tile is a multiple of it
STEP = 512  # positions of short sequences that share a grid step


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything static that the kernels need.

    `sequences` short ones share a grid step. `near` are the smallest and largest offsets, query tile minus key tile,
    with more than one row of the table.
    """

    tile: int
    tiles: int
    block: int
    sequences: int
    near: tuple[int, int]
    head_size: int
    terms: tuple[str, ...]
    rate: float
    hardware_bits: bool
    interpret: bool

    @property
    def length(self) -> int:
        """Of the padded sequence."""
        return self.tile * self.tiles

    @property
    def heads(self) -> int:
        """Heads side by side in one register's lanes, the share of one grid step."""
        return LANES // self.head_size

    @property
    def scale(self) -> float:
        """Of the scores."""
        return score_scale(self.head_size, self.terms)

    @property
    def blocks(self) -> list[pl.Slice]:
        """Of the rows of a tile."""
        return [pl.ds(start, self.block) for start in range(0, self.tile, self.block)]

    @property
    def abreast(self) -> int:
        """Heads that are computed together."""
        return min(2, self.heads)

    @property
    def window(self) -> int:
        """Distances that a block sees, and one more."""
        return self.tile + self.block

    @property
    def table_rows(self) -> int:
        """Distances of all near tiles: of the expanded tables."""
        low, high = self.near
        return (high - low + 2) * self.tile

    @property
    def all_near(self) -> bool:
        low, high = self.near
        return low <= 1 - self.tiles and high >= self.tiles - 1

    def key_window(self, offset, start: int):
        """Where the window of query rows `start` .. of a near tile begins in the expanded table of c2p."""
        return (self.near[1] - offset + 1) * self.tile - self.block - start

    def query_window(self, offset, start: int):
        """Where the window of key rows `start` .. of a near tile begins in the expanded table of p2c."""
        return (offset - self.near[0] + 1) * self.tile - self.block - start

    def key_distances(self) -> np.ndarray:
        """Distance i - j of each row of the expanded table of c2p, far first; the last is never used."""
        return (self.near[1] + 1) * self.tile - 1 - np.arange(self.table_rows)

    def query_distances(self) -> np.ndarray:
        """Distance i - j of each row of the expanded table of p2c, far last; the last is never used."""
        return (self.near[0] - 1) * self.tile + 1 + np.arange(self.table_rows)


def make_plan(
    batch: int,
    length: int,
    row_of_distance: np.ndarray,
    *,
    whole: int = WHOLE,
    tile: int = TILE,
    block: int = BLOCK,
    **settings,
) -> Plan:
    """The plan for `batch` sequences of `length`; `settings` are the other fields of a plan."""
    tiles = 1 if length <= whole else math.ceil(length / tile)
    tile = math.ceil(length / tiles / LANES) * LANES
    sequences = math.gcd(batch, max(1, STEP // tile)) if tiles == 1 else 1
    block = block if tile % block == 0 else LANES
    assert tiles == 1 or tile >= 2 * LANES, "the outermost 128 distances of near tiles must reach into far ones"
    # Without tables all tiles are alike.
    near = near_offsets(row_of_distance, tile, tiles) if settings["terms"] else (1 - tiles, tiles - 1)
    return Plan(tile=tile, tiles=tiles, block=block, sequences=sequences, near=near, **settings)


def near_offsets(row_of_distance: np.ndarray, tile: int, tiles: int) -> tuple[int, int]:
    """The smallest and the largest offset, query tile minus key tile, of a tile with several rows of the table."""
    rows_at = functools.partial(rows_at_distances, row_of_distance)
    spread = np.arange(1 - tile, tile)
    several = [offset for offset in range(1 - tiles, tiles) if np.ptp(rows_at(offset * tile + spread)) > 0]
    return min(several, default=0), max(several, default=0)


def rows_at_distances(row_of_distance: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Table rows of `distances`; beyond the sequence, where only padding is, the last one's."""
    length = row_of_distance.size // 2
    return row_of_distance[np.clip(distances, -length, length - 1) + length]
