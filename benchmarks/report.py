"""What every benchmark leaves behind: a table in Markdown, and a JSON file that says what it was measured on."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

ENVIRONMENT = "GLIBC_TUNABLES", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS"  # that change what is measured
PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "grain",
    "array_record",
    "sentencepiece",
    "numpy",
    "torch",
    "transformers",
)


def setting() -> dict[str, Any]:
    """The command, device, cores, environment and versions of this process."""
    installed = {distribution.name for distribution in metadata.distributions()}
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "packages": {name: metadata.version(name) for name in PACKAGES if name in installed},
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes {"setting": ..., "rows": ...}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"setting": setting(), "rows": rows}, indent=1) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the union of their keys; fractions with three digits, blank where a row has no such key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row[key]) if key in row else "" for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
