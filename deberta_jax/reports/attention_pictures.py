"""Pictures of attention: heat maps of each layer and head, all heads at a glance, and what is left of it by distance.

Probabilities are drawn from 0 to 1 in every heat map, shaded by their square root, so that a key of a twentieth is
seen and all panels compare. Parts of the scores are red above zero and blue below; a head's parts share one scale.
"""

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

TITLES = {
    "c2c": "content to content",
    "c2p": "content to position",
    "p2c": "position to content",
    "p2p": "position to position",
}
COLOURS = {"c2c": "#4477aa", "c2p": "#cc3311", "p2c": "#ddaa33", "p2p": "#aa4499"}  # tell apart without colour vision
DARK, LIGHT = "#222222", "#777777"
PROBABILITY = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, 1)}
SHADES = (0, 0.05, 0.25, 0.5, 1)  # written beside a scale of probabilities
DPI = 120
CHARACTERS = 12  # of a title to the inch
INCHES_A_TOKEN, POINTS = 0.125, 7  # of a token's name
NAMED = 48  # tokens at most that are named
LONGEST_NAME = 16  # characters
SMALLEST_PANEL, GAP = 1.5, 0.12  # inches
BAR, NUMBERS = 0.1, 0.6  # inches: of a colour bar, of what stands at its right
HEADING = 0.4  # inches, above everything


@dataclasses.dataclass(frozen=True)
class Layer:
    """Attention of one layer to one text: query q (down), key k (across)."""

    name: str
    probability_hqk: np.ndarray
    parts: Mapping[str, np.ndarray]  # of the scores, [h, q, k] by the names of TITLES


@dataclasses.dataclass(frozen=True)
class ByDistance:
    """Means of a layer over the pairs of each distance d = i - j of query i from key j, -(n-1) first."""

    name: str
    probability_d: np.ndarray
    parts: Mapping[str, np.ndarray]  # [d]


@dataclasses.dataclass(frozen=True)
class Row:
    """Where the panels of a head stand, in inches: constrained layout takes minutes for so many."""

    figure: Figure
    left: float
    bottom: float
    side: float

    def axes(self, start: float, width: float) -> Axes:
        """`width` wide, its left edge `start` to the right of the first panel's."""
        across, up = self.figure.get_size_inches()
        place = (self.left + start) / across, self.bottom / up, width / across, self.side / up
        return self.figure.add_axes(place)


def plot_layer(layer: Layer, tokens: Sequence[str], path: str | Path) -> None:
    """Draws a layer into the PNG file `path`: see draw_layer."""
    draw_layer(layer, tokens).savefig(path, format="png", dpi=DPI)


def draw_layer(layer: Layer, tokens: Sequence[str]) -> Figure:
    """A row for each head: its probabilities, then the parts of its scores on one scale around zero.

    Tokens are named along both axes, above and below all heads; of more than NAMED every second, third, ...
    """
    names = [shortened(token) for token in tokens]
    margin = 0.2 + max(map(inches, names))
    side = max(SMALLEST_PANEL, INCHES_A_TOKEN * min(len(names), NAMED))
    heads = len(layer.probability_hqk)
    left = margin + 0.35
    width = left + (1 + len(layer.parts)) * (side + GAP) + 2 * (BAR + NUMBERS)
    height = 2 * margin + heads * (side + GAP) + HEADING
    figure = Figure(figsize=(width, height))
    figure.text(0.1 / width, 1 - 0.1 / height, layer.name, va="top", fontsize=12)
    for head in range(heads):
        row = Row(figure, left, margin + (heads - 1 - head) * (side + GAP), side)
        images = _draw_head(row, layer, head)
        for column, image in enumerate(images):
            _name_tokens(image.axes, names, left=column == 0, top=head == 0, bottom=head == heads - 1)
        images[0].axes.set_ylabel(f"head {head}", fontsize=10)
        if head == 0:
            for image, title in zip(images, ("probability", *map(TITLES.get, layer.parts)), strict=True):
                image.axes.set_title(title, fontsize=10)
    return figure


def _draw_head(row: Row, layer: Layer, head: int) -> list[AxesImage]:
    """The panels of a head, and right of the first and of the last their scales."""
    probability = row.axes(0, row.side).imshow(layer.probability_hqk[head], **PROBABILITY)
    _draw_scale(row, row.side + GAP / 2, probability, ticks=SHADES)
    start, images = row.side + GAP + BAR + NUMBERS, [probability]
    bound = max(np.abs(part_hqk[head]).max() for part_hqk in layer.parts.values()) or 1  # all may be zero
    for part_hqk in layer.parts.values():
        images.append(row.axes(start, row.side).imshow(part_hqk[head], cmap="RdBu_r", vmin=-bound, vmax=bound))
        start += row.side + GAP
    _draw_scale(row, start - GAP / 2, images[-1], ticks=None)
    return images


