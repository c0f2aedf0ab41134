"""Scores of MultiRC, counted by hand and by their definition."""

import numpy as np
import pytest

from deberta_jax.scores.multirc import exact_match, f1a

QUESTIONS = ["p1q1", "p1q1", "p1q1", "p1q2", "p1q2", "p2q1"]
GOLD = [True, True, False, True, False, False]
SAID = [True, True, False, True, True, False]  # only the second question has a mistake


def test_a_case_counted_by_hand():
    assert f1a(GOLD, SAID) == pytest.approx(2 * 3 / (2 * 3 + 1 + 0))  # 3 true positives, 1 false positive
    assert exact_match(GOLD, SAID, QUESTIONS) == pytest.approx(2 / 3)


def test_every_answer_of_a_question_has_to_be_right():
    for wrong in range(len(GOLD)):
        said = [truth != (index == wrong) for index, truth in enumerate(GOLD)]
        assert exact_match(GOLD, said, QUESTIONS) == pytest.approx(2 / 3)


def test_f1_counts_answers_and_not_questions():
    gold, said = [True] * 9 + [True], [True] * 9 + [False]  # a mean over the two questions would be 1/2
    assert f1a(gold, said) == pytest.approx(2 * 9 / (10 + 9))
    assert exact_match(gold, said, ["long"] * 9 + ["short"]) == 1 / 2


@pytest.mark.parametrize("seed", range(3))
def test_random_judgements_in_any_order(seed):
    rng = np.random.default_rng(seed)
    gold, questions = rng.random(300) < 0.4, rng.integers(0, 80, 300)
    said = gold ^ (rng.random(300) < 0.2)
    perfect = [bool((gold == said)[questions == question].all()) for question in np.unique(questions)]
    order = rng.permutation(300)
    for at in (np.arange(300), order):
        assert exact_match(gold[at], said[at], questions[at].tolist()) == pytest.approx(np.mean(perfect))
        assert f1a(gold[at], said[at]) == pytest.approx(2 * (gold & said).sum() / (gold.sum() + said.sum()))
    assert exact_match(gold, gold, questions.tolist()) == f1a(gold, gold) == 1


def test_nothing_right_anywhere_is_zero_without_a_warning():
    assert f1a([False, False], [False, False]) == 0.0
    assert f1a([True, False], [False, False]) == 0.0
    assert exact_match([False, False], [False, False], ["q", "q"]) == 1


def test_nothing_to_score_or_unequal_lengths_are_errors():
    with pytest.raises(ValueError, match="no answers"):
        exact_match([], [], [])
    with pytest.raises(ValueError):
        exact_match([True], [True], [])
    with pytest.raises(ValueError):
        f1a([], [])
    with pytest.raises(ValueError):
        f1a([True], [True, False])
