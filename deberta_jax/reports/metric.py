"""The number that runs are compared by: which one, whether more of it is better, and what a run has reached."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from deberta_jax.errors import Refused, nearest
from deberta_jax.reports.runs import Run, Sweep

GOALS = ("max", "min")


class Metric(NamedTuple):
    """A key of metrics.jsonl, and "max" or "min"."""

    key: str
    goal: str

    def rank(self, value: float | None) -> tuple[int, float]:
        """Sorts the best value first, what is no number after the numbers, None last."""
        if value is None or math.isnan(value):
            return (2 if value is None else 1, 0.0)
        return (0, -value if self.goal == "max" else value)


BY_OBJECTIVE = {"mlm": Metric("eval/loss", "min"), "rtd": Metric("eval/discriminator/f1", "max")}
OF_TASKS = Metric("eval/score", "max")  # what chooses a fine-tuned run's checkpoint


class Reached(NamedTuple):
    """A value, and after how many steps it was measured."""

    value: float  # NaN: the run has written that it is no finite number
    step: int


def reached(run: Run, key: str) -> Reached | None:
    """The run's last value of `key`; of a fine-tuned run that of the parameters that were kept. None without any."""
    if key not in run.metrics:
        return None
    series = run.metrics[key]
    counted = len(series.steps) if run.kept_step is None else int((series.steps <= run.kept_step).sum())
    return Reached(float(series.values[counted - 1]), int(series.steps[counted - 1])) if counted else None


def parsed(text: str) -> Metric:
    """The metric of "eval/accuracy:max". Raises Refused for other text."""
    key, _, goal = text.rpartition(":")
    if not key or goal not in GOALS:
        raise Refused(f"--metric={text}: expects KEY:max or KEY:min, as eval/loss:min{nearest(goal, GOALS)}")
    return Metric(key, goal)


def chosen(given: Metric | None, runs: Sequence[Run], sweeps: Sequence[Sweep]) -> Metric:
    """The metric that was given, else that of the sweeps, else that of the runs' kind.

    Raises Refused where that is not a single one, or where runs were evaluated but none of them has this key.
    """
    metric = given or _only(_defaults(runs, sweeps))
    known = sorted({key for run in runs for key in run.metrics} - {"step"})
    not_yet = metric.key.startswith("eval/") and not any(key.startswith("eval/") for key in known)
    if metric.key not in known and not not_yet:
        there = ", ".join(known) or "no numbers yet"
        raise Refused(f"--metric: no run has {metric.key!r}{nearest(metric.key, known)}; there are {there}")
    return metric


def _defaults(runs: Sequence[Run], sweeps: Sequence[Sweep]) -> list[Metric]:
    if sweeps:
        return list(dict.fromkeys(Metric(sweep.metric, sweep.goal) for sweep in sweeps))
    objectives = dict.fromkeys(run.config["objective"] for run in runs if run.config)
    return list(dict.fromkeys(BY_OBJECTIVE.get(name, OF_TASKS) for name in objectives))


def _only(metrics: Sequence[Metric]) -> Metric:
    if len(metrics) > 1:
        named = " or ".join(f"--metric={key}:{goal}" for key, goal in metrics)
        raise Refused(f"these runs are of several kinds: say what they are compared by, as {named}")
    return metrics[0] if metrics else BY_OBJECTIVE["mlm"]  # no run has come as far as its config
