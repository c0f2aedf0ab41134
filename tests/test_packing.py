"""Packing documents into rows."""

import numpy as np
import pytest

from deberta_jax.data.packing import ROWS_AT_ONCE, pack, shortest_part
from packed import packed_rows

PAD, CLS, SEP, FIRST = 0, 1, 2, 10


def numbered(sizes: list[int]) -> list[list[int]]:
    """Documents whose tokens tell the document."""
    return [[FIRST + i] * size for i, size in enumerate(sizes)]


def parts(row) -> list[list[int]]:
    """The ids of each document of a row, specials included."""
    return [row.ids_l[row.documents_l == n].tolist() for n in range(1, row.documents_l.max() + 1)]


def random_sizes(length: int, rng: np.random.Generator) -> list[int]:
    """Nothing, single tokens, what just fits, and documents of many rows."""
    edges = [0, 1, length - 3, length - 2, length - 1, 2 * (length - 2), 5 * length]
    return [*edges, *rng.integers(0, 3 * length, 60).tolist(), *rng.integers(0, length // 2, 200).tolist()]


CASES = [(length, seed) for length in (8, 9, 33, 128, 512) for seed in range(3)]


@pytest.mark.parametrize(("length", "seed"), CASES)
def test_rows_hold_every_token_once_and_in_order(length, seed):
    documents = numbered(random_sizes(length, np.random.default_rng(seed)))
    rows = packed_rows(documents, length, CLS, SEP, PAD)
    inner = [token for row in rows for part in parts(row) for token in part[1:-1]]
    assert inner == [token for document in documents for token in document]


@pytest.mark.parametrize(("length", "seed"), CASES)
def test_every_part_has_its_own_cls_and_sep_and_padding_is_at_the_end(length, seed):
    for row in packed_rows(numbered(random_sizes(length, np.random.default_rng(seed))), length, CLS, SEP, PAD):
        assert row.ids_l.shape == row.documents_l.shape == (length,)
        assert row.ids_l.dtype == row.documents_l.dtype == np.int32
        used = int((row.documents_l > 0).sum())
        assert used > 0
        assert (row.documents_l[used:] == 0).all() and (row.ids_l[used:] == PAD).all()
        assert set(np.diff(row.documents_l[:used])) <= {0, 1} and row.documents_l[0] == 1
        for part in parts(row):
            assert (part[0], part[-1]) == (CLS, SEP)
            assert len(part) >= 3 and len(set(part[1:-1])) == 1 and part[1] >= FIRST


@pytest.mark.parametrize(("length", "seed"), CASES)
def test_documents_are_cut_only_at_the_end_of_a_row_and_rows_padded_only_where_a_cut_is_too_short(length, seed):
    sizes = [size for size in random_sizes(length, np.random.default_rng(seed)) if size]
    rows = packed_rows(numbered(sizes), length, CLS, SEP, PAD)
    left = dict(enumerate(sizes, FIRST))
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        room = int((row.documents_l == 0).sum())
        for part in parts(row):
            left[part[1]] -= len(part) - 2
        last = parts(row)[-1][1]
        assert all(left[part[1]] == 0 for part in parts(row)[:-1])
        assert left[last] == 0 or room == 0
        if following is not None and room:
            opening = parts(following)[0][1]
            assert room < shortest_part(length)
            assert left[opening] + 2 > room


def test_the_shortest_part_is_a_quarter_row_at_most_32_and_never_empty():
    assert [shortest_part(length) for length in (8, 16, 64, 128, 512)] == [3, 4, 16, 32, 32]


def test_a_worked_example():
    rows = packed_rows([[11] * 4, [12] * 20, [], [13]], 12, CLS, SEP, PAD)
    assert [row.ids_l.tolist() for row in rows] == [
        [1, 11, 11, 11, 11, 2, 1, 12, 12, 12, 12, 2],
        [1, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 2],
        [1, 12, 12, 12, 12, 12, 12, 2, 1, 13, 2, 0],
    ]
    assert rows[2].documents_l.tolist() == [1] * 8 + [2] * 3 + [0]


def test_rows_come_many_at_once_and_the_rest_at_the_end():
    sizes = [6] * 700 + [6 * 5000, 3] + [1] * 5000
    blocks = list(pack(numbered(sizes), 8, CLS, SEP, PAD))
    assert [len(rows.ids_bl) >= ROWS_AT_ONCE for rows in blocks] == [True] * (len(blocks) - 1) + [False]
    assert max(len(rows.ids_bl) for rows in blocks) < ROWS_AT_ONCE + 5000
    assert sum((rows.ids_bl >= FIRST).sum() for rows in blocks) == sum(sizes)


def test_no_documents_are_no_rows():
    assert list(pack([], 16, CLS, SEP, PAD)) == list(pack([[], []], 16, CLS, SEP, PAD)) == []
