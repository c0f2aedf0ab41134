"""The report of a suite in Markdown: scores of each task over its runs, what failed, settings, environments.

Scores are shares of 1 in everything that goes in and points, a hundred times that, in what is written.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

NONE = "–"
LEGEND = "Points of 100 on the validation sets; the best of the runs is that with the highest mean of its numbers."
SETTINGS = {  # column: key of a run's config
    "epochs": "epochs",
    "learning rate": "optimizer.learning_rate",
    "batch": "batch_size",
    "warm-up steps": "optimizer.warmup_steps",
    "dropout": "head.classifier_dropout",
    "length": "data.max_length",
}


class Run(NamedTuple):
    """A run that ended well."""

    seed: int
    score: float  # what chose its checkpoint
    values: tuple[float, ...]  # of each metric that the table shows


class Row(NamedTuple):
    """A task."""

    task: str
    metrics: tuple[str, ...]
    runs: tuple[Run, ...]
    failed: tuple[int, ...]  # seeds


def medians(row: Row) -> tuple[float, ...]:
    """The median over the runs of each metric; () without runs."""
    return tuple(map(statistics.median, zip(*(run.values for run in row.runs), strict=True)))


def deviations(row: Row) -> tuple[float, ...]:
    """The sample standard deviation over the runs of each metric; () of fewer than two runs."""
    columns = zip(*(run.values for run in row.runs), strict=True)
    return tuple(map(statistics.stdev, columns)) if len(row.runs) > 1 else ()


def best(row: Row) -> Run | None:
    """The run with the highest score, the first of equals; None without runs."""
    return max(row.runs, key=lambda run: run.score, default=None)


def average(rows: Sequence[Row]) -> float | None:
    """The mean over the tasks of their medians, several metrics of a task counting as their mean, as in GLUE.

    None where a task has no run.
    """
    if not rows or not all(row.runs for row in rows):
        return None
    return statistics.fmean(statistics.fmean(medians(row)) for row in rows)


def summary(row: Row) -> dict[str, Any]:
    """The numbers of a row, ready for JSON."""
    return {
        "metrics": row.metrics,
        "median": medians(row),
        "standard_deviation": deviations(row),
        "best": run._asdict() if (run := best(row)) else None,
        "failed_seeds": row.failed,
    }


def report(
    title: str,
    rows: Sequence[Row],
    configs: Mapping[str, Mapping[str, Any] | None],
    *,
    mean: float | None,
    failures: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """The whole document: scores, their `mean` over the tasks if there is one, failures by run, settings, notes.

    `configs`: of each task that of its runs, None where all failed.
    """
    parts = [f"# {title}", scores_table(rows), LEGEND]
    if mean is not None:
        parts.append(
            f"Average of the medians of the {len(rows)} tasks, several of a task as their mean: {100 * mean:.1f}"
        )
    if failures:
        parts += ["Failed runs:", _list(f"{name}: {error}" for name, error in failures.items())]
    parts += ["## Settings", settings_table(configs), _list(notes)]
    return "\n\n".join(parts) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def scores_table(rows: Sequence[Row]) -> str:
    """A line for each task: its metrics, how many runs ended well, their median, spread and best, what failed."""
    lines = [_line("task", "metric", "runs", "median", "standard deviation", "best", "failed runs"), "|---" * 7 + "|"]
    for row in rows:
        top = best(row)
        lines.append(
            _line(
                row.task,
                " / ".join(row.metrics),
                len(row.runs),
                _points(medians(row)),
                _points(deviations(row)),
                f"{_points(top.values)} (seed {top.seed})" if top else NONE,
                f"{len(row.failed)} (seed {', '.join(map(str, row.failed))})" if row.failed else 0,
            )
        )
    return "\n".join(lines)


def settings_table(configs: Mapping[str, Mapping[str, Any] | None]) -> str:
    """A line for each task with the values that its runs' config.json has; a task without one has none."""
    lines = [_line("task", *SETTINGS), "|---" * (1 + len(SETTINGS)) + "|"]
    for task, config in configs.items():
        values = [NONE if config is None else _setting(config, key) for key in SETTINGS.values()]
        lines.append(_line(task, *values))
    return "\n".join(lines)


def environment_lines(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each different environment.json, in their order: devices, processes, versions, commit."""
    lines = []
    for found in environments:
        kinds = dict.fromkeys(found["devices"])
        devices = ", ".join(f"{found['devices'].count(kind)} × {kind}" for kind in kinds)
        packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
        processes = f" in {found['processes']} processes" if found["processes"] > 1 else ""
        lines.append(f"{devices}{processes}; Python {found['python']}, {packages}; commit {found['git']}")
    return list(dict.fromkeys(lines))


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _points(values: Sequence[float]) -> str:
    return " / ".join(f"{100 * value:.1f}" for value in values) or NONE


def _setting(config: Mapping[str, Any], key: str) -> str:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return f"{value:g}" if isinstance(value, float) else str(value)
