"""Tagged words in columns, as CoNLL-2003 has its names of persons, places and organisations."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Example, Sentence
from deberta_jax.tasks.glue import known_label
from deberta_jax.tasks.scoring import entities
from deberta_jax.tasks.tables import text_lines
from deberta_jax.tasks.task import Prepared, Task

LABELS = ("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")  # as the released code
DOCUMENT = "-DOCSTART-"

Lines = list[tuple[int, list[str]]]  # (line number, columns) of one sentence


def read_columns(path: Path) -> list[Sentence]:
    """The sentences of `path`: a word a line, the first column the word, the last its tag; blank lines in between.

    Tags are IOB1 or IOB2, of any types, and become IOB2; words in a single column have none. Columns are separated by
    blanks or tabs. A line of -DOCSTART- ends a sentence and is left out. Ids count sentences from 0. Raises Refused,
    naming file and line, for other tags, for a line with more or fewer columns than the first, and for an empty file.
    """
    return _read(path, None)


def iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """IOB1 or IOB2 tags of one sentence as IOB2: the same entities, each of which begins with B-.

    By the rule of the official scorer, conlleval, an entity begins at every B- and at an I- after O or another type.
    """
    return tuple(
        "B-" + tag[2:] if tag.startswith("I-") and tag[2:] != before[2:] else tag
        for before, tag in itertools.pairwise(("O", *tags))
    )


def _read(path: Path, labels: Sequence[str] | None) -> list[Sentence]:
    sentences = [_sentence(str(number), lines, path, labels) for number, lines in enumerate(_blocks(path))]
    if not sentences:
        raise Refused(f"{path} has no sentence")
    return sentences


def _blocks(path: Path) -> Iterator[Lines]:
    block: Lines = []
    width = 0
    for number, line in text_lines(path):
        parts = line.replace("\t", " ").split(" ")  # not split(): a no-break space may be a word
        columns = [part for part in parts if part]
        if columns and columns[0] != DOCUMENT:
            width = width or len(columns)
            if len(columns) != width:
                raise Refused(f"{path}, line {number} has {len(columns)} columns, the first line has {width}")
            block.append((number, columns))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _sentence(id: str, lines: Lines, path: Path, labels: Sequence[str] | None) -> Sentence:
    words = tuple(columns[0] for _, columns in lines)
    if len(lines[0][1]) == 1:
        return Sentence(id, words, None)
    for number, columns in lines:
        _check_tag(columns[-1], f"{path}, line {number}", labels)
    return Sentence(id, words, iob2([columns[-1] for _, columns in lines]))


def _check_tag(tag: str, where: str, labels: Sequence[str] | None) -> None:
    if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) == 2):
        raise Refused(f"{where}: tag {tag!r} is none of IOB1 and IOB2, which are O, B-TYPE and I-TYPE")
    if labels is not None:
        known_label(tag, labels, where)


def _prepared(row: Mapping[str, Any], number: int) -> list[Example]:
    """No example for the empty row that a blank line at the end of a file makes in TensorFlow Datasets."""
    return [Sentence(str(number), tuple(row["tokens"]), iob2(row["ner"]))] if len(row["tokens"]) else []


TASKS = {
    "conll2003": Task(
        kind="tagging",
        labels=LABELS,
        folder="conll2003",
        files={"train": "eng.train", "validation": "eng.testa", "test": "eng.testb"},
        read=lambda path: _read(path, LABELS),
        prepared=Prepared("conll2003", {"train": "train", "validation": "dev", "test": "test"}, _prepared),
        validation=("validation",),
        score=entities,
        selection=("f1",),
    )
}
