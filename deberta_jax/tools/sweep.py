"""Runs train.py with many settings, one process each, and says which did best.

    python -m deberta_jax.tools.sweep --config=PATH.py[:ARG] [--config.KEY=VALUE ...] --metric=KEY:max --workdir=DIR
        [--grid=KEY=A,B ...] [--zip=KEY=A,B ...] [--random=N --range=KEY=log:A:B ...]
        [--executor=local|slurm] [--parallel=N] [--slurm=KEY=VALUE ...] [--retry_failed] [--dry_run]

Grids multiply; all --zip advance together; --random draws N points from the --range of each key (log or linear), always
the same ones. A config file with a function get_sweep(), as configs/sweeps/ablation.py, brings settings of its own.

All settings are checked before the first starts. Each trial is a workdir DIR/NAME, named by its values; its output is
in log.txt there, and DIR/report has the pictures and tables of all (tools/report.py). The same command goes on where it
was stopped: finished trials are skipped, interrupted ones go on; failed ones stay as they are without --retry_failed.
--parallel trials run at a time, each on its share of the cores and GPUs; on Slurm they are an array of jobs, and
--slurm=partition=gpu and the like say of which kind. --dry_run prints the commands of all that is not finished, for any
other scheduler.

Exit codes: 0 when all trials ended well, 1 when some did not, 2 for flags that cannot be, 75 when stopped by a signal.
"""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Failed, Refused, Stopped, nearest
from deberta_jax.reports import metric
from deberta_jax.reports.runs import OF_A_RUN, SWEEP, Run, flat
from deberta_jax.sweep import local, process, space
from deberta_jax.sweep.board import Board
from deberta_jax.sweep.identity import asked_difference, check_same, difference, refuse
from deberta_jax.sweep.trial import DONE, FAILED, JOBS, Record, Trial, noted_jobs, read_record
from deberta_jax.tools import report
from deberta_jax.tools.suite import require_root

Launch = Callable[[Sequence[Trial], Callable[[], None]], tuple[dict[str, Record], bool]]
LONGEST_NAME = 200  # bytes; file systems take 255
REPORT = "report"
NO_NAMES = {"", REPORT, "slurm", JOBS, SWEEP}  # of trials: the sweep's own folder, and what it has in there


class Plan(NamedTuple):
    """What a command line asks for, checked."""

    source: str  # of --config
    trials: list[Trial]
    steps: list[int]  # of each trial; 0 = as many as its epochs take
    metric: metric.Metric  # what the trials are judged by
    args: argparse.Namespace


def main(argv: list[str]) -> None:
    """Runs the sweep of `argv`."""
    plan = plan_of(argv)
    require_root()
    workdir = plan.args.workdir
    for trial in plan.trials:
        check_folder(trial, workdir / trial.name)
    if plan.args.dry_run:
        for trial in unfinished(plan):
            print(shlex.join(["python", "train.py", *trial.flags, f"--workdir={workdir / trial.name}"]))
        return
    launch = launcher(plan)
    with held(workdir):
        note(plan, shlex.join(["python", "-m", "deberta_jax.tools.sweep", *argv]))
        with Board(plan.trials, workdir, plan.steps, plan.metric.key, Console(stderr=True)) as board:
            ended, stopped = launch(unfinished(plan), board.show)
        conclude(plan, ended, stopped, board.fault)


def plan_of(argv: list[str]) -> Plan:
    """The plan of a command line. Raises Refused, naming what is wrong, where any of its trials could not be run."""
    split = flags.split_config_flags(argv)
    args = _parser().parse_args(split.rest)
    if split.source is None:
        raise Refused("--config=PATH.py is missing: what the trials have in common")
    if args.slurm and args.executor != "slurm":
        raise Refused("--slurm is for --executor=slurm")
    judged_by = metric.parsed(args.metric)
    if args.parallel < 1:
        raise Refused(f"--parallel must be at least 1, got {args.parallel}")
    values = flags.leaves(flags.read_config(split.source, split.assignments).config)
    whole = {key for key, value in values.items() if isinstance(value, int)}
    of_file = space.checked(flags.read_sweep(split.source), split.source)
    text = {key for key, value in values.items() if isinstance(value, (str, tuple))}
    found = space.settings(of_file, args.grid, args.zip, args.range, args.random, whole, text)
    known = noted(args.workdir / SWEEP)
    trials, steps = zip(*(checked_trial(split, setting, known) for setting in found), strict=True)
    _check_different(trials)
    return Plan(split.source, list(trials), list(steps), judged_by, args)


