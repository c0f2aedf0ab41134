"""Documents into rows of a fixed length, several documents a row."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHORTEST_ROW = 8
ROWS_AT_ONCE = 1024


class PackedRows(NamedTuple):
    """Rows: int32 ids [b, l], and the number 1, 2, ... of the document in its row that each belongs to; padding, at the
    end, has number 0."""

    ids_bl: np.ndarray
    documents_bl: np.ndarray


def pack(
    documents: Iterable[Sequence[int] | np.ndarray], length: int, cls_id: int, sep_id: int, pad_id: int
) -> Iterator[PackedRows]:
    """Rows of `length` positions that hold the ids of all documents in order, each as [CLS] ids [SEP].

    A document that does not fit fills the row, and its rest opens the next row with its own [CLS]; where fewer than
    `shortest_part(length)` positions are left, they are padding instead. Documents without ids are left out. The rows
    come a thousand or so at a time, for what is done with many at once is cheap.
    """
    held: list[PackedRows] = []
    count = 0
    for rows in _pack(documents, _Row(length, cls_id, sep_id, pad_id)):
        held.append(rows)
        count += len(rows.ids_bl)
        if count >= ROWS_AT_ONCE:
            yield _joined(held)
            held, count = [], 0
    if held:
        yield _joined(held)


def shortest_part(length: int) -> int:
    """Positions, [CLS] and [SEP] included, below which a document's beginning is not worth cutting off."""
    return max(3, min(32, length // 4))


def _joined(parts: list[PackedRows]) -> PackedRows:
    return PackedRows(*map(np.concatenate, zip(*parts, strict=True)))


def _pack(documents: Iterable[Sequence[int] | np.ndarray], row: "_Row") -> Iterator[PackedRows]:
    """The rows, one at a time or all those at once that one document fills."""
    for ids in documents:
        ids = np.asarray(ids, np.int32)
        if not ids.size:
            continue
        if ids.size + 2 > row.room and row.room < shortest_part(row.length):
            yield row.take()
        if row.used:
            ids = row.add(ids)
            if row.room == 0:
                yield row.take()
        whole, rest = divmod(ids.size, row.length - 2)
        if whole:
            yield row.filled_by(ids[: ids.size - rest])
        if rest:
            row.add(ids[ids.size - rest :])
    if row.used:
        yield row.take()


class _Row:
    """The row being filled."""

    def __init__(self, length: int, cls_id: int, sep_id: int, pad_id: int):
        self.length = length
        self._cls_id, self._sep_id, self._pad_id = cls_id, sep_id, pad_id
        self._clear()

    def _clear(self) -> None:
        self._ids_l = np.full(self.length, self._pad_id, np.int32)
        self._documents_l = np.zeros(self.length, np.int32)
        self.used, self._number = 0, 0

    @property
    def room(self) -> int:
        return self.length - self.used

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds a document, or what fits of it; returns the ids that did not fit."""
        part = ids[: self.room - 2]
        self._number += 1
        end = self.used + part.size + 2
        self._ids_l[self.used] = self._cls_id
        self._ids_l[self.used + 1 : end - 1] = part
        self._ids_l[end - 1] = self._sep_id
        self._documents_l[self.used : end] = self._number
        self.used = end
        return ids[part.size :]

    def take(self) -> PackedRows:
        """The row as it is; a fresh one takes its place."""
        row = PackedRows(self._ids_l[None], self._documents_l[None])
        self._clear()
        return row

    def filled_by(self, ids: np.ndarray) -> PackedRows:
        """Whole rows of one document, beside the row being filled."""
        parts = ids.reshape(-1, self.length - 2)
        ids_bl = np.empty((len(parts), self.length), np.int32)
        ids_bl[:, 0], ids_bl[:, 1:-1], ids_bl[:, -1] = self._cls_id, parts, self._sep_id
        return PackedRows(ids_bl, np.ones_like(ids_bl))
