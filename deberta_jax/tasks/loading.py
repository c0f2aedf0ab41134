"""The examples of a run: which files, which labels, in which splits."""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deberta_jax.config import TaskDataConfig
from deberta_jax.errors import Refused
from deberta_jax.tasks import scoring
from deberta_jax.tasks.conll import read_columns
from deberta_jax.tasks.custom import NEEDED, TABLES, labels_of, read_custom
from deberta_jax.tasks.examples import Example, Question
from deberta_jax.tasks.registry import task_named
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.tfds import BY_NAME, is_prepared, read_prepared

CUSTOM = "custom"


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a run is trained and evaluated on."""

    task: Task
    train: list[Example]
    validation: Mapping[str, list[Example]]  # of each split

    @property
    def fingerprint(self) -> str:
        """sha256 of all examples: a resumed run must see the same ones."""
        splits = [("train", self.train), *self.validation.items()]
        return hashlib.sha256(repr(splits).encode("utf-8", "surrogatepass")).hexdigest()


def open_task(data: TaskDataConfig, kind: str, labels: Sequence[str], answerless: bool) -> Task:
    """The task of a config of this `kind`; of a custom one with these labels.

    `answerless`: whether questions may have no answer. Raises Refused where the task is unknown or of another kind.
    """
    if data.task == CUSTOM:
        return _custom(data, kind, tuple(labels), answerless)
    task = task_named(data.task)
    if task.kind != kind:
        raise Refused(f"data.task {data.task!r} is {task.kind}, objective says {kind!r}")
    return task


def load_examples(data: TaskDataConfig, kind: str, seed: int) -> Examples:
    """All examples of a run. Raises Refused, naming file or split, for what cannot be trained or selected on."""
    task = open_task(data, kind, data.labels, answerless=False)
    names = _validating(data, task)
    label_column = getattr(data.columns, NEEDED[kind][-1]) if data.columns else ""
    train = read_split(data, task, data.train)
    _check_known(data.train, train, label_column)
    if data.task == CUSTOM:
        task = open_task(data, kind, data.labels or _found_labels(train, kind), answerless=False)
    if kind == "classification" and len(task.labels) < 2:
        raise Refused(f"{data.train}: all its labels are {', '.join(task.labels)!r}: is data.columns.label right?")
    validation = {name: read_split(data, task, name) for name in names}
    for name, examples in validation.items():
        _check_known(name, examples, label_column)
    if data.task == CUSTOM:
        answerless = any(map(_is_impossible, itertools.chain(train, *validation.values())))
        task = open_task(data, kind, task.labels, answerless)
    if 0 < data.max_train < len(train):
        chosen = np.random.default_rng([seed, data.max_train]).permutation(len(train))[: data.max_train]
        train = [train[number] for number in np.sort(chosen)]
    return Examples(task, train, validation)


def read_split(data: TaskDataConfig, task: Task, split: str) -> list[Example]:
    """The examples of a split of the task, or of a file: in data.dir, or anywhere by its whole path."""
    folder = Path(data.dir).expanduser()  # --config.data.dir=~/x: shells leave such a ~ as it is
    prepared = data.dir == BY_NAME or is_prepared(folder)
    if prepared and split in task.files:
        return read_prepared(data.dir if data.dir == BY_NAME else str(folder), task, split)
    if prepared and not Path(split).expanduser().is_absolute():
        raise Refused(f"{data.dir} is a prepared set: its splits are {', '.join(task.files)}, not {split!r}")
    return task.read(folder / Path(task.files.get(split, split)).expanduser())


def check_scorable(task: Task, name: str, examples: Sequence[Example]) -> None:
    """Raises Refused where a part of the examples only has golds, and where a gold is none that the task scores."""
    hidden = [example.id for example in examples if not is_known(example)]
    if 0 < len(hidden) < len(examples):
        raise Refused(f"{name}: example {hidden[0]} has no label, but others have: {len(hidden)} of {len(examples)}")
    if task.score is scoring.squad and (without := [each.id for each in examples if _is_impossible(each)]):
        raise Refused(f"{name}: question {without[0]} has no answer, and the run knows only questions that have one")


def is_known(example: Example) -> bool:
    """Whether the gold of an example is there."""
    if isinstance(example, Question):
        return example.impossible is not None
    return (example.tags if hasattr(example, "tags") else example.label) is not None


def _validating(data: TaskDataConfig, task: Task) -> tuple[str, ...]:
    """The splits or files that choose the checkpoint."""
    names = data.validation or task.validation
    if not names:
        raise Refused(f"data.task {data.task!r} has nothing to validate on: name a file in data.validation")
    for name in names:
        if _is_test(data, task, name):
            raise Refused(f"data.validation names {name!r}: a checkpoint is never chosen on a test")
    return names


def _is_test(data: TaskDataConfig, task: Task, name: str) -> bool:
    """Whether a split or file is a test of the task, is called one, or lies in the folder of one."""
    path = Path(os.path.normpath(name))
    if path.is_relative_to(data.dir):
        path = path.relative_to(data.dir)
    for split, file in task.files.items():
        if not split.startswith("test"):
            continue
        test = Path(file)
        folders = (path.parent if path.suffix else path).parts[-2:]
        alike = path.stem == test.stem if test.suffix else test.parts[0] in folders
        if alike or name == split or "test" in re.split("[._-]", path.stem):
            return True
    return False


def _is_impossible(example: Example) -> bool:
    return isinstance(example, Question) and bool(example.impossible)


def _check_known(name: str, examples: Sequence[Example], label_column: str) -> None:
    hidden = [example.id for example in examples if not is_known(example)]
    if hidden:
        sought = f" (nothing in column {label_column!r})" if label_column else ""
        said = f"example {hidden[0]} has no label{sought}"
        raise Refused(f"{name}: {said}: it can be predicted, not trained or selected on")


def _found_labels(train: Sequence[Example], kind: str) -> tuple[str, ...]:
    return tuple(labels_of(train, kind)) if kind in ("classification", "tagging") else ()


def _custom(data: TaskDataConfig, kind: str, labels: tuple[str, ...], answerless: bool) -> Task:
    """A task of a user's own file. Tags are entities where all of them are O or begin with B- or I-."""
    of_entities = all(label == "O" or label.startswith(("B-", "I-")) for label in labels)

    def read(path: Path) -> list[Example]:
        if kind == "tagging" and path.suffix not in TABLES:
            return read_columns(path)
        return read_custom(path, kind, data.columns, labels)

    score, selection = {
        "classification": (scoring.accuracy_and_macro_f1(labels), ("accuracy",)),
        "regression": (scoring.correlation, ("pearson", "spearman")),
        "multiple_choice": (scoring.choices, ("accuracy",)),
        "tagging": (scoring.entities, ("f1",)) if of_entities else (scoring.tags, ("token_accuracy",)),
        "span": (scoring.squad_v2 if answerless else scoring.squad, ("f1",)),
    }[kind]
    return Task(
        kind=kind,
        labels=("score",) if kind == "regression" else labels,
        folder="",
        files={},
        read=read,
        prepared=None,
        validation=(),
        score=score,
        selection=selection,
    )
