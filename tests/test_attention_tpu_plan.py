"""Every query and key of every tile must find its row of the table in the window that its block is given."""

import numpy as np
import pytest

from deberta_jax.ops.attention.tpu_plan import Plan, make_plan, rows_at_distances
from deberta_jax.ops.buckets import row_of_distance

SETTINGS = {"head_size": 64, "terms": ("c2p", "p2c"), "rate": 0.0, "hardware_bits": False, "interpret": True}
SPANS = {"released": (256, 512), "small": (8, 16), "a row per distance": (0, 300)}


def plan_and_rows(length: int, span: str, **sizes: int) -> tuple[Plan, np.ndarray]:
    rows = row_of_distance(np.arange(-length, length), *SPANS[span], clamp=True)
    return make_plan(2, length, rows, **SETTINGS, **sizes), rows


def near_rows(plan: Plan, distances: np.ndarray, rows: np.ndarray, start_of, offset: int, turned: bool) -> np.ndarray:
    """[query, key] of a near tile: the table's rows as the kernel's skewed windows have them."""
    expanded = rows_at_distances(rows, distances)
    blocks = []
    for block in plan.blocks:
        start = start_of(offset, block.start)
        assert start >= 0 and start + plan.window <= plan.table_rows and start % 128 == 0
        window = expanded[start : start + plan.window]
        row, column = np.arange(plan.block)[:, None], np.arange(plan.tile)
        blocks.append(window[plan.block - 1 - row + column])
    tile = np.concatenate(blocks)
    return tile.T if turned else tile


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize(("length", "sizes"), [(500, {}), (900, {}), (2000, {}), (700, {"whole": 256, "tile": 256})])
def test_each_tile_finds_its_rows(length, sizes, span):
    plan, rows = plan_and_rows(length, span, **sizes)
    position = np.arange(plan.tile)
    low, high = plan.near
    for offset in range(1 - plan.tiles, plan.tiles):
        right = rows_at_distances(rows, offset * plan.tile + position[:, None] - position)
        if low <= offset <= high:
            c2p = near_rows(plan, plan.key_distances(), rows, plan.key_window, offset, turned=False)
            p2c = near_rows(plan, plan.query_distances(), rows, plan.query_window, offset, turned=True)
        else:
            first, last = slice(0, 128), slice(plan.table_rows - 128, plan.table_rows)
            c2p = rows_at_distances(rows, plan.key_distances()[first if offset > 0 else last])
            p2c = rows_at_distances(rows, plan.query_distances()[first if offset < 0 else last])
        np.testing.assert_array_equal(np.broadcast_to(c2p if c2p.ndim == 2 else c2p[0], right.shape), right)
        np.testing.assert_array_equal(np.broadcast_to(p2c if p2c.ndim == 2 else p2c[0], right.shape), right)
        assert (c2p.ndim == 2 or np.ptp(c2p) == 0) and (p2c.ndim == 2 or np.ptp(p2c) == 0)


def test_far_tiles_are_most_of_a_long_sequence_and_their_distances_are_not_expanded():
    plan, _ = plan_and_rows(4096, "released")
    assert (plan.tile, plan.tiles, plan.near, plan.all_near) == (512, 8, (-1, 1), False)
    assert plan.table_rows == 4 * 512


@pytest.mark.parametrize(
    ("length", "tile", "tiles"),
    [(1, 128, 1), (128, 128, 1), (129, 256, 1), (1024, 1024, 1), (1025, 384, 3), (1500, 512, 3)],
)
def test_padding_is_less_than_a_register_a_tile(length, tile, tiles):
    plan, _ = plan_and_rows(length, "released")
    assert (plan.tile, plan.tiles) == (tile, tiles)
    assert 0 <= plan.length - length < 128 * tiles


def test_blocks_fit_the_tile():
    assert [plan_and_rows(length, "released")[0].block for length in (100, 256, 300, 512)] == [128, 256, 128, 256]


def test_without_terms_all_tiles_are_alike():
    rows = row_of_distance(np.arange(-4096, 4096), 256, 512, clamp=True)
    assert make_plan(2, 4096, rows, **{**SETTINGS, "terms": ()}).all_near


@pytest.mark.parametrize(
    ("batch", "length", "sequences"), [(8, 128, 4), (6, 128, 2), (3, 100, 1), (8, 256, 2), (8, 300, 1), (8, 4096, 1)]
)
def test_short_sequences_share_a_step_where_they_can_be_divided_evenly(batch, length, sequences):
    rows = row_of_distance(np.arange(-length, length), 256, 512, clamp=True)
    assert make_plan(batch, length, rows, **SETTINGS).sequences == sequences
