"""Scores of labels, against hand counts and against their formulas."""

import numpy as np
import pytest

from deberta_jax.scores.classification import accuracy, f1, macro_f1, matthews

GOLD = ["yes", "yes", "yes", "no", "no", "no", "no", "no"]
SAID = [
    "yes",
    "yes",
    "no",
    "yes",
    "no",
    "no",
    "no",
    "no",
]  # 2 true positives, 1 false negative, 1 false positive, 4 left


def drawn(seed: int, labels: list[str], count: int = 200) -> tuple[list[str], list[str]]:
    """Gold labels and predictions that agree more often than by chance."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(labels, count)
    predicted = np.where(rng.random(count) < 0.4, gold, rng.choice(labels, count))
    return gold.tolist(), predicted.tolist()


def counted_f1(gold: list[str], predicted: list[str], label: str) -> float:
    truths, guesses = np.array(gold) == label, np.array(predicted) == label
    both, either = (truths & guesses).sum(), truths.sum() + guesses.sum()
    return 2 * both / either


def test_a_case_counted_by_hand():
    assert accuracy(GOLD, SAID) == 6 / 8
    assert f1(GOLD, SAID, "yes") == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert f1(GOLD, SAID, "no") == pytest.approx(2 * 4 / (2 * 4 + 1 + 1))
    assert macro_f1(GOLD, SAID, ["no", "yes"]) == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert matthews(GOLD, SAID) == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_their_formulas(seed):
    labels = ["contradiction", "entailment", "neutral"]
    gold, predicted = drawn(seed, labels)
    assert accuracy(gold, predicted) == pytest.approx(np.mean(np.array(gold) == np.array(predicted)))
    of_each = [counted_f1(gold, predicted, label) for label in labels]
    assert [f1(gold, predicted, label) for label in labels] == pytest.approx(of_each)
    assert macro_f1(gold, predicted, labels) == pytest.approx(np.mean(of_each))
    one, other = (np.array([[label == each for each in labels] for label in said], float) for said in (gold, predicted))
    one, other = one - one.mean(0), other - other.mean(0)
    covariance = [(a * b).sum() for a, b in ((one, other), (one, one), (other, other))]
    assert matthews(gold, predicted) == pytest.approx(covariance[0] / np.sqrt(covariance[1] * covariance[2]))


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_examples_changes_nothing(seed):
    gold, predicted = drawn(seed, ["0", "1"])
    order = np.random.default_rng(seed).permutation(len(gold))
    other_gold, other_predicted = [gold[i] for i in order], [predicted[i] for i in order]
    assert accuracy(other_gold, other_predicted) == accuracy(gold, predicted)
    assert f1(other_gold, other_predicted, "1") == f1(gold, predicted, "1")
    assert macro_f1(other_gold, other_predicted, ["0", "1"]) == macro_f1(gold, predicted, ["0", "1"])
    assert matthews(other_gold, other_predicted) == pytest.approx(matthews(gold, predicted))


def test_the_gold_labels_themselves_score_one_and_their_opposites_least():
    assert accuracy(GOLD, GOLD) == f1(GOLD, GOLD, "yes") == macro_f1(GOLD, GOLD, ["yes", "no"]) == 1
    assert matthews(GOLD, GOLD) == pytest.approx(1)
    opposite = ["no" if label == "yes" else "yes" for label in GOLD]
    assert accuracy(GOLD, opposite) == f1(GOLD, opposite, "yes") == macro_f1(GOLD, opposite, ["yes", "no"]) == 0
    assert matthews(GOLD, opposite) == pytest.approx(-1)


@pytest.mark.parametrize("said", ["yes", "no"])
def test_a_model_that_says_one_thing_only_scores_without_a_warning(said):
    always = [said] * len(GOLD)
    assert matthews(GOLD, always) == 0.0
    assert matthews(always, GOLD) == 0.0
    assert matthews(always, always) == 0.0
    assert f1(GOLD, always, "yes") == pytest.approx(2 * 3 / (3 + 8) if said == "yes" else 0.0)
    assert macro_f1(GOLD, always, ["yes", "no"]) == pytest.approx(f1(GOLD, always, said) / 2)
    assert f1(["no"], ["no"], "yes") == 0.0, "no positive label anywhere"


def test_the_macro_mean_is_over_the_labels_that_occur():
    labels = ["entailment", "neutral", "contradiction"]
    assert macro_f1(["entailment", "contradiction"], ["entailment", "contradiction"], labels) == 1
    # F1 of entailment 2/3, of contradiction 0, of neutral, which is predicted only, 0
    gold, predicted = ["entailment", "contradiction"], ["entailment", "entailment"]
    assert macro_f1(gold, predicted, labels) == pytest.approx((2 / 3 + 0) / 2)
    assert macro_f1(gold, ["entailment", "neutral"], labels) == pytest.approx((1 + 0 + 0) / 3)


def test_an_unknown_label_is_not_passed_over():
    with pytest.raises(ValueError, match="'maybe' is none of the labels yes, no"):
        macro_f1(["yes", "no"], ["yes", "maybe"], ["yes", "no"])


@pytest.mark.parametrize(("gold", "predicted"), [([], []), (["yes"], []), (["yes", "no"], ["yes"])])
def test_nothing_to_score_or_unequal_lengths_are_errors(gold, predicted):
    for score in [accuracy, matthews, lambda a, b: f1(a, b, "yes"), lambda a, b: macro_f1(a, b, ["yes", "no"])]:
        with pytest.raises(ValueError):
            score(gold, predicted)
