"""Correlations, against hand computations and their formulas."""

import math

import numpy as np
import pytest

from deberta_jax.scores.correlation import pearson, spearman


def drawn(seed: int, count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Scores of sentence pairs in steps, with many ties, and predictions that follow them loosely."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, 11, count) / 2
    return gold, np.round(gold + rng.normal(0, 2, count), 1)


def formula(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values share the mean of their ranks."""
    lower = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return lower + (equal + 1) / 2


def test_a_case_computed_by_hand():
    # deviations of gold -1.5 -0.5 0.5 1.5, of predicted -1 -2 0 3: products 1.5 + 1 + 0 + 4.5 = 7, squares 5 and 14
    assert pearson([1, 2, 3, 4], [1, 0, 2, 5]) == pytest.approx(7 / math.sqrt(5 * 14))
    # ranks 1 2 3 4 and 2 1 3 4: 1 - 6 * (1 + 1) / (4 * 15)
    assert spearman([1, 2, 3, 4], [1, 0, 2, 5]) == pytest.approx(0.8)


@pytest.mark.parametrize("seed", range(5))
def test_the_correlations_are_their_formulas(seed):
    gold, predicted = drawn(seed)
    assert pearson(gold, predicted) == pytest.approx(formula(gold, predicted))
    assert spearman(gold, predicted) == pytest.approx(formula(ranks(gold), ranks(predicted)))


def test_the_order_the_scale_and_for_ranks_the_curve_change_nothing():
    gold, predicted = drawn(0)
    order = np.random.default_rng(0).permutation(len(gold))
    for score in (pearson, spearman):
        assert score(gold[order], predicted[order]) == pytest.approx(score(gold, predicted))
        assert score(gold, 3 * predicted - 7) == pytest.approx(score(gold, predicted))
        assert score(gold, -predicted) == pytest.approx(-score(gold, predicted))
        assert score(gold, gold) == pytest.approx(1)
    assert spearman(gold, np.exp(predicted)) == pytest.approx(spearman(gold, predicted))
    assert pearson(gold, np.exp(predicted)) != pytest.approx(pearson(gold, predicted), abs=0.05)


@pytest.mark.parametrize("score", [pearson, spearman])
def test_what_is_not_defined_is_zero_without_a_warning(score):
    assert score([1.0, 2.0, 3.0], [2.5, 2.5, 2.5]) == 0.0
    assert score([2.5, 2.5, 2.5], [1.0, 2.0, 3.0]) == 0.0
    assert score([1.0, 2.0, 3.0], [0.3, 0.1 + 0.2, 0.3]) == 0.0, "constant but for rounding"
    assert score([1.0, 2.0], [0.0, 0.0]) == 0.0
    assert score([1.0], [2.0]) == 0.0
    assert score([], []) == 0.0


@pytest.mark.parametrize("score", [pearson, spearman])
def test_small_differences_of_32_bits_are_no_constant(score):
    predicted = np.float32(2.5) + np.arange(4, dtype=np.float32) * np.float32(2**-20)
    assert score([1, 2, 3, 4], predicted) == pytest.approx(1)


@pytest.mark.parametrize("score", [pearson, spearman])
def test_unequal_lengths_are_an_error(score):
    with pytest.raises(ValueError, match="1 gold numbers, but 3 predicted"):
        score([1.0], [1.0, 2.0, 3.0])
