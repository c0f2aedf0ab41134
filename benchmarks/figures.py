"""Draws what the other benchmarks stored: python -m benchmarks.figures [--results=DIR] [--output=docs/figures]

Of each attention*.json, compile*.json and train_step*.json in --results (default: benchmarks/results) a PNG of the same
name. Every figure says on what it was measured; what was not run has no point.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullLocator

from deberta_jax import errors
from deberta_jax.flags import Arguments

ATTENTION = {  # of each implementation its colour and line; to tell apart without colour vision too
    "reference": ("#777777", "s-"),
    "xla": ("#4477aa", "^-"),
    "blockwise": ("#cc3311", "o-"),
    "gpu": ("#117733", "D-"),
    "tpu": ("#aa4499", "v-"),
    "plain": ("#222222", ".--"),
    "transformers": ("#ddaa33", "X-"),
}
LAYOUTS = {  # (laid out, remat)
    ("scanned", "none"): ("#cc3311", "o-"),
    ("scanned", "dots"): ("#4477aa", "^-"),
    ("scanned", "full"): ("#117733", "D-"),
    ("unrolled", "none"): ("#777777", "s--"),
}
COMPETITORS = {
    "ours": ("this code", "#cc3311"),
    "plain": ("plain attention in it", "#222222"),
    "stock": ("transformers", "#ddaa33"),
    "masked": ("its head on masked positions only", "#4477aa"),
    "stock, compiled": ("transformers, torch.compile", "#117733"),
    "masked, compiled": ("both", "#aa4499"),
}
BESIDE = ("jax", "torch", "transformers")


class Results(NamedTuple):
    """What `report.write` left."""

    setting: Mapping[str, Any]
    rows: list[dict[str, Any]]


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--results", default=Path(__file__).parent / "results", type=Path)
    parser.add_argument("--output", default=Path("docs/figures"), type=Path)
    args = parser.parse_args(argv)
    paths = {path: draw for kind, draw in DRAW.items() for path in sorted(args.results.glob(f"{kind}*.json"))}
    if not paths:
        raise errors.Refused(f"--results={args.results}: holds none of {', '.join(f'{kind}*.json' for kind in DRAW)}")
    args.output.mkdir(parents=True, exist_ok=True)
    for path, draw in paths.items():
        png = args.output / f"{path.stem}.png"
        draw(Results(**json.loads(path.read_text()))).savefig(png, dpi=120)
        print(png)


def draw_attention(results: Results) -> Figure:
    """Time and temporary memory of a token, forward and with gradients, against length."""
    kind = results.rows[0]
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    forward, both, memory = figure.subplots(1, 3)
    columns = ((forward, "forward ms", 1e-3), (both, "with gradients ms", 1e-3), (memory, "temp MB", 1e6))
    for name, (colour, style) in ATTENTION.items():
        rows = [row for row in results.rows if row["attention"] == name]
        for axes, column, unit in columns:
            points = [
                (row["length"], row[column] * unit / row["rows"] / row["length"]) for row in rows if column in row
            ]
            line(axes, points, colour, style, name)
    lengths = sorted({row["length"] for row in results.rows if "length" in row})
    finish(forward, "time of a token, forward", "s", "length", lengths)
    finish(both, "time of a token, with all gradients", "s", "length", lengths)
    finish(memory, "temporary memory of a token, with gradients", "B", "length", lengths)
    both.legend(frameon=False)
    title = f"attention alone: {kind['heads']} heads of 64, {kind['dtype']}, dropout {kind['rate']:g}"
    figure.suptitle(f"{title}; {measured_on(results, *BESIDE)}", fontsize=11, x=0.01, ha="left")
    return figure


def draw_compile(results: Results) -> Figure:
    """Seconds to trace and compile the step, and the temporary memory of the step, against depth."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for (laid_out, remat), (colour, style) in LAYOUTS.items():
        rows = [row for row in results.rows if (row["laid out"], row["remat"]) == (laid_out, remat)]
        label = f"{laid_out}, remat {remat}"
        line(seconds, [(row["layers"], row["together s"]) for row in rows], colour, style, label)
        line(memory, [(row["layers"], row["temp MB"] * 1e6) for row in rows], colour, style, label)
    depths = sorted({row["layers"] for row in results.rows})
    finish(seconds, "time to trace and compile the training step", "s", "layers", depths, scale="linear")
    finish(memory, "temporary memory of that step", "B", "layers", depths, scale="linear")
    seconds.legend(frameon=False)
    title = "v3_base, 8 rows of 512 tokens, float32"
    figure.suptitle(f"{title}; {measured_on(results, 'jax')}", fontsize=11, x=0.01, ha="left")
    return figure


def draw_train_step(results: Results) -> Figure:
    """Bars: the seconds of each competitor's step as a multiple of ours, for each shape."""
    shapes = list(dict.fromkeys((row["rows"], row["length"]) for row in results.rows))
    found = {(row["step of"], row["rows"], row["length"]): row["times ours"] for row in results.rows}
    names = [name for name in COMPETITORS if any((name, *shape) in found for shape in shapes)]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes, width = figure.add_subplot(), 0.8 / len(names)
    for number, name in enumerate(names):
        label, colour = COMPETITORS[name]
        places = np.arange(len(shapes)) + width * (number - (len(names) - 1) / 2)
        bars = axes.bar(places, [found[name, *shape] for shape in shapes], 0.92 * width, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=9, padding=2)
    axes.set_xticks(range(len(shapes)), [f"{rows} rows of {length} tokens" for rows, length in shapes])
    axes.set_ylabel("seconds of a training step, times this code's")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    kind = results.rows[0]
    title = (
        f"{kind['size']}, {kind['layers']} layers, {kind['dtype']}; lower is faster\n{measured_on(results, *BESIDE)}"
    )
    axes.set_title(title, loc="left", fontsize=11)
    return figure


def line(axes: Axes, points: list[tuple[float, float]], colour: str, style: str, label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.8, markersize=5)


def finish(axes: Axes, title: str, unit: str, x_label: str, places: list[int], *, scale: str = "log") -> None:
    """Title, units and ticks; a linear axis begins at zero."""
    axes.set_xscale(scale)
    axes.set_yscale(scale)
    if scale == "linear":
        axes.set_ylim(bottom=0)
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda place, _: f"{place:.0f}")
    axes.yaxis.set_major_formatter(EngFormatter(unit))
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(x_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def measured_on(results: Results, *packages: str) -> str:
    installed = results.setting["packages"]
    versions = ", ".join(f"{name} {installed[name]}" for name in packages if name in installed)
    return f"measured on {results.setting['device']}, {results.setting['cores']} cores; {versions}"


DRAW: dict[str, Callable[[Results], Figure]] = {
    "attention": draw_attention,
    "compile": draw_compile,
    "train_step": draw_train_step,
}


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
