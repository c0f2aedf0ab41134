"""A trial of a sweep: its flags, and what is known of it: a file trial.json in its folder."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax import config as configs
from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused

RECORD = "trial.json"
LOG = "log.txt"  # what the last start printed
JOBS = "jobs.json"  # of a sweep on Slurm, beside its trials
CHECKPOINTS = "checkpoints"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
UNFINISHED = frozenset({5, 75})  # exit codes of runs that the same command goes on with: a peer died, a signal


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str  # its folder below the sweep's
    overrides: dict[str, Any]  # dotted key -> value
    flags: tuple[str, ...]  # of train.py, all but --workdir
    settings: Mapping[str, Any] | None = None  # of its whole config by dotted key; None of a suite's run

    @property
    def digest(self) -> str:
        """Of the settings, sha256; "" without them. Keys that came later are left out where they change nothing."""
        if self.settings is None:
            return ""
        told = {key: value for key, value in self.settings.items() if not _as_before(key.rpartition(".")[2], value)}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a trial that was started."""

    state: str  # running; done; failed: ended with an error; stopped: by a signal or a dead peer, it can go on
    exit_code: int | None  # negative: the signal that ended it; None while it runs
    error: str  # the last line it wrote, unless it is done
    seconds: float | None  # of the last start
    flags: list[str]
    digest: str = ""  # of the trial's settings; "" in a suite, and in records from before there was one


def record_of(trial: Trial, state: str, exit_code: int | None, error: str, seconds: float | None) -> Record:
    """How `trial` stands, and what was asked of it."""
    return Record(state, exit_code, error, seconds, list(trial.flags), trial.digest)


def read_record(folder: Path) -> Record | None:
    """What is known of the trial in `folder`; None where it was never started. Raises Refused for a damaged file."""
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return Record(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise Refused(f"{path} is damaged ({error}): delete it, and the trial goes on") from error


def write_record(folder: Path, record: Record) -> None:
    write_text(folder / RECORD, json.dumps(dataclasses.asdict(record), indent=2) + "\n")


def noted_jobs(workdir: Path) -> Mapping[str, str]:
    """Numbers of the jobs that were submitted to Slurm, by whatever command in this folder, by the trial's name."""
    path = workdir / JOBS
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise Refused(f"{path} is damaged: see that no job of this sweep is on its way (squeue), delete it") from error


def _as_before(name: str, value: Any) -> bool:
    """Whether a setting means what its absence does in an older config."""
    return name in configs.LATER_KEYS and value == configs.LATER_KEYS[name]


def state_after(exit_code: int) -> str:
    """What an exit code makes of a trial."""
    if exit_code == 0:
        return DONE
    return STOPPED if exit_code < 0 or exit_code in UNFINISHED else FAILED