def _parser() -> flags.Arguments:
    parser = flags.Arguments(prog="python -m deberta_jax.tools.sweep", description=__doc__)
    parser.add_argument("--workdir", required=True, type=flags.local_path, help="where all trials go")
    parser.add_argument("--metric", required=True, help="KEY:max or KEY:min, a key of metrics.jsonl")
    parser.add_argument("--grid", action="append", default=[], help="KEY=A,B; may be repeated")
    parser.add_argument("--zip", action="append", default=[], help="KEY=A,B; all of them advance together")
    parser.add_argument("--random", type=flags.whole_number, help="how many points to draw from the ranges")
    parser.add_argument("--range", action="append", default=[], help="KEY=log:LOW:HIGH or KEY=linear:LOW:HIGH")
    parser.add_argument("--executor", choices=("local", "slurm"), default="local")
    parser.add_argument("--parallel", type=flags.whole_number, default=1, help="trials at a time")
    parser.add_argument("--slurm", action="append", default=[], help="KEY=VALUE, as partition=gpu or gpus_per_node=1")
    parser.add_argument("--retry_failed", action="store_true", help="run trials again that ended with an error")
    parser.add_argument("--dry_run", action="store_true", help="print the commands instead")
    return parser


def checked_trial(
    split: flags.ConfigFlags, setting: space.Setting, known: Sequence[Mapping[str, Any]]
) -> tuple[Trial, int]:
    """The trial of a setting, and its steps (0 = as many as its epochs take). Raises Refused where it has no config.

    `known` are the trials that sweep.json has: one with the same values keeps its name.
    """
    if twice := {key for key, _ in split.assignments} & setting.values.keys():
        raise Refused(f"{min(twice)} is given by --config.{min(twice)} and swept: give its values in one place")
    swept = list(setting.values.items())
    loaded = flags.read_config(split.source, [*split.assignments, *swept])
    try:
        config = configs.build(loaded.config)
    except Refused as error:
        raise Refused(f"trial {space.name_of(setting.values)}: {error}") from error
    overrides = {key: loaded.overrides[key] for key in setting.values}
    name = space.name_of({key: space.text_of(overrides[key]) for key in setting.apart}, before=setting.name)
    given = [f"--config.{key}={text}" for key, text in (*split.assignments, *swept)]
    if (folder := folder_name(name)) in NO_NAMES:
        raise Refused(f'a trial of {split.source} cannot be called {name!r}: give it another "name" in get_sweep()')
    folder = known_name(folder, folder_name(setting.name), overrides, known)
    trial = Trial(folder, overrides, (f"--config={split.source}", *given), flat(configs.to_dict(config)))
    return trial, config.steps


