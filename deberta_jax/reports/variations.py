"""Runs that differ in their seed only are one variation: its mean, its deviation, its place among the others."""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.reports.metric import Metric, reached
from deberta_jax.reports.runs import Run

SEED = "seed"
OWN_FOLDER = "WORKDIR"  # stands for the run's own folder in paths of its config
ENOUGH_SEEDS = 3  # of both variations, before their difference is told in standard deviations
# ",seed=0" of a sweep's name, "/seed-0" of a suite's, "_seed0" of a folder's
SEED_IN_NAME = re.compile(r"(?:^|[,/])seed=[^,/]*|(?:^|[/_-])seed[-_]?\d+(?=$|/)")

Settings = Mapping[str, Any]  # dotted key of a config -> value


@dataclass(frozen=True, eq=False)
class Variation:
    """Runs with one config but for the seed."""

    name: str
    runs: tuple[Run, ...]  # in the order of their seeds
    settings: Settings  # without the seed; of runs that have no config yet what their trial overrides


class Score(NamedTuple):
    """Of the runs of a variation that are done."""

    count: int  # that have the key
    mean: float | None  # None without any; NaN where one is NaN
    deviation: float | None  # sample standard deviation; None of fewer than two, or where one is NaN


class Difference(NamedTuple):
    """To the best variation."""

    value: float  # below zero: less
    deviations: float | None  # in standard deviations of the seeds; None where there are too few


def variations_of(runs: Sequence[Run], metric: Metric) -> tuple[Variation, ...]:
    """The variations of `runs`, the best first, those without a value last."""
    groups: dict[str, list[Run]] = {}
    of_trials = {_trial_key(run): _config_key(run) for run in runs if run.trial and run.config}
    for run in runs:
        # A trial that has not got as far as a config goes to its siblings that have.
        own = _config_key(run) if run.config else _trial_key(run)
        groups.setdefault(of_trials.get(own, own), []).append(run)
    members = [sorted(group, key=_seed_order) for group in groups.values()]
    names = _names(members)
    found = [Variation(name, tuple(group), _settings(group)) for name, group in zip(names, members, strict=True)]
    return tuple(sorted(found, key=lambda each: metric.rank(score(each, metric.key).mean)))


def score(variation: Variation, key: str) -> Score:
    """The mean of what the runs that are done have reached, and its deviation."""
    ended = [reached(run, key) for run in variation.runs if run.ending.state == "done"]
    values = [each.value for each in ended if each is not None]
    mean = statistics.fmean(values) if values else None
    varied = len(values) > 1 and math.isfinite(mean)
    return Score(len(values), mean, statistics.stdev(values) if varied else None)


def difference(variation: Variation, best: Variation, key: str) -> Difference | None:
    """Of the means, also in units of the root of the mean of both variances. None where a mean is no finite number."""
    own, top = score(variation, key), score(best, key)
    if own.mean is None or top.mean is None or not math.isfinite(value := own.mean - top.mean):
        return None
    if min(own.count, top.count) < ENOUGH_SEEDS:
        return Difference(value, None)
    spread = statistics.fmean([own.deviation**2, top.deviation**2]) ** 0.5
    return Difference(value, value / spread if spread else None)


def comparable(variations: Sequence[Variation]) -> bool:
    """Whether all are of one objective and one task, so that a difference of their scores means something."""
    kinds = {
        tuple(each.settings[key] for key in ("objective", "data.task") if key in each.settings)
        for each in variations
        if any(run.config for run in each.runs)
    }
    return len(kinds) <= 1


def differing_keys(variations: Sequence[Variation]) -> list[str]:
    """The keys of the configs that are not the same in all variations that have one.

    A key that only some have differs; where a variation has no config, only what its trial overrides is looked at.
    """
    known = [each.settings for each in variations]
    whole = [each.settings for each in variations if any(run.config for run in each.runs)] or known
    return [key for key in dict.fromkeys(key for settings in known for key in settings) if _differs(key, known, whole)]


def _differs(key: str, known: Sequence[Settings], whole: Sequence[Settings]) -> bool:
    values = {_text(settings[key]) for settings in known if key in settings}
    return len(values) > 1 or len({key in settings for settings in whole}) > 1


def seed_of(run: Run) -> int | None:
    """None of a run that has not got as far as a config, and whose trial does not name the seed."""
    return next((found[SEED] for found in (run.config, _overrides(run)) if SEED in found), None)


def _seed_order(run: Run) -> tuple[bool, int]:
    seed = seed_of(run)
    return seed is None, seed or 0


def _config_key(run: Run) -> str:
    return _text(_without_own(run, run.config))


def _trial_key(run: Run) -> str:
    sweep = str(run.trial.sweep.folder) if run.trial else str(run.path)
    return f"{sweep} {_text(_without_own(run, _overrides(run)))}"


def _overrides(run: Run) -> Settings:
    return run.trial.overrides if run.trial else {}


def _settings(group: Sequence[Run]) -> Settings:
    begun = [run for run in group if run.config]
    return _without_own(begun[0], begun[0].config) if begun else _without_own(group[0], _overrides(group[0]))


def _without_own(run: Run, settings: Settings) -> Settings:
    """`settings` without the seed, and with the run's own folder under one name for all runs."""
    return {key: _renamed(value, run.path) for key, value in settings.items() if key != SEED}


def _renamed(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_renamed(each, folder) for each in value]
    if isinstance(value, str) and "/" in value and (path := Path(value).resolve()).is_relative_to(folder):
        return str(OWN_FOLDER / path.relative_to(folder))
    return value


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What the names of a group's runs have in common but for the seed; the whole names where that is not unique."""
    short = [" / ".join(dict.fromkeys(_without_seed(run) for run in group)) for group in groups]
    return [
        name if short.count(name) == 1 else " / ".join(run.name for run in group)
        for name, group in zip(short, groups, strict=True)
    ]


def _without_seed(run: Run) -> str:
    """Of a run whose name is its seed the folder above."""
    return SEED_IN_NAME.sub("", run.name).strip(",/") or run.path.parent.name
