"""Pearson and Spearman correlation of numbers, through SciPy, which takes a second to import: where it is needed."""

from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-12  # a range this small beside the numbers themselves is no more than rounding


def pearson(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """The linear correlation, in [-1, 1]; 0.0 where it is not defined: of fewer than two items, or of a constant.

    Raises ValueError where there are not equally many numbers.
    """
    from scipy.stats import pearsonr

    truths, guesses = _numbers(gold, predicted)
    return 0.0 if _is_constant(truths) or _is_constant(guesses) else float(pearsonr(truths, guesses).statistic)


def spearman(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """The correlation of the ranks, equal numbers sharing their mean rank; 0.0 and ValueError as for `pearson`."""
    from scipy.stats import spearmanr

    truths, guesses = _numbers(gold, predicted)
    return 0.0 if _is_constant(truths) or _is_constant(guesses) else float(spearmanr(truths, guesses).statistic)


def _numbers(gold: Sequence[float], predicted: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold numbers, but {len(predicted)} predicted")
    return np.asarray(gold, np.float64), np.asarray(predicted, np.float64)


def _is_constant(values: np.ndarray) -> bool:
    """Also of one value and of none; SciPy would warn."""
    return len(values) < 2 or bool(np.ptp(values) <= ROUNDING * np.abs(values).max())
