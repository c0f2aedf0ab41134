"""The numbers of a run over its steps, as its metrics.jsonl has them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.errors import Refused


@dataclass(frozen=True)
class Series:
    """One quantity: `values` [n] measured after `steps` [n]."""

    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> "Series":
        """Without the values that are no numbers."""
        kept = np.isfinite(self.values)
        return Series(self.steps[kept], self.values[kept])


def read_series(metrics_jsonl: Path) -> dict[str, Series]:
    """Every numeric key of a metrics file in the order of its lines; NaN where the file has null: not a finite number.

    Raises Refused for a line that is no JSON object with a step.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    complete_lines = metrics_jsonl.read_text().rpartition("\n")[0]  # a run that is being written may end in half a line
    for number, line in enumerate(complete_lines.splitlines(), 1):
        row = _row(line, f"{metrics_jsonl} line {number}")
        for key, value in row.items():
            if value is None or isinstance(value, (int, float)):
                points.setdefault(key, []).append((row["step"], np.nan if value is None else value))
    return {key: Series(*map(np.array, zip(*pairs, strict=True))) for key, pairs in points.items()}


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        raise Refused(f"{place} is no JSON object with a step: {line[:60]!r}")
    return row
