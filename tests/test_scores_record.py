"""Scores of ReCoRD, counted by hand."""

import pytest

from deberta_jax.scores.record import record

GOLDS = [["New York", "New York City", "the Big Apple"], ["Barack Obama"], ["U.N."]]


def test_the_best_of_several_golds_counts():
    # "big apple!" is the third gold once normalised; "Obama" has precision 1, recall 1/2: F1 2/3; "EU" shares nothing
    assert record(GOLDS, ["big apple!", "Obama", "EU"]) == pytest.approx({"f1": (1 + 2 / 3) / 3, "em": 1 / 3})
    # "York City" against "New York City": precision 1, recall 2/3, F1 4/5; against "New York" only 1/2
    assert record(GOLDS[:1], ["York City"]) == pytest.approx({"f1": 4 / 5, "em": 0})


@pytest.mark.parametrize("which", [0, -1])
def test_every_gold_is_right(which):
    assert record(GOLDS, [golds[which] for golds in GOLDS]) == {"f1": 1, "em": 1}


def test_the_order_of_queries_and_of_golds_changes_nothing():
    answers = ["York City", "Obama", "UN"]
    turned = [golds[::-1] for golds in GOLDS[::-1]]
    assert record(turned, answers[::-1]) == pytest.approx(record(GOLDS, answers))


def test_a_query_without_golds_or_without_an_answer_is_an_error():
    with pytest.raises(ValueError, match="no gold answer to compare 'Obama'"):
        record([[]], ["Obama"])
    with pytest.raises(ValueError, match="3 questions, but 1 predictions"):
        record(GOLDS, ["Obama"])
