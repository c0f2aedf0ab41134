"""XNLI: the pairs of MNLI's kind in fifteen languages. All languages are evaluated at once; one's name is its group."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Example, Text
from deberta_jax.tasks.glue import THREE, known_label, read_mnli
from deberta_jax.tasks.scoring import accuracy_by_group
from deberta_jax.tasks.tables import field, json_lines, tsv_header, tsv_rows
from deberta_jax.tasks.task import Prepared, Task

TRANSLATED = {label: label for label in THREE} | {"contradictory": "contradiction"}  # labels of XNLI-MT


def read_xnli(path: Path) -> list[Example]:
    """The pairs of `path`, which its ending and header tell apart:

    xnli.*.tsv or .jsonl  many languages; a pair has the same number in all, so ids are LANGUAGE-NUMBER
    multinli.train.*.tsv  MNLI's training pairs, translated by machine: XNLI-MT 1.0; ids count rows from 0, no group
    any other table       a file of MNLI, see glue.read_mnli

    Raises Refused, naming file and line, for missing columns and fields and for unknown labels.
    """
    if path.suffix == ".jsonl":
        return _read_pairs(json_lines(path))
    columns = tsv_header(path)
    if "hypo" in columns:
        return _read_translated(path)
    return _read_pairs(tsv_rows(path)) if "language" in columns else read_mnli(path)


def _read_pairs(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Example]:
    return [_pair(row, where) for where, row in rows]


def _pair(row: Mapping[str, Any], where: str) -> Text:
    language = field(row, "language", str, where)
    id = f"{language}-{field(row, 'pairID', str, where)}"
    segments = field(row, "sentence1", str, where), field(row, "sentence2", str, where)
    label = known_label(field(row, "gold_label", str, where), THREE, where) if "gold_label" in row else None
    return Text(id, segments, label, group=language)


def _read_translated(path: Path) -> list[Example]:
    return [
        Text(
            str(number),
            (row["premise"], row["hypo"]),
            TRANSLATED[known_label(row["label"], tuple(TRANSLATED), where)] if "label" in row else None,
        )
        for number, (where, row) in enumerate(tsv_rows(path))
    ]


def _prepared(row: Mapping[str, Any], number: int) -> list[Example]:
    """A pair in each language; the rows of TensorFlow Datasets have no numbers but their own."""
    label = row["label"]
    if label is not None:
        known_label(label, THREE, f"xnli, row {number}")
    hypotheses = zip(row["hypothesis"]["language"], row["hypothesis"]["translation"], strict=True)
    return [
        Text(f"{language}-{number}", (row["premise"][language], hypothesis), label, group=language)
        for language, hypothesis in hypotheses
    ]


TASKS = {
    "xnli": Task(
        kind="classification",
        labels=THREE,
        folder="XNLI",
        files={"train": "multinli.train.en.tsv", "validation": "xnli.dev.tsv", "test": "xnli.test.tsv"},
        read=read_xnli,
        prepared=Prepared("xnli", {"validation": "validation", "test": "test"}, _prepared),
        validation=("validation",),
        score=accuracy_by_group,
        selection=("accuracy",),
    )
}
