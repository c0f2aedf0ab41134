"""A trial of a sweep: its flags, and what is known of it: a file trial.json in its folder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused

RECORD = "trial.json"
LOG = "log.txt"  # what the last start printed
CHECKPOINTS = "checkpoints"
RUNNING, DONE, FAILED, STOPPED = "running", "done", "failed", "stopped"
UNFINISHED = frozenset({5, 75})  # exit codes of runs that the same command goes on with: a peer died, a signal


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep."""

    name: str  # its folder below the sweep's
    overrides: dict[str, Any]  # dotted key -> value
    flags: tuple[str, ...]  # of train.py, all but --workdir


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a trial that was started."""

    state: str  # running; done; failed: ended with an error; stopped: by a signal or a dead peer, it can go on
    exit_code: int | None  # negative: the signal that ended it; None while it runs
    error: str  # the last line it wrote, unless it is done
    seconds: float | None  # of the last start
    flags: list[str]


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


def check_same(trial: Trial, folder: Path) -> None:
    """Raises Refused where the folder holds the end or a checkpoint of another command's run."""
    record = read_record(folder)
    checkpoints = folder / CHECKPOINTS
    begun = checkpoints.is_dir() and any(checkpoints.iterdir())
    if record is not None and (record.state == DONE or begun):
        require_same(record.flags, trial.flags, folder)


def require_same(before: Sequence[str], now: Sequence[str], folder: Path) -> None:
    """Raises Refused where two command lines differ."""
    if list(before) != list(now):
        changed = sorted(set(before) ^ set(now)) or ["in another order"]
        raise Refused(f"{folder} was run with other flags ({', '.join(changed)}): choose another --workdir")


def state_after(exit_code: int) -> str:
    """What an exit code makes of a trial."""
    if exit_code == 0:
        return DONE
    return STOPPED if exit_code < 0 or exit_code in UNFINISHED else FAILED
