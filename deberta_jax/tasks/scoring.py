"""How each task is scored: from its examples and the predictions for them, in the same order, to named scores.

Every function here, and every function that one returns, is a Task.score. Scores are shares of 1, or correlations in
[-1, 1]. All raise ValueError where there are no examples, not as many predictions, or a label that is hidden.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deberta_jax.scores import classification, spans
from deberta_jax.scores import multirc as multirc_scores
from deberta_jax.scores import record as record_scores
from deberta_jax.scores.correlation import pearson, spearman
from deberta_jax.scores.entities import entity_scores, token_accuracy
from deberta_jax.tasks.examples import Choice, Example, Prediction, Question, Sentence, Text

Scores = dict[str, float]
Score = Callable[[Sequence[Any], Sequence[Prediction]], Scores]  # of examples of one kind


def accuracy(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"accuracy"}"""
    return {"accuracy": classification.accuracy(*_labels(examples, predictions))}


def choices(examples: Sequence[Choice], predictions: Sequence[Prediction]) -> Scores:
    """{"accuracy"} of the numbers of the options."""
    return {"accuracy": classification.accuracy(*_labels(examples, predictions))}


def accuracy_by_group(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"accuracy", "accuracy/GROUP", ...} in the order of the groups' names; "accuracy/mean" of several groups.

    Texts without a group count in "accuracy" only.
    """
    gold, predicted = _labels(examples, predictions)
    right: dict[str, list[bool]] = {}
    for example, truth, guess in zip(examples, gold, predicted, strict=True):
        right.setdefault(example.group, []).append(truth == guess)
    by_group = {f"accuracy/{group}": float(np.mean(right[group])) for group in sorted(right) if group}
    mean = {"accuracy/mean": float(np.mean(list(by_group.values())))} if len(by_group) > 1 else {}
    return {"accuracy": classification.accuracy(gold, predicted)} | by_group | mean


def accuracy_and_f1(positive: str) -> Score:
    """{"accuracy", "f1"}, the latter of the label `positive`."""

    def score(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
        gold, predicted = _labels(examples, predictions)
        f1 = classification.f1(gold, predicted, positive)
        return {"accuracy": classification.accuracy(gold, predicted), "f1": f1}

    return score


def accuracy_and_macro_f1(labels: tuple[str, ...]) -> Score:
    """{"accuracy", "macro_f1"}, the latter the mean over those of `labels` that occur."""

    def score(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
        gold, predicted = _labels(examples, predictions)
        macro_f1 = classification.macro_f1(gold, predicted, labels)
        return {"accuracy": classification.accuracy(gold, predicted), "macro_f1": macro_f1}

    return score


def matthews(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"matthews", "accuracy"}."""
    gold, predicted = _labels(examples, predictions)
    correlation = classification.matthews(gold, predicted)
    return {"matthews": correlation, "accuracy": classification.accuracy(gold, predicted)}


def correlation(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"pearson", "spearman"} of numbers."""
    gold, predicted = _labels(examples, predictions)
    return {"pearson": pearson(gold, predicted), "spearman": spearman(gold, predicted)}


def entities(examples: Sequence[Sentence], predictions: Sequence[Prediction]) -> Scores:
    """{"f1", "precision", "recall", "token_accuracy"}: the first three of entities, the last of words."""
    gold = [example.tags for example in examples]
    _require_known(examples, predictions, gold)
    predicted = [prediction.value for prediction in predictions]
    return entity_scores(gold, predicted) | {"token_accuracy": token_accuracy(gold, predicted)}


def tags(examples: Sequence[Sentence], predictions: Sequence[Prediction]) -> Scores:
    """{"token_accuracy"} of tags that mark no entities, as parts of speech."""
    gold = [example.tags for example in examples]
    _require_known(examples, predictions, gold)
    return {"token_accuracy": token_accuracy(gold, [prediction.value for prediction in predictions])}


def squad(examples: Sequence[Question], predictions: Sequence[Prediction]) -> Scores:
    """{"exact", "f1"} by the rules of SQuAD v1.1. Raises ValueError also where a question has no answer."""
    golds = _golds(examples, predictions)
    return spans.squad(golds, [prediction.value for prediction in predictions])


def squad_v2(examples: Sequence[Question], predictions: Sequence[Prediction]) -> Scores:
    """The scores of spans.squad_v2; the best thresholds are those for the first of each prediction's best answers."""
    golds = _golds(examples, predictions)
    predicted = [prediction.value for prediction in predictions]
    candidates = [prediction.best[0][0] if prediction.best else "" for prediction in predictions]
    return spans.squad_v2(golds, predicted, candidates, [prediction.null_odds for prediction in predictions])


def multirc(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"f1a", "em"} of answers that are "true" or "false"; those with the same group belong to one question."""
    gold, predicted = ([label == "true" for label in labels] for labels in _labels(examples, predictions))
    questions = [example.group for example in examples]
    em = multirc_scores.exact_match(gold, predicted, questions)
    return {"f1a": multirc_scores.f1a(gold, predicted), "em": em}


def record(examples: Sequence[Text], predictions: Sequence[Prediction]) -> Scores:
    """{"f1", "em"} of the candidate of each group that is "true" with the highest probability, the first of equals.

    Probabilities are those of "false" and "true".
    """
    _labels(examples, predictions)
    chosen: dict[str, tuple[float, Text]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        _, true = prediction.probabilities
        if example.group not in chosen or true > chosen[example.group][0]:
            chosen[example.group] = (true, example)
    golds, answers = zip(*((example.golds, example.candidate) for _, example in chosen.values()), strict=True)
    return record_scores.record(golds, answers)


def _labels(examples: Sequence[Text] | Sequence[Choice], predictions: Sequence[Prediction]) -> tuple[list, list]:
    gold = [example.label for example in examples]
    _require_known(examples, predictions, gold)
    return gold, [prediction.value for prediction in predictions]


def _golds(examples: Sequence[Question], predictions: Sequence[Prediction]) -> list[list[str]]:
    _require_known(examples, predictions, [example.impossible for example in examples])
    return [[answer.text for answer in example.answers] for example in examples]


def _require_known(examples: Sequence[Example], predictions: Sequence[Prediction], gold: Sequence[Any]) -> None:
    if not examples:
        raise ValueError("there are no examples to score")
    if len(examples) != len(predictions):
        raise ValueError(f"{len(examples)} examples, but {len(predictions)} predictions")
    for example, label in zip(examples, gold, strict=True):
        if label is None:
            raise ValueError(f"example {example.id} has no label to score against")