def _draw_scale(row: Row, start: float, image: AxesImage, ticks: Sequence[float] | None) -> None:
    bar = row.figure.colorbar(image, cax=row.axes(start, BAR), ticks=ticks, format="%g")
    bar.ax.tick_params(labelsize=POINTS, length=2)
    bar.outline.set_linewidth(0.5)


def _name_tokens(axes: Axes, names: Sequence[str], *, left: bool, top: bool, bottom: bool) -> None:
    shown = range(0, len(names), math.ceil(len(names) / NAMED))
    labels = [names[index] for index in shown]
    axes.set_xticks(shown, labels, rotation=90)
    axes.set_yticks(shown, labels)
    sides = {"left": left, "top": top, "bottom": bottom}
    named = {f"label{side}": there for side, there in sides.items()}
    axes.tick_params(labelsize=POINTS, length=1.5, **sides, **named)


def shortened(token: str) -> str:
    """A token as a label: not too long, and no formula where it holds dollars."""
    token = token if len(token) <= LONGEST_NAME else token[: LONGEST_NAME - 1] + "…"
    return token.replace("$", r"\$")


def inches(label: str) -> float:
    """How long the name of a token is."""
    return TextPath((0, 0), label, size=POINTS).get_extents().width / 72


def plot_overview(layers: Sequence[Layer], path: str | Path, *, title: str) -> None:
    """Draws the probabilities of all layers into the PNG file `path`: see draw_overview."""
    draw_overview(layers, title).savefig(path, format="png", dpi=DPI)


def draw_overview(layers: Sequence[Layer], title: str) -> Figure:
    """The probabilities of every layer (down) and head (across), query down and key across in each, on one scale."""
    heads, side = len(layers[0].probability_hqk), 0.92  # inches; the rest of a square of 1 is between them
    left, above, below, right = 1.2, HEADING + 0.3, 0.1, 1.3
    width, height = max(left + heads + right, 4.5), above + len(layers) + below
    figure = Figure(figsize=(width, height))
    lines = textwrap.fill(title, int(CHARACTERS * width), max_lines=2, placeholder=" …").replace("$", r"\$")
    figure.text(0.1 / width, 1 - 0.1 / height, lines, va="top", fontsize=10)
    axes = figure.add_axes((left / width, below / height, heads / width, len(layers) / height))
    for (row, layer), head in ((each, head) for each in enumerate(layers) for head in range(heads)):
        edges = (head, head + side, row + side, row)
        image = axes.imshow(layer.probability_hqk[head], extent=edges, **PROBABILITY)
        axes.add_patch(Rectangle((head, row), side, side, fill=False, edgecolor=LIGHT, linewidth=0.5))
    axes.set(xlim=(0, heads), ylim=(len(layers), 0))
    axes.set_xticks(np.arange(heads) + side / 2, [f"head {head}" for head in range(heads)], fontsize=9)
    axes.set_yticks(np.arange(len(layers)) + side / 2, [layer.name for layer in layers], fontsize=9)
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    tall = min(len(layers), 4)
    place = (left + heads + GAP) / width, (below + len(layers) - tall) / height, BAR / width, tall / height
    bar = figure.add_axes(place)
    figure.colorbar(image, cax=bar, ticks=SHADES, format="%g", label="attention probability")
    return figure


def plot_by_distance(layers: Sequence[ByDistance], path: str | Path) -> None:
    """Draws means by distance into the PNG file `path`: see draw_by_distance."""
    draw_by_distance(layers).savefig(path, format="png", dpi=DPI)


def draw_by_distance(layers: Sequence[ByDistance]) -> Figure:
    """For each layer the means of the parts of the scores against the distance, and of the probability beside them."""
    figure = Figure(figsize=(11, 0.6 + 2.1 * len(layers)), layout="constrained")
    grid = figure.subplots(len(layers), 2, sharex=True, squeeze=False)
    for layer, (scores, probability) in zip(layers, grid, strict=True):
        reach = len(layer.probability_d) // 2
        distance = np.arange(-reach, reach + 1)
        for name, part_d in layer.parts.items():
            scores.plot(distance, part_d, color=COLOURS[name], linewidth=1.5, label=TITLES[name])
        probability.plot(distance, layer.probability_d, color=DARK, linewidth=1.5, label="probability")
        probability.axhline(1 / (reach + 1), color=LIGHT, linewidth=1, linestyle="--", label="all keys alike")
        probability.set_ylim(bottom=0)
        scores.set_title(f"{layer.name}: parts of the score", loc="left", fontsize=10)
        probability.set_title(f"{layer.name}: probability", loc="left", fontsize=10)
    for axes in grid.flat:
        axes.axvline(0, color=LIGHT, linewidth=0.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    lines = [line for axes in grid[0] for line in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), fontsize=9, edgecolor="none")
    for axes in grid[-1]:
        axes.set_xlabel("i - j, tokens from key j to query i (positive: the key is on the left)")
    return figure
