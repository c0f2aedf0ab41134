"""The picture of which labels are taken for which."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INCHES_A_LABEL = 0.8
LIGHT_UP_TO = 0.65  # the share of a cell on which black is easier to read than white


def plot_confusion(
    gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str], path: str | Path, title: str
) -> None:
    """Draws into the PNG file `path` how often each gold label was predicted as each label: see draw_confusion.

    Raises ValueError where there are not equally many labels, or one that `labels` lacks.
    """
    draw_confusion(confusion(gold, predicted, labels), labels, title).savefig(path, format="png", dpi=150)


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """How often [gold, predicted] a label was predicted as another, in the order of `labels`.

    Raises ValueError where there are not equally many labels, or one that `labels` lacks.
    """
    if unknown := {*gold, *predicted}.difference(labels):
        raise ValueError(f"{min(unknown)!r} is none of the labels {', '.join(labels)}")
    number = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), np.int64)
    for truth, guess in zip(gold, predicted, strict=True):
        counts[number[truth], number[guess]] += 1
    return counts


def draw_confusion(counts: np.ndarray, labels: Sequence[str], title: str) -> Figure:
    """A cell for each pair of gold label (down) and predicted label (across), as dark as its share of its row.

    Each cell says its count, and its share where the row has any.
    """
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = INCHES_A_LABEL * len(labels)
    figure = Figure(figsize=(max(4.5, side + 2.5), max(3.5, side + 1.5)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count}\n{share:.3f}" if totals[row, 0] else f"{count}"
        axes.text(
            column, row, text, ha="center", va="center", fontsize=9, color="white" if share > LIGHT_UP_TO else "black"
        )
    figure.colorbar(image, ax=axes, label="share of the gold label")
    _name_axes(axes, labels, title)
    return figure


def _name_axes(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold")
    axes.set_title(title, loc="left", fontsize=11)
