"""The picture of many runs: their curves on one axis, a panel for each quantity, a colour for each variation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter

from deberta_jax.reports.curves import Panel, panels_of, smoothed
from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import Run
from deberta_jax.reports.series import Series
from deberta_jax.reports.variations import Variation

# Tell apart without colour vision too (Tol's "muted" without its palest); dashes take over once they are used up.
COLOURS = ("#4477aa", "#cc3311", "#117733", "#ddaa33", "#882255", "#44aa99", "#999933", "#332288")
DASHES = ("", "6 2", "2 2")  # lengths of strokes and gaps
SCORE = "eval/score"
OTHER = "#bbbbbb"  # of variations that are left when colours and dashes are used up
MOST_POINTS = 400  # of a curve
SETTLED = 0.1  # of the longest run: what is before does not decide the height of a panel
FAR = 2  # times the distance between the quartiles from them
ENOUGH_VALUES = 50  # to tell which of them are far from most: of fewer none is left out
MARGIN = 0.04  # of a panel's height
FEW_POINTS = 30  # that are marked
SAME_RATE = 1.01  # rows are packed, so that steps of one batch size differ by a few tokens


class Style(NamedTuple):
    """How the curves of a variation look."""

    colour: str
    dashes: str  # as SVG's stroke-dasharray; "" = a whole line


class Quantity(NamedTuple):
    """A panel."""

    key: str
    title: str
    percent: bool
    training: bool  # many noisy points, drawn smoothed


def style_of(rank: int) -> Style:
    """Of the variation at `rank`, the best being 0."""
    if rank >= len(COLOURS) * len(DASHES):
        return Style(OTHER, "")
    return Style(COLOURS[rank % len(COLOURS)], DASHES[rank // len(COLOURS)])


def quantities_of(runs: Sequence[Run], metric: Metric) -> tuple[Quantity, ...]:
    """What there is to draw of the runs: the metric, losses and scores held out, losses while training."""
    panels = list(dict.fromkeys(panel for run in runs if run.metrics for panel in panels_of(run.metrics)))
    losses = [panel.key for panel in panels if panel.key.endswith("loss")]
    keys = dict.fromkeys([metric.key, *("eval/" + panel.key for panel in panels), *losses])
    wanted = [_quantity(key, panels) for key in keys]
    measured = [each for each in wanted if any(each.key in run.metrics for run in runs)]
    return tuple(
        each
        for place, each in enumerate(measured)
        if not any(_alike(runs, each, before) for before in measured[:place])
    )


def _quantity(key: str, panels: Sequence[Panel]) -> Quantity:
    """With the title of the single panel of curves.py that has the key, else with the key alone."""
    own = [panel for panel in panels if panel.key == key.removeprefix("eval/")]
    title = own[0].title.removeprefix(f"{own[0].key.partition('/')[0]}: ") if len(own) == 1 else ""
    percent = bool(own) and own[0].number.endswith("%")
    return Quantity(
        key, key if title in ("", key, "loss") else f"{key}: {title}", percent, training=not key.startswith("eval/")
    )


def _alike(runs: Sequence[Run], quantity: Quantity, other: Quantity) -> bool:
    """Whether one is the score that chooses the checkpoint, and the other the metric it was computed from."""
    if SCORE not in (quantity.key, other.key):
        return False
    evaluated = [run.metrics for run in runs if {quantity.key, other.key} & run.metrics.keys()]
    return all(
        {quantity.key, other.key} <= metrics.keys()
        and np.array_equal(metrics[quantity.key].values, metrics[other.key].values, equal_nan=True)
        for metrics in evaluated
    )


def draw_comparison(variations: Sequence[Variation], quantities: Sequence[Quantity]) -> Figure:
    """A panel for each quantity, two a row; a line for each run, that of the best variation on top.

    Over the steps, or over the tokens where the runs take different numbers of them in a step. Early values and far
    outliers may lie outside of a panel: see limits.
    """
    rows, columns = -(-len(quantities) // 2), min(len(quantities), 2)
    figure = Figure(figsize=(11.4 if columns == 2 else 7.5, 3.7 * rows), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
    begun = [run for variation in variations for run in variation.runs if run.metrics]
    rates = tokens_a_step(begun)
    scales = rates or dict.fromkeys(begun, 1.0)
    longest = max(run.metrics["step"].steps[-1] * scale for run, scale in scales.items())
    for place, quantity in enumerate(quantities, 1):
        axes = figure.add_subplot(rows, columns, place)
        drawn = []
        for rank, variation in reversed(list(enumerate(variations))):
            for run in variation.runs:
                if quantity.key in run.metrics:
                    drawn.append(curve(run.metrics[quantity.key], quantity, scales[run]))
                    _draw_curve(axes, drawn[-1], style_of(rank), marked=not quantity.training)
        axes.set_xlim(0, (1 + MARGIN) * max(longest, 1))
        if (heights := limits(drawn)) is not None:
            axes.set_ylim(*heights)
        _finish(axes, quantity, "tokens" if rates else "steps")
    return figure


def tokens_a_step(runs: Sequence[Run]) -> dict[Run, float]:
    """Of each run, where these differ and all are known; empty where steps are a fair axis."""
    if not all("tokens" in run.metrics for run in runs):
        return {}
    ends = {run: run.metrics["tokens"] for run in runs}
    rates = {run: float(each.values[-1] / each.steps[-1]) for run, each in ends.items()}
    return rates if max(rates.values()) > SAME_RATE * min(rates.values()) else {}


def curve(series: Series, quantity: Quantity, scale: float = 1.0) -> Series:
    """What is drawn of a run: of training its smoothed values, at most MOST_POINTS; held out each, NaN being a gap.

    Steps are multiplied by `scale`.
    """
    if not quantity.training:
        return Series(series.steps * scale, series.values)
    found = series.finite()
    if not found.steps.size:
        return found
    kept = np.unique(np.linspace(0, found.steps.size - 1, MOST_POINTS).round().astype(int))
    return Series(found.steps[kept] * scale, smoothed(found.values)[kept])


def limits(curves: Sequence[Series]) -> tuple[float, float] | None:
    """The height of a panel: of what comes after the first tenth of the longest run, which is high and would press the
    rest together, but for values that are far from most, as of a run that diverges. None where nothing is left.
    """
    settled = SETTLED * max((series.steps[-1] for series in curves if series.steps.size), default=0)
    values = np.concatenate([series.values[series.steps >= settled] for series in curves])
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    reach = FAR * (high - low) if values.size >= ENOUGH_VALUES and high > low else np.inf
    bottom, top = max(values.min(), low - reach), min(values.max(), high + reach)
    margin = MARGIN * (top - bottom)
    return (bottom - margin, top + margin) if margin else None


def _draw_curve(axes: Axes, series: Series, style: Style, *, marked: bool) -> None:
    line = (0, [float(length) for length in style.dashes.split()]) if style.dashes else "-"
    marker = "." if len(series.steps) <= (FEW_POINTS if marked else 1) else ""
    axes.plot(
        series.steps, series.values, color=style.colour, linestyle=line, linewidth=1.1, marker=marker, markersize=4
    )


def _finish(axes: Axes, quantity: Quantity, counted: str) -> None:
    axes.set_title(quantity.title, loc="left", fontsize=10)
    axes.set_xlabel(counted)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if quantity.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}%"))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
