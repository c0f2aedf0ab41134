"""The picture of a grid over two parameters: a cell for each pair of values, the better the darker."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deberta_jax.reports.metric import Metric
from deberta_jax.reports.numbers import NONE, decimals, said, setting
from deberta_jax.reports.variations import SEED, Variation, differing_keys, score

INCHES_A_COLUMN, INCHES_A_ROW = 1.15, 0.5
WHITE_FROM = 0.6  # the darkness from which white is easier to read than black
LIGHTEST, DARKEST = 0.08, 0.85  # of the colours: the worst cell is not white, the best not black


@dataclass(frozen=True, eq=False)
class Grid:
    """The mean over the seeds at [row, column]; NaN where there is none."""

    row_key: str
    column_key: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    means: np.ndarray
    counts: np.ndarray  # seeds


def grid_of(variations: Sequence[Variation], key: str) -> Grid | None:
    """The grid that the variations are of; None where not exactly two parameters vary, or most of the cells are empty.

    Of sweeps the parameters are what the trials override, of other runs what differs in their configs.
    """
    parameters = _parameters(variations)
    if len(parameters) != 2:
        return None
    known = [each for each in variations if all(name in each.settings for name in parameters)]
    rows, columns = (_sorted([each.settings[name] for each in known]) for name in parameters)
    if len(known) * 2 <= len(rows) * len(columns):  # a random search, or values that change together
        return None
    means, counts = np.full((len(rows), len(columns)), np.nan), np.zeros((len(rows), len(columns)), int)
    for each in known:
        place = tuple(
            values.index(each.settings[name]) for values, name in zip((rows, columns), parameters, strict=True)
        )
        counts[place], mean, _ = score(each, key)
        means[place] = np.nan if mean is None else mean
    return Grid(*parameters, tuple(map(setting, rows)), tuple(map(setting, columns)), means, counts)


def _parameters(variations: Sequence[Variation]) -> list[str]:
    differing = differing_keys(variations)
    trials = [run.trial for each in variations for run in each.runs]
    if not all(trials):
        return differing
    overridden = dict.fromkeys(key for trial in trials for key in trial.overrides if key != SEED)
    return [key for key in overridden if key in differing]


def _sorted(values: Sequence[Any]) -> list[Any]:
    """Each value once: numbers by their size, others as they come."""
    each = [value for number, value in enumerate(values) if value not in values[:number]]
    numbers = all(isinstance(value, (int, float)) for value in each)
    return sorted(each) if numbers else each


def draw_heat_map(grid: Grid, metric: Metric) -> Figure:
    """Values are categories, whatever lies between them. The best cell is framed; an empty one says so."""
    row_count, column_count = grid.means.shape
    size = (max(5.0, 3 + INCHES_A_COLUMN * column_count), 1.5 + INCHES_A_ROW * row_count)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    shades = _shades(grid.means, metric)
    edges = np.arange(column_count + 1) - 0.5, np.arange(row_count + 1) - 0.5
    axes.pcolormesh(*edges, np.ma.masked_invalid(shades), cmap="Blues", vmin=0, vmax=1, edgecolor="white", linewidth=1)
    axes.invert_yaxis()  # the first row above
    digits = decimals(grid.means[np.isfinite(grid.means)], [])
    for (row, column), mean in np.ndenumerate(grid.means):
        text = said(mean, digits) if grid.counts[row, column] else NONE
        colour = "white" if shades[row, column] > WHITE_FROM else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)
    if np.isfinite(grid.means).any():
        row, column = np.unravel_index(np.nanargmax(shades), shades.shape)
        corner = column - 0.5, row - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#222222", linewidth=1.6, zorder=3))
    _name_axes(axes, grid, metric)
    return figure


def _shades(means: np.ndarray, metric: Metric) -> np.ndarray:
    """How dark each cell is: the best DARKEST, the worst LIGHTEST, NaN without a number."""
    good = means if metric.goal == "max" else -means
    finite = good[np.isfinite(good)]
    if not finite.size:
        return np.full(means.shape, np.nan)
    low, high = finite.min(), finite.max()
    share = (good - low) / (high - low) if high > low else np.where(np.isfinite(good), 1.0, np.nan)
    return LIGHTEST + (DARKEST - LIGHTEST) * share


def _name_axes(axes: Axes, grid: Grid, metric: Metric) -> None:
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.set_xlabel(grid.column_key)
    axes.set_ylabel(grid.row_key)
    axes.set_title(f"{metric.key}, mean over seeds; darker is better", loc="left", fontsize=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
