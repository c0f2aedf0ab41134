"""Trials as jobs of a Slurm cluster, through submitit: one array, a job a trial.

A job that nears its time limit or is preempted saves its state and is queued again. The sweep's own process may end
meanwhile: jobs.json in its folder says which jobs are on their way, and the next start waits for them.
"""

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError
from submitit.helpers import DelayedSubmission

from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused
from deberta_jax.sweep.identity import different_trials, refuse
from deberta_jax.sweep.local import Signals
from deberta_jax.sweep.process import POLL, Start
from deberta_jax.sweep.trial import (
    JOBS,
    RUNNING,
    STOPPED,
    Record,
    Trial,
    noted_jobs,
    read_record,
    record_of,
    write_record,
)

FOLDER = "slurm"  # submitit's: scripts, pickles, what Slurm prints
REFRESH = 2.0  # seconds between looks at the jobs
LISTS = ("setup", "teardown")  # settings that are lines of the script
TASKS = ("nodes", "ntasks_per_node", "tasks_per_node")
MINUTES = ("time", "timeout_min")
BOOLEANS = {"true": True, "false": False}  # as of exclusive and use_srun; the text "False" would be true
DEFAULTS = {"time": 24 * 60, "stderr_to_stdout": True}


class TrialJob:
    """What a job runs: submitit pickles it, calls it on the node, and asks it for a `checkpoint` before time is up."""

    def __init__(self, trial: Trial, folder: Path):
        self.trial, self.folder = trial, folder
        self._start: Start | None = None

    def __call__(self) -> str:
        """The state in which the trial ended."""
        self._start = Start(self.trial, self.folder, os.environ, frozenset())
        return self._start.run().state

    def checkpoint(self) -> DelayedSubmission:
        """What is to be submitted again, once the run, if it was begun, has saved its state and ended."""
        if self._start is not None:
            self._start.stop()
            while self._start.alive():
                time.sleep(POLL)
            if self._start.begun():
                self._start.note_end()
        return DelayedSubmission(TrialJob(self.trial, self.folder))


def executor_of(workdir: Path, settings: Sequence[str], parallel: int, cluster: str = "slurm") -> submitit.AutoExecutor:
    """submitit's executor with `settings`, KEY=VALUE of its parameters for Slurm.

    Raises Refused for a setting that there is not, naming those there are, and where there is no Slurm.
    """
    own = {"job_name": f"sweep-{workdir.name}", "array_parallelism": parallel} | DEFAULTS | _settings(settings)
    try:
        executor = submitit.AutoExecutor(folder=workdir / FOLDER / "%j", cluster=cluster)
        executor.update_parameters(**{f"slurm_{key}": value for key, value in own.items()})
    except RuntimeError as error:
        raise Refused(f"--executor=slurm: {error}") from error
    except NameError as error:
        raise Refused(f"--slurm: {str(error).splitlines()[0]}") from error
    return executor


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """Settings by name; lines of the script add up."""
    found: dict[str, Any] = {}
    for key, value in map(_setting, texts):
        if key in found and key not in LISTS:
            raise Refused(f"--slurm={key}=... comes twice")
        found[key] = [*found[key], *value] if key in found else value
    return found


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise Refused(f"--slurm={text}: KEY=VALUE is expected, as partition=gpu")
    if key in LISTS:
        return key, [value]
    if key in TASKS and value != "1":
        raise Refused(f"--slurm={text}: a trial is one process")
    if key == "srun_args":
        return key, shlex.split(value)
    if key == "additional_parameters":
        raise Refused(f"--slurm={text}: give each of them by itself")
    if key in MINUTES and not value.isdigit():
        raise Refused(f"--slurm={text}: a whole number of minutes is expected")
    if value.lower() in BOOLEANS:
        return key, BOOLEANS[value.lower()]
    return "time" if key in MINUTES else key, int(value) if value.isdigit() else value


def run_there(
    trials: Sequence[Trial], workdir: Path, executor: submitit.AutoExecutor, show: Callable[[], None]
) -> tuple[dict[str, Record], bool]:
    """Submits what is not on its way yet and waits for all; returns records by name and whether a signal came.

    After a signal the jobs go on by themselves. Raises Refused where a job on its way has other settings, or sbatch
    says no.
    """
    with Signals() as signals:  # first: a signal between submitting and noting would have the jobs submitted twice
        jobs = on_their_way(trials, workdir)
        if new := [trial for trial in trials if trial.name not in jobs]:
            jobs |= _submitted(new, workdir, executor)
            _note(workdir, {**noted_jobs(workdir), **{name: job.job_id for name, job in jobs.items()}})
        while not signals.came.is_set() and not all(job.done() for job in jobs.values()):
            show()
            signals.came.wait(REFRESH)
        ended = [trial for trial in trials if jobs[trial.name].done()]
        records = {trial.name: _record_of(jobs[trial.name], trial, workdir / trial.name) for trial in ended}
        return records, signals.came.is_set()


def _submitted(trials: Sequence[Trial], workdir: Path, executor: submitit.AutoExecutor) -> dict[str, submitit.SlurmJob]:
    try:
        jobs = executor.submit_array([TrialJob(trial, workdir / trial.name) for trial in trials])
    except FailedJobError as error:
        raise Refused(f"--executor=slurm: {error}") from error
    return {trial.name: job for trial, job in zip(trials, jobs, strict=True)}


def on_their_way(trials: Sequence[Trial], workdir: Path) -> dict[str, submitit.SlurmJob]:
    """Jobs of an earlier start that wait or run, by the trial's name. Raises Refused where they have other settings."""
    numbers = noted_jobs(workdir)
    asked = {trial.name: trial for trial in trials if trial.name in numbers}
    jobs = {name: submitit.SlurmJob(folder=workdir / FOLDER / "%j", job_id=numbers[name]) for name in asked}
    # Slurm forgets old jobs; one that it does not know is not waited for.
    jobs = {name: job for name, job in jobs.items() if not job.done(force_check=True) and job.state != "UNKNOWN"}
    for name, job in jobs.items():
        refuse(different_trials(job.submission().function.trial, asked[name]), workdir / name)
    return jobs


def _note(workdir: Path, numbers: Mapping[str, str]) -> None:
    write_text(workdir / JOBS, json.dumps(numbers, indent=2) + "\n")


def _record_of(job: submitit.Job, trial: Trial, folder: Path) -> Record:
    """What an ended job has left; one that could not say so itself, its node gone or its memory full, was stopped."""
    record = read_record(folder)
    if record is None or record.state == RUNNING:
        printed = (job.stdout() or "").strip().splitlines() or ["it printed nothing"]
        error = f"job {job.job_id} is gone ({job.state}): {printed[-1]}"
        record = record_of(trial, STOPPED, None, error, None)
        if folder.is_dir():
            write_record(folder, record)
    return record
