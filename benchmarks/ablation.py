"""The table and the picture of the paper's ablation, from the folder of its sweep (configs/sweeps/ablation.py).

    python -m benchmarks.ablation runs/ablation [--json=FILE] [--figure=FILE.png]

Each variation's held-out loss and accuracy, mean ± standard deviation over its seeds, and how far its loss is from the
full model's, in nats and in standard deviations (reports/variations.py: difference). JSON has every run by itself.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import table
from deberta_jax import errors, flags
from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused
from deberta_jax.reports.metric import Metric, reached
from deberta_jax.reports.numbers import signed
from deberta_jax.reports.runs import Found, Run, find
from deberta_jax.reports.suite_table import environment_lines
from deberta_jax.reports.variations import Variation, difference, score, seed_of, variations_of

FULL = "full"  # what the others are compared with
LOSS, ACCURACY = "eval/loss", "eval/accuracy"
PANELS = ((LOSS, "held-out loss (nats)"), (ACCURACY, "masked tokens predicted right"))


def main(argv: list[str]) -> None:
    """Prints the table, and writes what the flags name."""
    parser = flags.Arguments(prog="python -m benchmarks.ablation", description=__doc__)
    parser.add_argument("workdir", type=flags.local_path, help="of the sweep")
    parser.add_argument("--json", type=flags.local_path)
    parser.add_argument("--figure", type=flags.local_path)
    args = parser.parse_args(argv)
    found = find([args.workdir])
    variations = variations_of(found.runs, Metric(LOSS, "min"))
    print(table(rows_of(variations)))
    if args.json:
        write_text(args.json, json.dumps(numbers_of(found), indent=1) + "\n")
    if args.figure:
        draw(variations).savefig(args.figure, dpi=150)


def rows_of(variations: Sequence[Variation]) -> list[dict[str, str]]:
    """A line for each variation, in their order. Raises Refused where there is no full model to compare with."""
    full = next((each for each in variations if each.name == FULL), None)
    if full is None:
        raise Refused(f"no variation is called {FULL!r}: {', '.join(each.name for each in variations)}")
    return [
        {
            "variation": each.name,
            "runs": f"{score(each, LOSS).count}",
            "loss": _spread(each, LOSS, 1, 3),
            "accuracy (%)": _spread(each, ACCURACY, 100, 1),
            "loss to full": _difference(each, full),
        }
        for each in variations
    ]


def _spread(variation: Variation, key: str, scale: float, places: int) -> str:
    found = score(variation, key)
    if found.mean is None:
        return "–"
    mean = f"{scale * found.mean:.{places}f}"
    return mean if found.deviation is None else f"{mean} ± {scale * found.deviation:.{places}f}"


def _difference(variation: Variation, full: Variation) -> str:
    found = difference(variation, full, LOSS)
    if variation is full or found is None:
        return "–"
    return signed(found.value, 3) + (f" ({signed(found.deviations, 1)} s)" if found.deviations is not None else "")


def numbers_of(found: Found) -> dict[str, Any]:
    """The command, what it ran on, and what each run has reached."""
    environments = [run.environment for run in found.runs if run.environment]
    return {
        "commands": found.commands,
        "environments": environment_lines(environments),
        "runs": [_numbers(run) for run in found.runs],
    }


def _numbers(run: Run) -> dict[str, Any]:
    values = {key: got.value for key, _ in PANELS if (got := reached(run, key))}
    tokens = reached(run, "tokens")
    said = {"name": run.name, "state": run.ending.state, "seed": seed_of(run), "seconds": run.ending.seconds}
    return said | {"tokens": tokens.value if tokens else None} | values


def draw(variations: Sequence[Variation]) -> Figure:
    """A panel for the loss and one for the accuracy: a dot for each seed, a line at the mean, the best on top."""
    figure = Figure(figsize=(10, 0.42 * len(variations) + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip((left, right), PANELS, strict=True):
        _draw_panel(axes, variations, key, title)
    left.set_yticks(range(len(variations)), [each.name for each in variations])
    left.invert_yaxis()
    return figure


def _draw_panel(axes: Axes, variations: Sequence[Variation], key: str, title: str) -> None:
    for place, each in enumerate(variations):
        values = [got.value for run in each.runs if run.ending.state == "done" and (got := reached(run, key))]
        colour = "#cc3311" if each.name == FULL else "#4477aa"
        axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.6, markersize=6)
        if values:
            axes.plot([score(each, key).mean], [place], "|", color=colour, markersize=18, markeredgewidth=2)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
