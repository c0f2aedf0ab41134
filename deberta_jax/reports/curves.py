"""The picture of a run: training and held-out loss and accuracy from its metrics.jsonl."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from deberta_jax.errors import Refused

TRAINING, HELD_OUT, BASELINE = "#4477aa", "#cc3311", "#777777"  # tell apart without colour vision too
SMOOTHED_POINTS = 60  # the smooth curve averages len / SMOOTHED_POINTS neighbours on either side


@dataclass(frozen=True)
class Series:
    """One quantity: `values` [n] measured after `steps` [n]."""

    steps: np.ndarray
    values: np.ndarray


def plot_curves(metrics_jsonl: str | Path, png: str | Path) -> None:
    """Draws the run's loss, and its accuracy where it was measured, against steps and tokens into `png`.

    Raises Refused where the file is missing or holds no loss.
    """
    draw_curves(read_metrics(metrics_jsonl)).savefig(png, dpi=150)


def read_metrics(metrics_jsonl: str | Path) -> dict[str, Series]:
    """Every numeric key of a metrics file as a Series in the order of the file; nulls, non-finite values, are left out.

    Raises Refused where the file is missing or holds neither "loss" nor "eval/loss".
    """
    path = Path(metrics_jsonl)
    if not path.is_file():
        raise Refused(f"{path} does not exist: a run leaves its metrics.jsonl in its workdir")
    points: dict[str, list[tuple[int, float]]] = {}
    complete_lines = path.read_text().rpartition("\n")[0]  # a run that is being written may end in half a line
    for line in complete_lines.splitlines():
        row = json.loads(line)
        for key, value in row.items():
            if isinstance(value, (int, float)):
                points.setdefault(key, []).append((row["step"], value))
    if not points.keys() & {"loss", "eval/loss"}:
        raise Refused(f"{path} holds no loss yet")
    return {key: Series(*map(np.array, zip(*pairs, strict=True))) for key, pairs in points.items()}


def draw_curves(metrics: dict[str, Series]) -> Figure:
    """One panel of losses and, where there is an accuracy, a second one; steps below, tokens above."""
    has_accuracy = bool(metrics.keys() & {"accuracy", "eval/accuracy"})
    figure = Figure(figsize=(11 if has_accuracy else 6.5, 4.5), layout="constrained")
    panels = figure.subplots(1, 1 + has_accuracy, squeeze=False)[0]
    _draw_panel(panels[0], metrics, "loss", "cross-entropy at masked positions (nats)")
    if has_accuracy:
        _draw_panel(panels[1], metrics, "accuracy", "masked tokens predicted right")
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panels[1].set_ylim(bottom=0)
        _draw_baseline(panels[1], metrics)
    for panel, place in zip(panels, ("upper right", "center right"), strict=False):  # where such curves leave room
        panel.legend(loc=place, facecolor="white", edgecolor="none", framealpha=0.9)
    return figure


def _draw_panel(panel: Axes, metrics: dict[str, Series], key: str, title: str) -> None:
    if key in metrics:
        training = metrics[key]
        panel.plot(training.steps, training.values, color=TRAINING, alpha=0.25, linewidth=0.8)
        panel.plot(training.steps, smoothed(training.values), color=TRAINING, linewidth=1.8, label="training")
    if "eval/" + key in metrics:
        held_out = metrics["eval/" + key]
        label = "held out, last " + _worded(key, held_out.values[-1])
        panel.plot(held_out.steps, held_out.values, color=HELD_OUT, linewidth=1.8, marker=".", label=label)
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel("steps")
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if "tokens" in metrics:
        _add_token_axis(panel, metrics["tokens"])


def _add_token_axis(panel: Axes, tokens: Series) -> None:
    """Tokens above the steps, at the run's mean rate: rows are packed, so that steps differ by a few tokens only."""
    rate = tokens.values[-1] / max(tokens.steps[-1], 1)
    if rate > 0:
        above = panel.secondary_xaxis("top", functions=(lambda step: step * rate, lambda token: token / rate))
        above.set_xlabel("tokens")
        above.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_baseline(panel: Axes, metrics: dict[str, Series]) -> None:
    if "eval/baseline_accuracy" in metrics:
        value = metrics["eval/baseline_accuracy"].values[-1]
        label = f"always the most frequent token, {value:.1%}"
        panel.axhline(value, color=BASELINE, linewidth=1.5, linestyle="--", label=label)


def _worded(key: str, value: float) -> str:
    return f"{value:.1%}" if key == "accuracy" else f"{value:.2f}"


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each value [n] and its neighbours on either side, as far as there are any."""
    count = len(values)
    reach, index = count // SMOOTHED_POINTS, np.arange(count)
    first, end = np.maximum(index - reach, 0), np.minimum(index + reach + 1, count)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (total[end] - total[first]) / (end - first)
