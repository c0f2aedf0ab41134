"""What there is to know about a task besides its data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Example, Prediction


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Where a task is in TensorFlow Datasets."""

    name: str  # "glue/mrpc"
    splits: Mapping[str, str]  # split of ours -> theirs
    example: Callable[[Mapping[str, Any], int], list[Example]]  # (row with text as str, its number) -> examples


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of one benchmark."""

    kind: str  # of examples.KINDS
    labels: tuple[str, ...]  # in the order of the logits; ("score",) for regression; () for multiple choice and spans
    folder: str  # of its files in the benchmark's own layout
    files: Mapping[str, str]  # split -> file in the folder
    read: Callable[[Path], list[Example]]  # the examples of one file, labelled or not
    prepared: Prepared | None
    validation: tuple[str, ...]  # splits that choose a checkpoint; never a test
    score: Callable[[Sequence[Example], Sequence[Prediction]], dict[str, float]]  # every metric, as shares of 1
    selection: tuple[str, ...]  # metrics whose mean chooses the checkpoint
