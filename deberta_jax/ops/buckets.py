"""Relative distance to row of the relative table. Static shape work: NumPy, once per length, at trace time."""

import numpy as np


def bucket_of_distance(
    distance: np.ndarray, position_buckets: int, max_relative_positions: int, *, clamp: bool
) -> np.ndarray:
    """Signed bucket of each distance i - j: exact up to position_buckets / 2, then logarithmic.

    With `clamp`, distances are clamped to max_relative_positions - 1 first, as Microsoft's code has done since 2022.
    Without, the logarithm goes on beyond, as in the Hugging Face port. Only distances of -max_relative_positions and
    below end in another row of the table: the first one without, the second one with.

    float64 with `clamp`: at the largest distance the value sits exactly on an integer. float32 without, as transformers
    computes: for odd settings (32 buckets, a limit of 129) that is another bucket at some distance, for the released
    256 and 512 it is none. Of 410 settings tried, 2 still differ at one distance, by the last bit of a logarithm.
    """
    exact = position_buckets // 2
    limit = max_relative_positions - 1
    if clamp:
        distance = np.clip(distance, -limit, limit)
    magnitude = np.abs(distance)
    kind = np.float64 if clamp else np.float32
    share = (np.maximum(magnitude, exact) / exact).astype(kind)
    far = exact + np.ceil(np.log(share) / np.log(kind(limit / exact)) * kind(exact - 1))
    return np.where(magnitude <= exact, distance, np.sign(distance) * far).astype(np.int32)


def row_of_distance(
    distance: np.ndarray, position_buckets: int, max_relative_positions: int, *, clamp: bool
) -> np.ndarray:
    """Row of the relative table that scores each distance i - j (query minus key).

    The table has 2 * position_buckets rows, or, with position_buckets 0 (v1), 2 * max_relative_positions: then each
    distance in [-max_relative_positions, max_relative_positions) has a row of its own.
    """
    if position_buckets == 0:
        return np.clip(distance, -max_relative_positions, max_relative_positions - 1) + max_relative_positions
    bucket = bucket_of_distance(distance, position_buckets, max_relative_positions, clamp=clamp)
    return np.clip(bucket + position_buckets, 0, 2 * position_buckets - 1)
