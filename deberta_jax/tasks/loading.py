"""The examples of a run: which files, which labels, in which splits."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deberta_jax.config import TaskDataConfig
from deberta_jax.errors import Refused
from deberta_jax.tasks import scoring
from deberta_jax.tasks.conll import read_columns
from deberta_jax.tasks.custom import TABLES, labels_of, read_custom
from deberta_jax.tasks.examples import Example, Question
from deberta_jax.tasks.registry import task_named
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.tfds import is_prepared, read_prepared

CUSTOM = "custom"
BY_NAME = "tfds"  # in place of a folder


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
    train = read_split(data, task, data.train)
    if data.task == CUSTOM:
        answerless = any(isinstance(example, Question) and example.impossible for example in train)
        task = open_task(data, kind, data.labels or _found_labels(train, kind), answerless)
    names = data.validation or task.validation
    if not names:
        raise Refused(f"data.task {data.task!r} has nothing to validate on: name a file in data.validation")
    tests = {name for split, file in task.files.items() if split.startswith("test") for name in (split, file)}
    tested = [name for name in names if name in tests or Path(name).name in tests]
    if tested:
        raise Refused(f"data.validation names {tested[0]!r}: a checkpoint is never chosen on a test")
    validation = {name: read_split(data, task, name) for name in names}
    for name, examples in {data.train: train, **validation}.items():
        _check_known(name, examples)
    if 0 < data.max_train < len(train):
        chosen = np.random.default_rng([seed, data.max_train]).permutation(len(train))[: data.max_train]
        train = [train[number] for number in np.sort(chosen)]
    return Examples(task, train, validation)


def read_split(data: TaskDataConfig, task: Task, split: str) -> list[Example]:
    """The examples of a split of the task, or of a file: in data.dir, or anywhere by its whole path."""
    prepared = data.dir == BY_NAME or is_prepared(Path(data.dir))
    if prepared and split in task.files:
        return read_prepared(data.dir, task, split)
    if prepared and not Path(split).is_absolute():
        raise Refused(f"{data.dir} is a prepared set: its splits are {', '.join(task.files)}, not {split!r}")
    return task.read(Path(data.dir) / task.files.get(split, split))


def is_known(example: Example) -> bool:
    """Whether the gold of an example is there."""
    if isinstance(example, Question):
        return example.impossible is not None
    return (example.tags if hasattr(example, "tags") else example.label) is not None


def _check_known(name: str, examples: Sequence[Example]) -> None:
    hidden = next((example.id for example in examples if not is_known(example)), None)
    if hidden is not None:
        raise Refused(f"{name}: example {hidden} has no label: it can be predicted, not trained or selected on")


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
