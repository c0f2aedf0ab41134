"""Accuracy, F1 and Matthews correlation of labels, through scikit-learn.

scikit-learn takes a second or more to import and is needed after a run only: each function imports it.
"""

from collections.abc import Sequence

Labels = Sequence[str | int | bool]


def accuracy(gold: Labels, predicted: Labels) -> float:
    """The share of labels that are right. Raises ValueError where there are none, or not equally many."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(gold, predicted))


def f1(gold: Labels, predicted: Labels, positive: str | bool) -> float:
    """F1 of the label `positive` against all others; 0.0 where it occurs in neither sequence.

    Raises ValueError where there are no labels, or not equally many.
    """
    return _mean_f1(gold, predicted, [positive])


def macro_f1(gold: Labels, predicted: Labels, labels: Labels) -> float:
    """The mean of the F1 of every label of `labels` that occurs in either sequence, as scikit-learn has it.

    Raises ValueError where there are no labels, not equally many, or one that `labels` lacks.
    """
    seen = {*gold, *predicted}
    if unknown := seen.difference(labels):
        raise ValueError(f"{min(unknown)!r} is none of the labels {', '.join(map(str, labels))}")
    return _mean_f1(gold, predicted, [label for label in labels if label in seen])


def matthews(gold: Labels, predicted: Labels) -> float:
    """The Matthews correlation, in [-1, 1]; of three and more classes R_K (Gorodkin 2004), as GLUE has it for AX.

    It is 0.0 where gold or predictions are all alike. Raises ValueError where there are no labels, or not equally many.
    """
    from sklearn.metrics import matthews_corrcoef

    if len(gold) == len(predicted) > 0 and (len(set(gold)) == 1 or len(set(predicted)) == 1):
        return 0.0  # scikit-learn says so too, but may warn
    return float(matthews_corrcoef(gold, predicted))


def _mean_f1(gold: Labels, predicted: Labels, labels: list[str | int | bool]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, labels=labels, average="macro", zero_division=0.0))
