"""A set of runs with what they are compared by."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from deberta_jax.reports.comparison import Quantity, quantities_of
from deberta_jax.reports.metric import Metric, chosen
from deberta_jax.reports.runs import STATES, Found, Run
from deberta_jax.reports.variations import ENOUGH_SEEDS, Variation, comparable, variations_of


@dataclass(frozen=True, eq=False)
class Study:
    """What a report is about."""

    title: str
    commands: tuple[str, ...]  # of the sweeps and suites
    metric: Metric
    runs: tuple[Run, ...]
    variations: tuple[Variation, ...]  # the best first
    quantities: tuple[Quantity, ...]  # to draw


def study_of(found: Found, given: Metric | None, title: str) -> Study:
    """The study of runs. Raises Refused where there is no metric to compare them by: see metric.chosen."""
    metric = chosen(given, found.runs, found.sweeps)
    variations = variations_of(found.runs, metric)
    return Study(title, found.commands, metric, found.runs, variations, quantities_of(found.runs, metric))


def counts(runs: Iterable[Run]) -> str:
    """ "24 runs: 22 done, 1 failed, 1 not run"."""
    states = Counter(run.ending.state for run in runs)
    total = states.total()
    each = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return f"{total} run{'s' * (total > 1)}: {each}"


def notes(study: Study) -> list[str]:
    """What a reader of the tables has to know, in sentences."""
    better = {"max": "more", "min": "less"}[study.metric.goal]
    kept = any(run.kept_step is not None for run in study.runs)
    unfinished = any(run.ending.state == "unfinished" for run in study.runs)
    several_kinds = not comparable(study.variations)
    enough = not several_kinds and any(len(each.runs) >= ENOUGH_SEEDS for each in study.variations[1:])
    said = {
        f"Compared by {study.metric.key}, {better} is better: the last value that a run has written.": True,
        "Of a fine-tuned run the values are those of the parameters it has kept.": kept,
        "Runs whose configs differ in the seed only are one variation: "
        "mean ± sample standard deviation over those that are done.": True,
        "The variations are of several objectives or tasks: differences of their values say nothing.": several_kinds,
        "In standard deviations of the seeds: the difference of the means over the root of the mean of both variances, "
        f"where both have at least {ENOUGH_SEEDS} runs.": enough,
        "Unfinished: not at the last step, and no word of why; it is running, or was killed.": unfinished,
    }
    return [sentence for sentence, applies in said.items() if applies]
