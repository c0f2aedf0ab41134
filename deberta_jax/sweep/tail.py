"""The last numbers of a run that is being written, at the cost of reading the end of its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

from deberta_jax.reports.runs import METRICS

BYTES = 1 << 16  # hold a metrics file's last lines


def last_line(folder: Path, key: str) -> dict[str, Any]:
    """The last of the run's complete last lines that has a number for `key`; {} without one.

    Halves of lines, at both ends, and what a machine that lost its power has left are passed over; the report names
    the latter.
    """
    path = folder / METRICS
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - BYTES))
        lines = file.read().split(b"\n")
    for line in reversed(lines):
        row = _row(line)
        if key in row and isinstance(row[key], (int, float)):
            return row
    return {}


def _row(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
