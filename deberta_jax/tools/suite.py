"""Many runs of train.py, one after another: finished ones are skipped, failed ones stop nothing."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TextIO

from tqdm import tqdm

from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused, Stopped
from deberta_jax.reports.last_words import error_in

RESULT = "result.json"
FLAGS = "flags.json"  # of the last start
LOG = "log.txt"
START = "start.json"  # of the whole suite
SCORES = Path("validation") / "scores.json"
CHECKPOINTS = "checkpoints"
STOPPED = Stopped.exit_code
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
    with _Signals() as signals:
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
    log = (
        (place / LOG).read_text(errors="replace") if (place / LOG).is_file() else ""
    )  # a progress bar gives many lines
    return Outcome(job, None, error_in(log) or "it was not run")


def _check_same(job: Job, place: Path) -> None:
    """A finished run, or one that would go on from a checkpoint, must be the one that is asked for."""
    if (place / RESULT).is_file():
        done = json.loads((place / RESULT).read_text())["flags"]
    elif (place / FLAGS).is_file() and (place / CHECKPOINTS).is_dir() and any((place / CHECKPOINTS).iterdir()):
        done = json.loads((place / FLAGS).read_text())
    else:
        return
    if done != list(job.flags):
        changed = sorted(set(done) ^ set(job.flags)) or ["in another order"]
        raise Refused(f"{place} was run with other flags ({', '.join(changed)}): choose another --workdir")


def _run(job: Job, place: Path, signals: "_Signals") -> None:
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / FLAGS, json.dumps(job.flags, indent=2) + "\n")
    command = [sys.executable, "train.py", *job.flags, f"--workdir={place}"]
    began, afresh = time.perf_counter(), not (place / CHECKPOINTS).is_dir()
    with (place / LOG).open("w") as log:
        code = signals.call(command, log)
        if code < 0:
            log.write(f"\nfailed: ended by signal {-code} ({signal.strsignal(-code)})\n")
        scores = json.loads((place / SCORES).read_text()) if code == 0 else {}
        if code == 0 and scores["score"] is None:
            log.write("\nfailed: the best score on validation is no number\n")
    if code == 0 and scores["score"] is not None:
        result = {
            "flags": list(job.flags),
            "seconds": round(time.perf_counter() - began, 1) if afresh else None,
            "environment": json.loads((place / "environment.json").read_text()),
        }
        write_text(place / RESULT, json.dumps(result | scores, indent=2) + "\n")
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)  # of a large model 5 GB each
    if code == STOPPED or signals.came:
        raise Stopped(f"stopped in {job.name}: run the same command to go on")


class _Signals:
    """Passes SIGTERM, Ctrl-C and the end of the terminal on to the run, which saves its state, and remembers them.

    Signals that the process was started to ignore, as nohup does, stay ignored.
    """

    def __init__(self):
        self.came = False
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "_Signals":
        heeded = (number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
        self._previous = {number: signal.signal(number, self._pass_on) for number in heeded}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def call(self, command: Sequence[str], log: TextIO) -> int:
        """The exit code of a command.

        It has a process group of its own: a terminal sends Ctrl-C to the whole group of the suite, and a run takes a
        second signal for the wish to end at once.
        """
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(command, process_group=0, **streams)
        if self.came:  # while it was being started
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.came = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
