"""The picture of a run: its losses and scores, training and held out, from its metrics.jsonl."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from deberta_jax.errors import Refused
from deberta_jax.reports.series import Series, read_series

TRAINING, HELD_OUT, BASELINE = "#4477aa", "#cc3311", "#777777"  # tell apart without colour vision too
SMOOTHED_POINTS = 60  # the smooth curve averages len / SMOOTHED_POINTS neighbours on either side


@dataclass(frozen=True)
class Panel:
    """How one quantity is drawn: `key` while training, "eval/" + `key` held out."""

    key: str
    title: str
    number: str  # format of a value in the legend; a percentage is one on the axis too
    legend: str  # a place that such curves leave free; "best" = wherever these do
    baseline: str = ""  # key of what a model without parameters reaches; a panel with one starts at zero
    baseline_label: str = ""


ALONE = (  # one model: "loss", and "accuracy" where it was measured
    Panel("loss", "cross-entropy at masked positions (nats)", ".2f", "upper right"),
    Panel(
        "accuracy",
        "masked tokens predicted right",
        ".1%",
        "center right",
        "eval/baseline_accuracy",
        "always the most frequent token",
    ),
)
TASK = (  # fine-tuned
    Panel("loss", "loss", ".3f", "best"),
    Panel("accuracy", "predicted right", ".1%", "best"),
    Panel("score", "the score that chooses the checkpoint", ".3f", "best"),
)
PAIR = (  # a generator and a discriminator
    Panel("generator/loss", "generator: cross-entropy at masked positions (nats)", ".2f", "upper right"),
    Panel("discriminator/loss", "discriminator: cross-entropy at every token (nats)", ".3f", "upper right"),
    Panel(
        "generator/accuracy",
        "generator: masked tokens predicted right",
        ".1%",
        "best",
        "eval/generator/baseline_accuracy",
        "always the most frequent token",
    ),
    Panel(
        "discriminator/f1",
        "discriminator: F1 on replaced tokens",
        ".3f",
        "best",
        "eval/always_replaced/f1",
        "always saying replaced",
    ),
)


def plot_curves(metrics_jsonl: str | Path, png: str | Path) -> None:
    """Draws the run's losses and scores, as far as they were measured, against steps and tokens into `png`.

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
    found = {key: series.finite() for key, series in read_series(path).items()}
    metrics = {key: series for key, series in found.items() if series.steps.size}
    if not metrics.keys() & {"loss", "eval/loss"}:
        raise Refused(f"{path} holds no loss yet")
    return metrics


def draw_curves(metrics: dict[str, Series]) -> Figure:
    """A panel for each quantity of the run that was measured, two a row; steps below, tokens above."""
    panels = [panel for panel in panels_of(metrics) if metrics.keys() & {panel.key, "eval/" + panel.key}]
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    figure = Figure(figsize=(11 if columns == 2 else 6.5, 4.5 * rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)  # of rows: a title is to stand nearer to its own panel
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_panel(axes, metrics, panel)
        axes.legend(loc=panel.legend, facecolor="white", edgecolor="none", framealpha=0.9)
    return figure


def panels_of(metrics: dict[str, Series]) -> tuple[Panel, ...]:
    """What there is to draw of the kind of run that left `metrics`."""
    if metrics.keys() & {"generator/loss", "eval/generator/loss"}:
        return PAIR
    return TASK if "epoch" in metrics else ALONE


def _draw_panel(axes: Axes, metrics: dict[str, Series], panel: Panel) -> None:
    if panel.key in metrics:
        training = metrics[panel.key]
        axes.plot(training.steps, training.values, color=TRAINING, alpha=0.25, linewidth=0.8)
        axes.plot(training.steps, smoothed(training.values), color=TRAINING, linewidth=1.8, label="training")
    if "eval/" + panel.key in metrics:
        held_out = metrics["eval/" + panel.key]
        label = f"held out, last {held_out.values[-1]:{panel.number}}"
        axes.plot(held_out.steps, held_out.values, color=HELD_OUT, linewidth=1.8, marker=".", label=label)
    if panel.baseline:
        _draw_baseline(axes, metrics, panel)
        axes.set_ylim(bottom=0)
    if panel.number.endswith("%"):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))  # 10%, but 12.5%
    axes.set_title(panel.title, loc="left", fontsize=11)
    axes.set_xlabel("steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if "tokens" in metrics:
        _add_token_axis(axes, metrics["tokens"])


def _add_token_axis(axes: Axes, tokens: Series) -> None:
    """Tokens above the steps, at the run's mean rate: rows are packed, so that steps differ by a few tokens only."""
    rate = tokens.values[-1] / max(tokens.steps[-1], 1)
    if rate > 0:
        above = axes.secondary_xaxis("top", functions=(lambda step: step * rate, lambda token: token / rate))
        above.set_xlabel("tokens")
        above.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_baseline(axes: Axes, metrics: dict[str, Series], panel: Panel) -> None:
    if panel.baseline in metrics:
        value = metrics[panel.baseline].values[-1]
        label = f"{panel.baseline_label}, {value:{panel.number}}"
        axes.axhline(value, color=BASELINE, linewidth=1.5, linestyle="--", label=label)


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each value [n] and its neighbours on either side, as far as there are any."""
    count = len(values)
    reach, index = count // SMOOTHED_POINTS, np.arange(count)
    first, end = np.maximum(index - reach, 0), np.minimum(index + reach + 1, count)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (total[end] - total[first]) / (end - first)
