"""The picture of scores: a bar for each task and each kind of run, with its spread and the single runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deberta_jax.errors import Refused

COLOURS = ("#4477aa", "#cc3311", "#777777", "#ddaa33", "#117733", "#aa4499")  # tell apart without colour vision too
DOT = "#222222"
GROUP_WIDTH = 0.8  # of the distance between two tasks
INCHES_A_BAR = 0.55

Values = Mapping[str, Mapping[str, Sequence[float]]]  # series -> task -> the score of each run


def plot_bars(values: Values, path: str | Path, *, title: str) -> None:
    """Draws the scores into the PNG file `path`: see draw_bars. Raises Refused as that does."""
    draw_bars(values, title).savefig(path, format="png", dpi=150)


def draw_bars(values: Values, title: str) -> Figure:
    """For each task the mean of each series' runs, the runs as dots, and their sample standard deviation if several.

    Tasks and series stand in the order of `values`. A task without runs is left out of that series. Raises Refused
    where there is no run at all, or more series than colours.
    """
    if len(values) > len(COLOURS):
        raise Refused(f"{len(values)} series of scores to draw, but there are only {len(COLOURS)} colours")
    tasks = list(dict.fromkeys(task for runs in values.values() for task, scores in runs.items() if len(scores)))
    if not tasks:
        raise Refused("there are no scores to draw")
    figure = Figure(figsize=(max(4.5, 1.5 + INCHES_A_BAR * len(tasks) * len(values)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = GROUP_WIDTH / len(values)
    for number, (series, runs) in enumerate(values.items()):
        centres = np.arange(len(tasks)) + width * (number - (len(values) - 1) / 2)
        places = {centre: runs[task] for centre, task in zip(centres, tasks, strict=True) if len(runs.get(task, ()))}
        _draw_series(axes, places, series, COLOURS[number], width)
    _finish(axes, tasks, title)
    return figure


def _draw_series(axes: Axes, places: Mapping[float, Sequence[float]], label: str, colour: str, width: float) -> None:
    """The runs at each place on the x axis."""
    means = [np.mean(scores) for scores in places.values()]
    axes.bar(list(places), means, 0.92 * width, color=colour, alpha=0.75, label=label)
    for (centre, scores), mean in zip(places.items(), means, strict=True):
        spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
        if len(scores) > 1:
            axes.errorbar(centre, mean, spread, color=DOT, capsize=4, linewidth=1.2)
        dots = centre + 0.25 * width * np.linspace(-1, 1, len(scores)) * (len(scores) > 1)
        axes.plot(dots, scores, ".", color=DOT, markersize=5, alpha=0.7)
        top = max(0.0, mean + spread, *scores)
        axes.annotate(f"{mean:.3f}", (centre, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)


def _finish(axes: Axes, tasks: Sequence[str], title: str) -> None:
    axes.set_xticks(np.arange(len(tasks)), tasks, rotation=30, ha="right", rotation_mode="anchor")
    axes.axhline(0, color=DOT, linewidth=0.8)  # correlations may be negative
    axes.margins(y=0.1)
    axes.set_ylabel("score")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
