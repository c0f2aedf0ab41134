"""Scores of named entities, against hand counts and a plain reader of entities."""

import numpy as np
import pytest

from deberta_jax.scores.entities import entity_scores, token_accuracy


def entities_of(tags: list[str]) -> set[tuple[int, int, str]]:
    """(first, last + 1, type) of each: grown from every possible start for as long as conlleval's rule allows."""
    found = set()
    for start, tag in enumerate(tags):
        kind = tag[2:]
        before = tags[start - 1][2:] if start else ""
        if tag == "O" or (tag[0] == "I" and before == kind):
            continue
        end = start + 1
        while end < len(tags) and tags[end] == f"I-{kind}":
            end += 1
        found.add((start, end, kind))
    return found


def counted(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    pairs = [(entities_of(tags), entities_of(guesses)) for tags, guesses in zip(gold, predicted, strict=True)]
    right = sum(len(truths & guesses) for truths, guesses in pairs)
    golds, guesses = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    return {"f1": 2 * right / (golds + guesses), "precision": right / guesses, "recall": right / golds}


def drawn(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    """Any tags in any order, also those that are no IOB2: models predict such."""
    rng = np.random.default_rng(seed)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    gold = [rng.choice(tags, rng.integers(1, 12)).tolist() for _ in range(40)]
    predicted = [[tag if rng.random() < 0.7 else str(rng.choice(tags)) for tag in sentence] for sentence in gold]
    return gold, predicted


@pytest.mark.parametrize("seed", range(5))
def test_the_scores_are_those_of_a_plain_count(seed):
    gold, predicted = drawn(seed)
    assert entity_scores(gold, predicted) == pytest.approx(counted(gold, predicted))
    words = [pair for a, b in zip(gold, predicted, strict=True) for pair in zip(a, b, strict=True)]
    assert token_accuracy(gold, predicted) == pytest.approx(np.mean([a == b for a, b in words]))


@pytest.mark.parametrize(
    ("gold", "predicted", "precision", "recall"),
    [
        # two neighbours are two entities: one right of one, of two
        (["B-PER", "B-PER"], ["B-PER", "O"], 1, 1 / 2),
        # ... and not the same as one of two words
        (["B-PER", "B-PER"], ["B-PER", "I-PER"], 0, 0),
        # I-LOC after PER starts an entity of its own: PER 0:1 and LOC 1:2 are both right
        (["B-PER", "B-LOC"], ["B-PER", "I-LOC"], 1, 1),
        # ... and ends the one before: PER 0:1, LOC 1:2 against PER 0:2
        (["B-PER", "I-PER"], ["B-PER", "I-LOC"], 0, 0),
        # I- after O, and at the start, starts an entity too
        (["B-PER", "O", "B-LOC"], ["I-PER", "O", "I-LOC"], 1, 1),
        # the boundary counts: LOC 0:1 is wrong, PER 2:3 right
        (["B-LOC", "I-LOC", "B-PER"], ["B-LOC", "O", "B-PER"], 1 / 2, 1 / 2),
        # the type counts
        (["B-LOC", "I-LOC"], ["B-ORG", "I-ORG"], 0, 0),
    ],
)
def test_an_entity_is_right_if_its_words_and_type_are(gold, predicted, precision, recall):
    f1 = 2 * precision * recall / (precision + recall) if precision else 0
    expected = {"f1": f1, "precision": precision, "recall": recall}
    assert entity_scores([gold], [predicted]) == pytest.approx(expected)


def test_counts_are_of_all_sentences_together():
    gold = [["B-PER"], ["B-LOC", "O", "B-LOC", "B-LOC"]]
    predicted = [["O"], ["B-LOC", "B-PER", "B-LOC", "B-LOC"]]  # 3 right of 4 predicted, of 4 gold
    assert entity_scores(gold, predicted) == pytest.approx({"f1": 3 / 4, "precision": 3 / 4, "recall": 3 / 4})
    assert token_accuracy(gold, predicted) == pytest.approx(3 / 5)


def test_an_entity_ends_with_its_sentence():
    gold, predicted = [["B-PER"], ["I-PER"]], [["B-PER"], ["B-PER"]]
    assert entity_scores(gold, predicted)["f1"] == 1


def test_the_gold_tags_themselves_score_one_in_any_order_of_sentences():
    gold, predicted = drawn(7)
    assert entity_scores(gold, gold) == {"f1": 1, "precision": 1, "recall": 1}
    assert token_accuracy(gold, gold) == 1
    assert entity_scores(gold[::-1], predicted[::-1]) == entity_scores(gold, predicted)
    assert token_accuracy(gold[::-1], predicted[::-1]) == token_accuracy(gold, predicted)


def test_tuples_are_sentences_too():
    assert entity_scores((("B-PER", "O"),), (("B-PER", "O"),))["f1"] == 1


@pytest.mark.parametrize(
    ("gold", "predicted"), [(["O", "O"], ["O", "O"]), (["O"], ["B-PER"]), (["B-PER"], ["O"]), ([], [])]
)
def test_no_entity_scores_zero_without_a_warning(gold, predicted):
    assert entity_scores([gold], [predicted]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


@pytest.mark.parametrize("score", [entity_scores, token_accuracy])
def test_every_word_needs_a_prediction(score):
    with pytest.raises(ValueError, match="sentence 1 has 2 tags, but 1 are predicted"):
        score([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError):
        score([["O"], ["O"]], [["O"]])


def test_no_word_is_an_error():
    with pytest.raises(ValueError, match="no words"):
        token_accuracy([[]], [[]])
