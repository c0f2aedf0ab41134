"""The examples of tasks from TensorFlow Datasets, without TensorFlow unless a set has to be built that needs it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.data.documents import TFDS_ERRORS
from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks.examples import Example
from deberta_jax.tasks.task import Prepared, Task

BY_NAME = "tfds"  # in place of a folder
HIDDEN = -1  # the class of a label that is not told


def is_prepared(path: Path) -> bool:
    """Whether the folder is a set prepared by TensorFlow Datasets."""
    return (path / "dataset_info.json").is_file()


def read_prepared(source: str, task: Task, split: str) -> list[Example]:
    """The examples of one of the task's splits, in the order of the set's files.

    `source` is the folder of a prepared set, or "tfds": then the set is built by its name, in the place of TensorFlow
    Datasets' own, unless it is there already. The task sees rows as plain Python: texts as str, classes by their
    names, None for a hidden one. Raises Refused for a set or split that the task has not, for the set of another task,
    and for what cannot be read or built.
    """
    where = f"data.dir={source}"
    prepared = task.prepared
    if prepared is None:
        said = "no set of TensorFlow Datasets is this task (of RACE they are race-middle and race-high)"
        raise Refused(f"{where}: {said}: name the folder of its files")
    if split not in prepared.splits:
        known = ", ".join(prepared.splits)
        raise Refused(
            f"{where}: {prepared.name} has no split {split!r}{nearest(split, prepared.splits)}; it has {known}"
        )
    classes, rows = _rows(source, prepared.name, prepared.splits[split])
    examples = (_examples(rows[i], i, classes, prepared, f"{where}, {split!r}, row {i}") for i in range(len(rows)))
    return [example for of_row in examples for example in of_row]


def _examples(row: Mapping[str, Any], number: int, classes: Any, prepared: Prepared, where: str) -> list[Example]:
    try:
        return prepared.example(_plain(row, classes), number)
    except KeyError as error:
        raise Refused(f"{where} has no {error}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{where} is not UTF-8: {error.reason} at byte {error.start} of a text") from error


def _rows(source: str, name: str, split: str) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """What `_classes` says of the set, and its rows."""
    import tensorflow_datasets as tfds  # slow, and for this source only

    if source != BY_NAME and not is_prepared(Path(source)):
        raise Refused(f"data.dir={source} is no set prepared by TensorFlow Datasets: it has no dataset_info.json")
    try:
        if source == BY_NAME:
            import tensorflow_datasets.text  # its search for sets ends at the first that lacks a package, before these

            builder = tfds.builder(name, file_format="array_record")
            builder.download_and_prepare()  # nothing where it was built before
        else:
            builder = tfds.builder_from_directory(source)
            _check_name(source, builder.info.full_name, name)
        return _classes(builder.info.features), builder.as_data_source(split)
    except (*TFDS_ERRORS, tfds.download.DownloadError) as error:
        said = " ".join(str(error).split())
        raise Refused(f"data.dir={source}: {name}: {type(error).__name__}: {said}") from error


def _check_name(source: str, found: str, name: str) -> None:
    """`found` is NAME[/CONFIG]/VERSION; a set whose only configuration has a name of its own is called without."""
    if not found.startswith(f"{name}/"):
        raise Refused(f"data.dir={source} holds {found}, and the task's set is {name}")


def _classes(feature: Any) -> Any:
    """The names of classes where there are any: of a FeaturesDict by its keys, of a Sequence those of its parts."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return tuple(feature.names)
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _classes(feature[key]) for key in feature}
    return _classes(feature.feature) if isinstance(feature, tfds.features.Sequence) else None


def _plain(value: Any, classes: Any) -> Any:
    """The value of a row as Python's own types, with the names of classes."""
    if isinstance(value, Mapping):
        return {key: _plain(each, classes[key]) for key, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [_plain(each, classes) for each in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.generic):
        value = value.item()
    if classes is not None:
        return None if value == HIDDEN else classes[value]
    return value
