"""The scores of MultiRC (Khashabi et al. 2018) that SuperGLUE reports: of answers that are each right or wrong."""

from collections.abc import Hashable, Sequence

from deberta_jax.scores import classification


def f1a(gold: Sequence[bool], predicted: Sequence[bool]) -> float:
    """F1 of the right answers, those of all questions together; 0.0 where no answer is right or said to be.

    Raises ValueError where there are no answers, or not equally many.
    """
    return classification.f1(gold, predicted, True)


def exact_match(gold: Sequence[bool], predicted: Sequence[bool], questions: Sequence[Hashable]) -> float:
    """The share of questions with every answer judged right; `questions` says for each answer which it belongs to.

    Raises ValueError where there are no answers, or not as many of everything.
    """
    perfect: dict[Hashable, bool] = {}
    for truth, guess, question in zip(gold, predicted, questions, strict=True):
        perfect[question] = perfect.get(question, True) and truth == guess
    if not perfect:
        raise ValueError("there are no answers to score")
    return sum(perfect.values()) / len(perfect)
