"""Whether a folder holds the run that is asked for: known by its settings, of a suite's run by its flags.

A finished run is skipped and a saved one goes on, so one with other settings must be found. Two things tell: the digest
in trial.json is of the settings that were asked for; config.json has those that the run read, which is another moment,
and with what only its data could say. Records from before there was a digest have config.json alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax import config as configs
from deberta_jax.errors import Refused
from deberta_jax.reports.runs import flat
from deberta_jax.sweep.trial import CHECKPOINTS, DONE, Record, Trial, read_record

CONFIG = "config.json"
# Empty in a config they are left to the data, and config.json has what those said.
OF_THE_DATA = frozenset({"steps", "data.labels", "model.vocab_size", "rtd.generator.vocab_size"})


def check_same(trial: Trial, folder: Path) -> None:
    """Raises Refused where the folder holds the end or a checkpoint of another run."""
    record = read_record(folder)
    checkpoints = folder / CHECKPOINTS
    begun = checkpoints.is_dir() and any(checkpoints.iterdir())
    if begun or (record is not None and record.state == DONE):
        refuse(difference(trial, record, folder), folder)


def refuse(told: str, folder: Path) -> None:
    """Raises Refused where there is a difference to tell."""
    if told:
        raise Refused(f"{folder} was run with other {told}: choose another --workdir, or delete that folder")


def difference(trial: Trial, record: Record | None, folder: Path) -> str:
    """What tells the run in `folder` from `trial`, "settings (steps was 2, is 3)"; "" where they are the same."""
    ran = settings_in(folder) if trial.settings is not None else None
    if ran is None:
        return asked_difference(trial, record) if record else ""
    changed = _changed(ran, trial.settings)
    certain = [key for key in changed if not _left_to_data(trial.settings, key)]
    asked_otherwise = record is not None and record.digest not in ("", trial.digest)
    return _told(certain or (changed if asked_otherwise else []), ran, trial.settings)


def asked_difference(trial: Trial, record: Record) -> str:
    """The same from the record alone: of a live process, which may not have read its config yet."""
    if record.digest and record.digest == trial.digest:
        return ""
    return different_flags(record.flags, trial.flags) or ("settings (in its config)" if record.digest else "")


def different_trials(before: Trial, now: Trial) -> str:
    """The same of two trials."""
    if before.settings is None or now.settings is None:
        return different_flags(before.flags, now.flags)
    return _told(_changed(before.settings, now.settings), before.settings, now.settings)


def different_flags(before: Sequence[str], now: Sequence[str]) -> str:
    """The same of two command lines, "flags (--a=1, --a=2)"."""
    if list(before) == list(now):
        return ""
    return f"flags ({', '.join(sorted(set(before) ^ set(now)) or ['in another order'])})"


def settings_in(folder: Path) -> dict[str, Any] | None:
    """What the run in `folder` has read, by dotted key; None where it has not got so far.

    Raises Refused for a config that is none.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return flat(configs.to_dict(configs.build(json.loads(path.read_text()))))
    except (ValueError, Refused) as error:
        raise Refused(f"{path} is damaged or of another version ({error}): choose another --workdir") from error


def _left_to_data(settings: Mapping[str, Any], key: str) -> bool:
    return key in OF_THE_DATA and key in settings and not settings[key]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, those of a group that only one has as well."""
    return [key for key in dict.fromkeys([*now, *before]) if _value(before, key) != _value(now, key)]


def _told(keys: Sequence[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first of the settings that changed, and how many more there are."""
    if not keys:
        return ""
    more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"settings ({keys[0]} was {_value(before, keys[0])}, is {_value(now, keys[0])}{more})"


def _value(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not there"