def known_name(name: str, given: str, overrides: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> str:
    """The name by which sweep.json knows a trial with these values, if it does: it begins with what the file gave.

    Sweeps of before named their trials in the order of the flags, and as those spelt the values.
    """
    values = json.loads(json.dumps(overrides))
    names = [each["name"] for each in known if each["overrides"] == values and begins_with(each["name"], given)]
    return names[0] if names and name not in names else name


def begins_with(name: str, given: str) -> bool:
    return not given or name == given or name.startswith(f"{given},")


def folder_name(name: str) -> str:
    """A name without what shells and file systems take amiss: model.pos_att_type=('c2p',) is model.pos_att_type=c2p."""
    short = re.sub(r"[^\w.=,+-]+", "", re.sub(r"[/\s]+", "_", name.replace(", ", ","))).replace(",,", ",").strip(",.")
    if len(short.encode()) <= LONGEST_NAME:
        return short
    digest = hashlib.sha256(short.encode()).hexdigest()[:8]
    return short.encode()[: LONGEST_NAME - 9].decode(errors="ignore") + "-" + digest


def _check_different(trials: Sequence[Trial]) -> None:
    """Raises Refused where two trials are the same, or would share a folder."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        if trial.name in seen:
            raise Refused(f"two trials are called {trial.name!r}: give them different values or names")
        seen[trial.name] = trial
    settings = [trial.overrides for trial in trials]
    for number, trial in enumerate(trials):
        if trial.overrides in settings[:number]:
            other = trials[settings.index(trial.overrides)]
            raise Refused(f"trials {other.name!r} and {trial.name!r} have the same values")


def check_folder(trial: Trial, folder: Path) -> None:
    """Raises Refused where the folder holds the end, a checkpoint or the live process of another run."""
    check_same(trial, folder)
    record = read_record(folder)
    if record is not None and process.held(folder):
        refuse(asked_difference(trial, record), folder)


def unfinished(plan: Plan) -> list[Trial]:
    """Trials that are not done, nor have failed unless those are asked for."""
    over = {DONE} if plan.args.retry_failed else {DONE, FAILED}
    records = ((trial, read_record(plan.args.workdir / trial.name)) for trial in plan.trials)
    return [
        trial
        for trial, record in records
        if record is None or record.state not in over or difference(trial, record, plan.args.workdir / trial.name)
    ]


def launcher(plan: Plan) -> Launch:
    """How trials are started. Raises Refused where this machine, or Slurm, cannot do it as asked."""
    args = plan.args
    if args.executor == "local":
        local.parts_of_machine(args.parallel, os.environ)
        return lambda trials, show: local.run_here(trials, args.workdir, args.parallel, show)
    from deberta_jax.sweep import slurm  # half a second, which other sweeps do not need

    executor = slurm.executor_of(args.workdir.resolve(), args.slurm, args.parallel)
    return lambda trials, show: slurm.run_there(trials, args.workdir.resolve(), executor, show)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps another sweep out of the folder. Raises Refused where one runs there, or nothing can be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise Refused(f"--workdir={workdir} cannot be written: {error.strerror}") from error
    folder = os.open(workdir, os.O_RDONLY)
    try:
        _lock(folder, workdir)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, workdir: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Refused(f"{workdir}: another sweep is running there") from error


def note(plan: Plan, command: str) -> None:
    """Writes what the sweep is: the trials of this command, and those of earlier ones that have been started.

    What an earlier command asked for and never began is not asked for any more, and no gap in the report.
    """
    workdir = plan.args.workdir
    trials = [{"name": trial.name, "overrides": trial.overrides} for trial in plan.trials]
    names = {trial.name for trial in plan.trials}
    earlier = [trial for trial in noted(workdir / SWEEP) if trial["name"] not in names]
    trials += [trial for trial in earlier if started(workdir, trial["name"])]
    key, goal = plan.metric
    values = {"config": plan.source, "metric": key, "goal": goal, "command": command, "trials": trials}
    write_text(workdir / SWEEP, json.dumps(values, indent=2) + "\n")


def started(workdir: Path, name: str) -> bool:
    """Whether a trial has left anything behind, or was submitted as a job, which may still wait."""
    return name in noted_jobs(workdir) or any((workdir / name / file).is_file() for file in OF_A_RUN)


def noted(path: Path) -> list[dict[str, Any]]:
    """The trials of earlier commands in the same folder. Raises Refused for a damaged file."""
    try:
        trials = json.loads(path.read_text())["trials"] if path.is_file() else []
        return [{"name": trial["name"], "overrides": trial["overrides"]} for trial in trials]
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path} is damaged: delete it, and the same command writes it again") from error


def conclude(plan: Plan, ended: Mapping[str, Record], stopped: bool, fault: str) -> None:
    """Writes the report and prints its table, the best trials first.

    `ended` are the records of this start, which a full disk may lack; `fault` is what went wrong beside the trials.
    Raises Stopped where a signal has left some, Failed where trials or something else did not end well, Refused where
    none has the metric.
    """
    workdir = plan.args.workdir
    if stopped and (left := unfinished(plan)):
        raise Stopped(f"{len(left)} of {len(plan.trials)} trials are left: run the same command to go on")
    records = {trial.name: read_record(workdir / trial.name) for trial in plan.trials} | ended
    wrong = {name: record for name, record in records.items() if record is None or record.state != DONE}
    said = f"{len(wrong)} of {len(records)} trials did not end well: {'; '.join(map(fault_of, wrong.items()))}"
    faults = [said] * bool(wrong) + [fault] * bool(fault)
    try:
        study = report.make([workdir], plan.metric, workdir / REPORT)
        if len(wrong) < len(records):
            require_measured(plan.metric.key, study.runs)
    except Refused as error:
        if not faults:
            raise
        faults.append(str(error))
    except OSError as error:
        faults.append(f"the report could not be written: {process.words_of(error)}")
    if faults:
        raise Failed("; ".join(faults))


def require_measured(key: str, runs: Sequence[Run]) -> None:
    """Raises Refused where none of the runs has the metric, some of which are done: nothing could be ranked."""
    known = sorted({name for run in runs for name in run.metrics} - {"step"})
    if key not in known:
        raise Refused(f"--metric: no run has {key!r}{nearest(key, known)}; there are {', '.join(known)}")


def fault_of(entry: tuple[str, Record | None]) -> str:
    """What went wrong with a trial, for a list of them."""
    name, record = entry
    return f"{name} ({record.state}: {record.error})" if record else f"{name} (not begun)"


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
