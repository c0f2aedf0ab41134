"""What runs have left behind in their workdirs: settings, numbers, how they ended.

A run's folder has metrics.jsonl (train.py) or trial.json (tools/sweep.py and suites). A sweep's folder has sweep.json,
which names all of its trials, those too that have not been started.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deberta_jax.errors import Refused, nearest
from deberta_jax.reports.last_words import ending_of, error_in
from deberta_jax.reports.series import Series, read_series

SWEEP, TRIAL = "sweep.json", "trial.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"  # of a suite's run that ended well
SUITE = "results.json"  # of a whole suite
SCORES = Path("validation") / "scores.json"
OF_A_RUN = (METRICS, TRIAL)
LEVELS = 2  # of folders below one that is given
STATES = ("done", "running", "unfinished", "stopped", "failed", "not run")


@dataclass(frozen=True)
class Sweep:
    """What sweep.json says of the whole."""

    folder: Path
    config: str  # PATH.py:ARG
    metric: str
    goal: str  # "max" or "min"
    command: str


class Trial(NamedTuple):
    """A sweep's entry for a run."""

    sweep: Sweep
    overrides: Mapping[str, Any]


class Ending(NamedTuple):
    """How a run stands."""

    state: str  # one of STATES; "unfinished": neither ended nor known to have failed
    error: str = ""  # the last line of a run that failed or was stopped
    exit_code: int | None = None  # where it is known
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One run, or a trial that is still to be run."""

    name: str  # its path below what was asked for
    path: Path
    ending: Ending
    trial: Trial | None  # None outside of sweeps
    config: Mapping[str, Any]  # dotted key -> value; empty before the run has got so far
    metrics: Mapping[str, Series]  # NaN for a value that is not finite
    kept_step: int | None  # whose parameters a fine-tuned run has kept
    environment: Mapping[str, Any] | None


@dataclass(frozen=True)
class Found:
    """Everything below the folders that were asked for."""

    runs: tuple[Run, ...]
    sweeps: tuple[Sweep, ...]
    commands: tuple[str, ...]  # of sweeps and suites


def find(folders: Sequence[Path]) -> Found:
    """The runs in `folders`: workdirs, sweeps, suites, or folders with such in them, up to two levels below.

    Raises Refused for a folder without runs, a run that is given twice, and a file that is not what its name says.
    """
    places = [_existing(folder).resolve() for folder in folders]
    root = Path(os.path.commonpath(places))
    found: dict[Path, Trial | None] = {}
    for folder, place in zip(folders, places, strict=True):
        below = list(_runs_below(place, LEVELS))
        if not below:
            raise Refused(f"{folder} holds no run: there is no metrics.jsonl in it or up to {LEVELS} levels below it")
        for path, trial in below:
            if path in found:
                raise Refused(f"{path} comes twice")
            found[path] = trial
    sweeps = dict.fromkeys(trial.sweep for trial in found.values() if trial)
    suites = [_fields(place / SUITE, "command")[0] for place in places if (place / SUITE).is_file()]
    return Found(
        runs=tuple(_read(path, str(path.relative_to(root)), trial) for path, trial in found.items()),
        sweeps=tuple(sweeps),
        commands=tuple(dict.fromkeys([*(sweep.command for sweep in sweeps), *suites])),
    )


def _existing(folder: Path) -> Path:
    for place in [*reversed(folder.parents), folder]:
        if not place.is_dir():
            names = [each.name for each in place.parent.iterdir() if each.is_dir()]
            raise Refused(f"{place} is no folder{nearest(place.name, names)}")
    return folder


def _runs_below(folder: Path, levels: int) -> Iterator[tuple[Path, Trial | None]]:
    """Each run's folder with its entry in a sweep, in the order of names, of a sweep in its own.

    Raises Refused where there are more below that, which would be left out.
    """
    if (folder / SWEEP).is_file():
        yield from _trials(folder)
    elif _is_run(folder):
        yield folder, None
    else:
        for inner in sorted(each for each in folder.iterdir() if each.is_dir()):
            if levels:
                yield from _runs_below(inner, levels - 1)
            elif _is_run(inner) or (inner / SWEEP).is_file():
                raise Refused(f"{inner} is more than {LEVELS} levels below: name folders that are nearer to their runs")


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in OF_A_RUN)


def _trials(folder: Path) -> Iterator[tuple[Path, Trial]]:
    path = folder / SWEEP
    *said, trials = _fields(path, "config", "metric", "goal", "command", "trials")
    sweep = Sweep(folder, *said)
    for trial in trials:
        name, overrides = _values(trial, path, "name", "overrides")
        yield folder / name, Trial(sweep, flat(overrides))


def _read(path: Path, name: str, trial: Trial | None) -> Run:
    config = flat(_json(path / "config.json")) if (path / "config.json").is_file() else {}
    metrics = read_series(path / METRICS) if (path / METRICS).is_file() else {}
    return Run(
        name=path.name if name == "." else name,
        path=path,
        ending=_ending_on_record(path) if trial or (path / TRIAL).is_file() else _ending(path, config, metrics),
        trial=trial,
        config=config,
        metrics=metrics,
        kept_step=_fields(path / SCORES, "step")[0] if (path / SCORES).is_file() else None,
        environment=_json(path / "environment.json") if (path / "environment.json").is_file() else None,
    )


def _ending_on_record(path: Path) -> Ending:
    if not (path / TRIAL).is_file():
        return Ending("not run")
    ending = Ending(*_fields(path / TRIAL, "state", "error", "exit_code", "seconds"))
    if ending.state not in STATES:
        raise Refused(f"{path / TRIAL}: there is no state {ending.state!r}{nearest(str(ending.state), STATES)}")
    return ending


def _ending(path: Path, config: Mapping[str, Any], metrics: Mapping[str, Series]) -> Ending:
    """Of a run that was started by hand: from its numbers and its log."""
    if _trained(config, metrics):
        return Ending("done")
    log = (path / "log.txt").read_text(errors="replace") if (path / "log.txt").is_file() else ""
    error = error_in(log)
    ending = ending_of(error) or ("failed" if "\nTraceback " in "\n" + log else "")
    if not ending:
        return Ending("unfinished")
    return Ending("stopped" if ending == "stopped" else "failed", error)


def _trained(config: Mapping[str, Any], metrics: Mapping[str, Series]) -> bool:
    """Whether the run was evaluated after its last step, or its last evaluations let it end early."""
    if not config or "eval/loss" not in metrics:
        return False
    if metrics["eval/loss"].steps[-1] >= config["steps"]:
        return True
    if "eval/score" not in metrics:
        return False
    scores = np.nan_to_num(metrics["eval/score"].values, nan=-np.inf)
    return 0 < config["eval.patience"] <= len(scores) - 1 - int(np.argmax(scores))


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.num_layers": 4, ...} of nested dictionaries, or of such as are flat already."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: value for name, inner in values.items() for key, value in flat(inner, f"{prefix}{name}.").items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{path} is no JSON object")
    return values


def _fields(path: Path, *names: str) -> list[Any]:
    return _values(_json(path), path, *names)


def _values(found: Mapping[str, Any], path: Path, *names: str) -> list[Any]:
    """The values of `names`. Raises Refused for one that is missing in what was read from `path`."""
    for name in names:
        if name not in found:
            raise Refused(f"{path} has no {name!r}{nearest(name, found)}")
    return [found[name] for name in names]
