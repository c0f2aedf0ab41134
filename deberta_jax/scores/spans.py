"""The rules of SQuAD for answers that are text (Rajpurkar et al. 2016, 2018), as the official scorers apply them."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII only, as the official scorers


def normalised(answer: str) -> str:
    """The answer in lower case, without punctuation, then without articles, its words one space apart."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(gold: str, predicted: str) -> float:
    """1.0 where both answers are the same once normalised, otherwise 0.0."""
    return float(normalised(gold) == normalised(predicted))


def token_f1(gold: str, predicted: str) -> float:
    """F1 of the words of the normalised answers, repeated words counted; 0.0 where they share none, as in v1.1."""
    gold_words, words = normalised(gold).split(), normalised(predicted).split()
    shared = (Counter(gold_words) & Counter(words)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def token_f1_v2(gold: str, predicted: str) -> float:
    """`token_f1`, but where an answer is empty once normalised: 1.0 if both are, as in v2."""
    if normalised(gold) and normalised(predicted):
        return token_f1(gold, predicted)
    return exact_match(gold, predicted)


def best_over_golds(measure: Callable[[str, str], float], golds: Sequence[str], predicted: str) -> float:
    """The highest `measure(gold, predicted)`. Raises ValueError where there is no gold answer."""
    if not golds:
        raise ValueError(f"no gold answer to compare {predicted!r} with")
    return max(measure(gold, predicted) for gold in golds)


def squad(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """{"exact", "f1"} of one predicted answer for each question, its best over the question's gold answers (v1.1).

    Raises ValueError where there are no questions, not as many predictions, or a question without a gold answer.
    """
    _require_equally_many(golds, predicted)
    pairs = list(zip(golds, predicted, strict=True))
    measures = {"exact": exact_match, "f1": token_f1}
    return {name: _mean([best_over_golds(measure, *pair) for pair in pairs]) for name, measure in measures.items()}


def squad_v2(
    golds: Sequence[Sequence[str]], predicted: Sequence[str], candidates: Sequence[str], null_odds: Sequence[float]
) -> dict[str, float]:
    """The scores of v2, where a question may have no gold answer and a prediction may be "", no answer.

    "exact" and "f1" are those of `predicted`; also has_answer_... and no_answer_... of the questions with and without
    gold answers, as far as there are such. "best_exact" and "best_f1" are what `candidates`, the best answers that
    are not empty, reach if those with null odds above "best_..._threshold" become no answer. Raises ValueError where
    there are no questions, or not as many of everything.
    """
    _require_equally_many(golds, predicted, candidates, null_odds)
    answerable = np.array([len(answers) > 0 for answers in golds])
    scores = scores_v2(golds, predicted)
    result = {name: _mean(values) for name, values in scores.items()}
    for kind, members in (("has_answer", answerable), ("no_answer", ~answerable)):
        if members.any():
            result |= {f"{kind}_{name}": _mean(values[members]) for name, values in scores.items()}
    for name, values in scores_v2(golds, candidates).items():
        best, threshold = best_threshold(values, answerable, candidates, null_odds)
        result |= {f"best_{name}": best, f"best_{name}_threshold": threshold}
    return result


def scores_v2(golds: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, np.ndarray]:
    """{"exact", "f1"}: the score [n] of each question, the best over its gold answers.

    Gold answers that are empty once normalised do not count; "" is the gold answer where none is left.
    """
    kept = [[answer for answer in answers if normalised(answer)] or [""] for answers in golds]
    pairs = list(zip(kept, predicted, strict=True))
    measures = {"exact": exact_match, "f1": token_f1_v2}
    return {name: np.array([best_over_golds(measure, *pair) for pair in pairs]) for name, measure in measures.items()}


def best_threshold(
    scores: np.ndarray, answerable: np.ndarray, candidates: Sequence[str], null_odds: Sequence[float]
) -> tuple[float, float]:
    """(the best mean score, the threshold on the null odds that reaches it), as the official scorer of v2 finds them.

    `scores` [n] are those of the candidates, `answerable` [n] tells which questions have a gold answer. At first no
    question is answered; then one after the other is, the lowest null odds first, and the first best state counts. So
    two of the official scorer's oddities are kept: the threshold is 0.0, whatever the odds, where answering helps
    nothing, and of questions with equal odds a part may be answered.
    """
    odds = np.asarray(null_odds, np.float64)
    order = np.argsort(odds, kind="stable")
    lost = np.array([-1.0 if candidate else 0.0 for candidate in candidates])  # by answering what has no answer
    changes = np.where(answerable, scores, lost)[order]
    totals = np.cumsum([np.sum(~answerable), *changes])  # after 0, 1, 2, ... questions are answered
    answered = int(np.argmax(totals))
    threshold = float(odds[order[answered - 1]]) if answered else 0.0
    return float(totals[answered]) / len(scores), threshold


def with_threshold(candidates: Sequence[str], null_odds: Sequence[float], threshold: float) -> list[str]:
    """Each candidate, or "", no answer, where its null odds are above the threshold."""
    return ["" if odds > threshold else text for text, odds in zip(candidates, null_odds, strict=True)]


def _require_equally_many(golds: Sequence[Sequence[str]], *others: Sequence[str] | Sequence[float]) -> None:
    if not golds:
        raise ValueError("there are no questions to score")
    for other in others:
        if len(other) != len(golds):
            raise ValueError(f"{len(golds)} questions, but {len(other)} predictions")


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values))
