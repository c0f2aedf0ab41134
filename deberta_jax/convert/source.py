"""What a directory of other people says about itself, before any number in it is read."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deberta_jax.convert import hf_config, names
from deberta_jax.convert.weights import Weights, open_weights
from deberta_jax.errors import Refused

ORIGIN = "origin.json"  # in a converted workdir: what its source said


@dataclasses.dataclass(frozen=True)
class Source:
    path: Path
    fields: Mapping[str, Any]  # of config.json
    dtypes: Mapping[str, str]  # of each tensor
    shapes: Mapping[str, tuple[int, ...]]
    names: names.Names

    @property
    def has_positions(self) -> bool:
        return self.names.prefix + names.POSITION in self.dtypes

    @property
    def copies(self) -> dict[str, str]:
        """Tensors that repeat another one."""
        return names.copies(self.dtypes.keys(), self.names)


def open_source(directory: Path) -> tuple[Source, Weights]:
    """A directory with config.json and weights. Raises Refused where either is missing or unreadable."""
    fields = hf_config.read_config(directory)
    weights = open_weights(directory)
    return _source(directory, fields, weights.shapes_and_dtypes()), weights


def read_origin(directory: Path) -> Source:
    """The same of a directory that a model came from, which may be a converted workdir."""
    recorded = directory / ORIGIN
    if not recorded.is_file():
        return open_source(directory)[0]
    try:
        values = json.loads(recorded.read_text())
    except (ValueError, OSError) as error:
        raise Refused(f"{recorded} is damaged: {error}") from error
    return _source(directory, values["config"], {name: (tuple(s), d) for name, (s, d) in values["tensors"].items()})


def record_origin(source: Source, directory: Path) -> None:
    """Writes what `read_origin` reads."""
    tensors = {name: (source.shapes[name], dtype) for name, dtype in source.dtypes.items()}
    (directory / ORIGIN).write_text(json.dumps({"config": dict(source.fields), "tensors": tensors}, indent=1))


def _source(directory: Path, fields: Mapping[str, Any], tensors: Mapping[str, tuple]) -> Source:
    dtypes = {name: dtype for name, (_, dtype) in tensors.items()}
    shapes = {name: shape for name, (shape, _) in tensors.items()}
    return Source(directory, fields, dtypes, shapes, names.names_in(dtypes.keys()))
