"""Packed rows one by one, for tests that look into each."""

from typing import NamedTuple

import numpy as np

from deberta_jax.data.packing import pack


class PackedRow(NamedTuple):
    """One of `PackedRows`."""

    ids_l: np.ndarray
    documents_l: np.ndarray


def packed_rows(*arguments) -> list[PackedRow]:
    """The rows of `pack`, which takes the same arguments."""
    return [PackedRow(*row) for rows in pack(*arguments) for row in zip(*rows, strict=True)]
