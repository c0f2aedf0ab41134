"""Precision, recall and F1 of named entities, through seqeval, which is imported where it is needed: it is slow to."""

from collections.abc import Sequence

Sentences = Sequence[Sequence[str]]  # the tags of each sentence


def entity_scores(gold: Sentences, predicted: Sentences) -> dict[str, float]:
    """{"f1", "precision", "recall"} over the entities of all sentences: right means same words and same type.

    An entity is read as conlleval reads it: it starts at B-, and at an I- that follows O or another type. Where there
    is nothing to divide by, no entity predicted or none in the gold tags, a score is 0.0. Raises ValueError where
    there are not equally many sentences, or tags in one of them.
    """
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    _require_same_lengths(gold, predicted)
    lists = ([list(tags) for tags in sentences] for sentences in (gold, predicted))
    precision, recall, f1, _ = precision_recall_fscore_support(*lists, average="micro", zero_division=0)
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall)}


def token_accuracy(gold: Sentences, predicted: Sentences) -> float:
    """The share of words, of all sentences together, whose tag is right; O counts like any other.

    Raises ValueError where there are no words, or not equally many.
    """
    _require_same_lengths(gold, predicted)
    right = [a == b for tags, guesses in zip(gold, predicted, strict=True) for a, b in zip(tags, guesses, strict=True)]
    if not right:
        raise ValueError("there are no words to score")
    return sum(right) / len(right)


def _require_same_lengths(gold: Sentences, predicted: Sentences) -> None:
    for number, (tags, guesses) in enumerate(zip(gold, predicted, strict=True)):
        if len(tags) != len(guesses):
            raise ValueError(f"sentence {number} has {len(tags)} tags, but {len(guesses)} are predicted")
