"""Many runs of train.py, one after another: finished ones are skipped, failed ones stop nothing."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused, Stopped
from deberta_jax.reports.runs import RESULT, SCORES
from deberta_jax.sweep.identity import check_same, different_flags, refuse
from deberta_jax.sweep.local import Signals
from deberta_jax.sweep.process import Start
from deberta_jax.sweep.trial import CHECKPOINTS, DONE, FAILED, Trial, read_record, write_record

START = "start.json"  # of the whole suite


class Job(NamedTuple):
    """One run."""

    name: str  # its folder below the suite's
    flags: tuple[str, ...]  # of train.py, all but --workdir


class Outcome(NamedTuple):
    """How a run ended."""

    job: Job
    result: dict | None  # None when it failed
    error: str  # the last line it wrote then


def run_jobs(jobs: Sequence[Job], workdir: Path) -> list[Outcome]:
    """Runs what has no WORKDIR/NAME/result.json yet, in order; run from the repository's root.

    A result holds the flags, the seconds (None of a run that was begun before), the environment and
    validation/scores.json. A run without a score has failed. Of one that ended well the best parameters are kept, the
    states with their optimizers are not. Raises Refused where a folder holds a run with other flags, and Stopped after
    a signal: the same command goes on then.
    """
    require_root()
    for job in jobs:
        _check_same(job, workdir / job.name)
    outcomes = []
    with Signals() as signals:
        for number, job in enumerate(jobs, 1):
            place = workdir / job.name
            if not (place / RESULT).is_file():
                tqdm.write(f"[{number}/{len(jobs)}] {job.name}", file=sys.stderr)
                _run(job, place, signals)
            outcomes.append(outcome_of(job, workdir))
            if outcomes[-1].error:
                tqdm.write(f"[{number}/{len(jobs)}] {job.name} failed: {outcomes[-1].error}", file=sys.stderr)
    return outcomes


def start_of(path: Path) -> dict[str, Any]:
    """{"path", "step", "digest"} of the parameters that runs from a workdir start from. Raises Refused without any."""
    from deberta_jax.train import checkpoint, session  # imports jax

    directory, step = session.trained_checkpoint(path)
    digest = hashlib.sha256((directory / str(step) / checkpoint.DIGEST).read_bytes()).hexdigest()
    return {"path": str(path), "step": step, "digest": digest}


def require_start(start: Mapping[str, Any], workdir: Path) -> None:
    """Notes what the runs of `workdir` start from; raises Refused where finished ones started from something else."""
    note = workdir / START
    if note.is_file() and any(workdir.glob(f"*/*/{RESULT}")):
        before = json.loads(note.read_text())
        for key in before.keys() & start.keys() - {"path"}:
            if before[key] != start[key]:
                said = f"{key} was {before[key]}, is {start[key]}"
                raise Refused(f"{workdir} has runs that began elsewhere ({said}): choose another --workdir")
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(note, json.dumps(dict(start), indent=2) + "\n")


def require_root() -> None:
    """Raises Refused where train.py cannot be started."""
    if not Path("train.py").is_file():
        raise Refused("train.py is not here: run this in the repository's root")


def outcome_of(job: Job, workdir: Path) -> Outcome:
    """What a run has left behind."""
    place = workdir / job.name
    if (place / RESULT).is_file():
        return Outcome(job, json.loads((place / RESULT).read_text()), "")
    record = read_record(place)
    return Outcome(job, None, record.error if record and record.error else "it was not run")


def _check_same(job: Job, place: Path) -> None:
    """A finished run, or one that would go on from a checkpoint, must be the one that is asked for."""
    if (place / RESULT).is_file():
        refuse(different_flags(json.loads((place / RESULT).read_text())["flags"], job.flags), place)
    else:
        check_same(trial_of(job), place)


def trial_of(job: Job) -> Trial:
    return Trial(job.name, {}, job.flags)


def _run(job: Job, place: Path, signals: Signals) -> None:
    afresh = not (place / CHECKPOINTS).is_dir()
    record = signals.watching(Start(trial_of(job), place, os.environ, frozenset()))
    scores = json.loads((place / SCORES).read_text()) if record.state == DONE else {}
    if record.state == DONE and scores["score"] is None:
        error = "failed: the best score on validation is no number"
        write_record(place, dataclasses.replace(record, state=FAILED, error=error))
    elif record.state == DONE:
        result = {
            "flags": list(job.flags),
            "seconds": record.seconds if afresh else None,
            "environment": json.loads((place / "environment.json").read_text()),
        }
        write_text(place / RESULT, json.dumps(result | scores, indent=2) + "\n")
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)  # of a large model 5 GB each
    if record.exit_code == Stopped.exit_code or signals.came.is_set():
        raise Stopped(f"stopped in {job.name}: run the same command to go on")
