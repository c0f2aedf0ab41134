"""Relative distance to row of the relative table. Static shape work: NumPy, once per length, at trace time."""

import numpy as np


def bucket_of_distance(distance: np.ndarray, position_buckets: int, max_relative_positions: int) -> np.ndarray:
    """Signed bucket of each distance i - j: exact up to position_buckets / 2, then logarithmic.

    Distances are clamped to max_relative_positions - 1 first, as the released code does (the Hugging Face port does
    not, which differs beyond 511 only). float64: at the largest distance the value sits exactly on an integer.
    """
    exact = position_buckets // 2
    limit = max_relative_positions - 1
    distance = np.clip(distance, -limit, limit)
    magnitude = np.abs(distance)
    far_share = np.log(np.maximum(magnitude, exact) / exact) / np.log(limit / exact)
    far = exact + np.ceil(far_share * (exact - 1))
    return np.where(magnitude <= exact, distance, np.sign(distance) * far).astype(np.int32)


def row_of_distance(distance: np.ndarray, position_buckets: int, max_relative_positions: int) -> np.ndarray:
    """Row of the relative table ([2 * position_buckets, e]) that scores each distance i - j (query minus key)."""
    bucket = bucket_of_distance(distance, position_buckets, max_relative_positions)
    return np.clip(bucket + position_buckets, 0, 2 * position_buckets - 1)
