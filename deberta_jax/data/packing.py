"""Documents into rows of a fixed length, several documents a row."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

SHORTEST_ROW = 8


class PackedRow(NamedTuple):
    """A row: int32 ids, and the number 1, 2, ... of the document each belongs to; padding, at the end, has number 0."""

    ids_l: np.ndarray
    documents_l: np.ndarray


def pack(documents: Iterable[Sequence[int]], length: int, cls_id: int, sep_id: int, pad_id: int) -> Iterator[PackedRow]:
    """Rows of `length` positions that hold the ids of all documents in order, each as [CLS] ids [SEP].

    A document that does not fit fills the row, and its rest opens the next row with its own [CLS]; where fewer than
    `shortest_part(length)` positions are left, they are padding instead. Documents without ids are left out.
    """
    row = _Row(length, cls_id, sep_id, pad_id)
    for ids in documents:
        ids = np.asarray(ids, np.int32)
        while ids.size:
            if ids.size + 2 > row.room and row.room < shortest_part(length):
                yield row.take()
            ids = row.add(ids)
            if row.room == 0:
                yield row.take()
    if row.room < length:
        yield row.take()


def shortest_part(length: int) -> int:
    """Positions, [CLS] and [SEP] included, below which a document's beginning is not worth cutting off."""
    return max(3, min(32, length // 4))


class _Row:
    """The row being filled."""

    def __init__(self, length: int, cls_id: int, sep_id: int, pad_id: int):
        self._length, self._cls_id, self._sep_id, self._pad_id = length, cls_id, sep_id, pad_id
        self._clear()

    def _clear(self) -> None:
        self._ids_l = np.full(self._length, self._pad_id, np.int32)
        self._documents_l = np.zeros(self._length, np.int32)
        self._used, self._number = 0, 0

    @property
    def room(self) -> int:
        return self._length - self._used

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Adds a document, or what fits of it; returns the ids that did not fit."""
        part = ids[: self.room - 2]
        self._number += 1
        end = self._used + part.size + 2
        self._ids_l[self._used] = self._cls_id
        self._ids_l[self._used + 1 : end - 1] = part
        self._ids_l[end - 1] = self._sep_id
        self._documents_l[self._used : end] = self._number
        self._used = end
        return ids[part.size :]

    def take(self) -> PackedRow:
        """The row as it is; a fresh one takes its place."""
        row = PackedRow(self._ids_l, self._documents_l)
        self._clear()
        return row
