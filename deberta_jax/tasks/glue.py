"""GLUE's nine tasks and its diagnostic set, from the tab-separated files of the release or TensorFlow Datasets.

Columns are found by name, because the files of one task differ; a file without its label column has hidden labels.
Labels are called as in the files. Ids are those of the column "index", or else count rows from 0.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Example, Prediction, Text
from deberta_jax.tasks.tables import Row, tsv_header, tsv_rows
from deberta_jax.tasks.task import Prepared, Task

Score = Callable[[Sequence[Any], Sequence[Prediction]], dict[str, float]]
Reader = Callable[[Path], list[Example]]

BINARY = ("0", "1")
THREE = ("contradiction", "neutral", "entailment")  # the order of the released models
TWO = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")
FILES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
SPLITS = {split: split for split in FILES}
MNLI_FILES = {"train": "train.tsv"} | {
    f"{split}_{half}": f"{file}_{half}.tsv"
    for split, file in (("validation", "dev"), ("test", "test"))
    for half in ("matched", "mismatched")
}
COLA_COLUMNS = ("source", "label", "mark", "sentence")  # of the files without a header
UNDECIDED = "-"  # gold label of MultiNLI where the annotators did not agree


def known_label(label: str, labels: Sequence[str], where: str) -> str:
    """The label. Raises Refused, with the nearest, when it is none of `labels`."""
    if label not in labels:
        raise Refused(f"{where}: label {label!r} is none of {', '.join(labels)}{nearest(label, labels)}")
    return label


def read_mnli(path: Path) -> list[Example]:
    """The pairs of a file of MNLI, each with its genre as group.

    Rows whose gold label is "-" are left out: no label has a majority. GLUE's own files have none of them, the original
    MultiNLI has; without them its files have the examples of GLUE's. Raises Refused as the other readers do, and for a
    file of such rows alone.
    """
    examples = [
        _text(row, number, PAIR, _label(row, "gold_label", THREE, where))._replace(group=row.get("genre", ""))
        for number, (where, row) in enumerate(tsv_rows(path))
        if "gold_label" not in row or row["gold_label"] != UNDECIDED
    ]
    if not examples:
        raise Refused(f"{path} has no row with a gold label other than {UNDECIDED!r}")
    return examples


def _text(row: Row, number: int, segments: Sequence[str], label: str | float | None, index: str = "index") -> Text:
    """Of the columns with those names."""
    return Text(row[index] if index in row else str(number), tuple(row[segment] for segment in segments), label)


def _label(row: Row, column: str, labels: Sequence[str], where: str) -> str | None:
    return known_label(row[column], labels, where) if column in row else None


def _read(path: Path, segments: Sequence[str], label: str, labels: Sequence[str]) -> list[Example]:
    rows = enumerate(tsv_rows(path))
    return [_text(row, number, segments, _label(row, label, labels, where)) for number, (where, row) in rows]


def _read_cola(path: Path) -> list[Example]:
    """The files with labels have no header, the test has one."""
    rows = enumerate(tsv_rows(path, None if "sentence" in tsv_header(path) else COLA_COLUMNS))
    return [_text(row, number, ("sentence",), _label(row, "label", BINARY, where)) for number, (where, row) in rows]


def _read_qqp(path: Path) -> list[Example]:
    """The "id" of the test is its index; that of the other files is Quora's.

    Rows that lack fields, which some copies have, are refused as in all tables, not skipped.
    """
    examples = []
    for number, (where, row) in enumerate(tsv_rows(path)):
        label = _label(row, "is_duplicate", BINARY, where)
        examples.append(_text(row, number, ("question1", "question2"), label, "id" if label is None else "index"))
    return examples


def _read_stsb(path: Path) -> list[Example]:
    rows = enumerate(tsv_rows(path))
    return [
        _text(row, number, PAIR, _similarity(row["score"], where) if "score" in row else None)
        for number, (where, row) in rows
    ]


def _similarity(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise Refused(f"{where}: score {text!r} is no number") from error
    if not 0 <= value <= 5:  # nor nan
        raise Refused(f"{where}: score {text!r} is not between 0 and 5")
    return value


def _read_ax(path: Path) -> list[Example]:
    """diagnostic.tsv, or diagnostic-full.tsv with its labels; both have the same rows."""
    segments = ("Premise", "Hypothesis") if "Premise" in tsv_header(path) else PAIR
    return _read(path, segments, "Label", THREE)


def _prepared(
    config: str, segments: Sequence[str], names: Mapping[str, str], splits: Mapping[str, str] = SPLITS
) -> Prepared:
    """`names`: their class name -> our label."""
    name = f"glue/{config}"

    def example(row: Mapping[str, Any], number: int) -> list[Example]:
        label = row["label"]
        if label is not None:
            label = names[known_label(label, tuple(names), f"{name}, row {number}")]
        return [Text(str(row["idx"]), tuple(row[segment] for segment in segments), label)]

    return Prepared(name, splits, example)


def _prepared_stsb(row: Mapping[str, Any], number: int) -> list[Example]:
    """A hidden score is -1 there."""
    label = None if row["label"] == -1 else _similarity(str(row["label"]), f"glue/stsb, row {number}")
    return [Text(str(row["idx"]), tuple(row[segment] for segment in PAIR), label)]


def _task(
    folder: str,
    labels: tuple[str, ...],
    read: Reader,
    prepared: Prepared,
    score: Score,
    selection: tuple[str, ...],
    *,
    kind: str = "classification",
    files: Mapping[str, str] = FILES,
    validation: tuple[str, ...] = ("validation",),
) -> Task:
    return Task(kind, labels, folder, files, read, prepared, validation, score, selection)


def _reading(segments: Sequence[str], label: str, labels: Sequence[str]) -> Reader:
    """Raises Refused, naming file and line, for missing columns and fields and for unknown labels."""
    return functools.partial(_read, segments=segments, label=label, labels=labels)


def _same(labels: Sequence[str]) -> dict[str, str]:
    return {label: label for label in labels}


TASKS = {
    "cola": _task(
        "CoLA",
        BINARY,
        _read_cola,
        _prepared("cola", ("sentence",), {"unacceptable": "0", "acceptable": "1"}),
        scoring.matthews,
        ("matthews",),
    ),
    "sst-2": _task(
        "SST-2",
        BINARY,
        _reading(("sentence",), "label", BINARY),
        _prepared("sst2", ("sentence",), {"negative": "0", "positive": "1"}),
        scoring.accuracy,
        ("accuracy",),
    ),
    "mrpc": _task(
        "MRPC",
        BINARY,
        _reading(("#1 String", "#2 String"), "Quality", BINARY),
        _prepared("mrpc", PAIR, {"not_equivalent": "0", "equivalent": "1"}),
        scoring.accuracy_and_f1("1"),
        ("accuracy", "f1"),
    ),
    "sts-b": _task(
        "STS-B",
        ("score",),
        _read_stsb,
        Prepared("glue/stsb", SPLITS, _prepared_stsb),
        scoring.correlation,
        ("pearson", "spearman"),
        kind="regression",
    ),
    "qqp": _task(
        "QQP",
        BINARY,
        _read_qqp,
        _prepared("qqp", ("question1", "question2"), {"not_duplicate": "0", "duplicate": "1"}),
        scoring.accuracy_and_f1("1"),
        ("accuracy", "f1"),
    ),
    "mnli": _task(
        "MNLI",
        THREE,
        read_mnli,
        _prepared("mnli", ("premise", "hypothesis"), _same(THREE), {split: split for split in MNLI_FILES}),
        scoring.accuracy,
        ("accuracy",),
        files=MNLI_FILES,
        validation=("validation_matched", "validation_mismatched"),
    ),
    "qnli": _task(
        "QNLI",
        TWO,
        _reading(("sentence", "question"), "label", TWO),  # in the order of the released code, not of the file
        _prepared("qnli", ("sentence", "question"), _same(TWO)),
        scoring.accuracy,
        ("accuracy",),
    ),
    "rte": _task(
        "RTE", TWO, _reading(PAIR, "label", TWO), _prepared("rte", PAIR, _same(TWO)), scoring.accuracy, ("accuracy",)
    ),
    "wnli": _task(
        "WNLI",
        BINARY,
        _reading(PAIR, "label", BINARY),
        _prepared("wnli", PAIR, {"not_entailment": "0", "entailment": "1"}),
        scoring.accuracy,
        ("accuracy",),
    ),
    "ax": _task(
        "AX",
        THREE,
        _read_ax,
        _prepared("ax", ("premise", "hypothesis"), _same(THREE), {"test": "test"}),
        scoring.matthews,
        ("matthews",),
        files={"diagnostic": "diagnostic-full.tsv", "test": "diagnostic.tsv"},
        validation=("diagnostic",),
    ),
}
