"""Examples from a user's own file, by the names of its columns: .tsv without quoting, .csv with it, or .jsonl.

A JSON object's fields are its columns. A file may lack the column of labels (tags, answers): then all its examples are
hidden, as those to be predicted are.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.config import ColumnsConfig
from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks.examples import Answer, Choice, Example, Question, Sentence, Text
from deberta_jax.tasks.tables import Row, csv_rows, field, json_lines, tsv_rows

BLANKS = str.maketrans("\t\r\n", "   ")  # not split(): a no-break space may be a word
LIST = re.compile(r"""\[\s*(['"]).*\1\s*\]""", re.DOTALL)  # as Python or JSON write one of texts
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NEEDED = {  # kind -> what data.columns must name, the label last
    "classification": ("segments", "label"),
    "regression": ("segments", "label"),
    "multiple_choice": ("options", "label"),
    "tagging": ("words", "tags"),
    "span": ("question", "context", "answers"),
}
TABLES = {".tsv": tsv_rows, ".csv": csv_rows, ".jsonl": json_lines}

Values = Mapping[str, Any]


class _Given(NamedTuple):
    """What the readers of all kinds are told besides a row."""

    place: str  # "FILE, line N"
    id: str
    columns: ColumnsConfig
    labels: Sequence[str]


def read_custom(path: Path, kind: str, columns: ColumnsConfig, labels: Sequence[str]) -> list[Example]:
    """The examples of `path`, of one of examples.KINDS; `labels` () are not known yet.

    Ids are those of the column `id`, or count rows from 0. Labels may be integers, true and false in JSON; they are
    called "1", "true" and "false" then. An option is read as the segments and itself; the label is its number from 0,
    its letter from A, or its text. Words and tags are lists of strings in JSON, and separated by blanks in tables.

    Answers are one string, "" where there is none. In JSON they may also be a list of strings, a list of objects with
    "text" and "answer_start", or SQuAD's two lists {"text": [], "answer_start": []}. The column `answer_start` is of
    answers that have no starts of their own. Where a start is not given or wrong, it is that of the only place that has
    the text, or else -1.

    Raises Refused, naming file and line, for columns that are not there (with the nearest name) and those that
    data.columns does not name; for unknown labels, those with blanks around them, numbers that are not finite, labels
    that mean no option or several, tags that are not as many as words, answers that are not in the context, equal ids,
    and for a file that hides some of its labels only.
    """
    _check_named(kind, columns)
    examples, places = [], {}
    hidden: dict[bool, str] = {}  # whether the label is -> first such place
    for number, (place, row) in enumerate(_rows(path)):
        id = _id(row, columns.id, number, place)
        if id in places:
            raise Refused(f"{place}: id {id!r} is that of {places[id]} too")
        places[id] = place
        examples.append(_READERS[kind](row, _Given(place, id, columns, labels)))
        hidden.setdefault(_is_hidden(examples[-1]), place)
    if len(hidden) > 1:
        raise Refused(f"{hidden[True]} has no {getattr(columns, NEEDED[kind][-1])!r}, but {hidden[False]} has")
    return examples


def labels_of(examples: Sequence[Example], kind: str) -> tuple[str, ...]:
    """The different labels or tags of the examples, sorted; ("score",) of regression, () of options and spans."""
    if kind == "classification":
        return tuple(sorted({example.label for example in examples if example.label is not None}))
    if kind == "tagging":
        return tuple(sorted({tag for example in examples if example.tags is not None for tag in example.tags}))
    return ("score",) if kind == "regression" else ()


def _check_named(kind: str, columns: ColumnsConfig) -> None:
    if kind not in NEEDED:
        raise Refused(f"kind {kind!r} is none of {', '.join(NEEDED)}{nearest(kind, NEEDED)}")
    for key in NEEDED[kind]:
        if not getattr(columns, key):
            raise Refused(f"data.columns.{key} names no column, and a task of kind {kind!r} needs one")


def _rows(path: Path) -> Iterator[tuple[str, Values]]:
    if path.suffix not in TABLES:
        raise Refused(f"{path} is none of {', '.join(TABLES)}{nearest(path.suffix, TABLES)}")
    return TABLES[path.suffix](path)


def _id(row: Values, column: str, number: int, place: str) -> str:
    if not column:
        return str(number)
    is_number = column in row and type(row[column]) is int
    return str(row[column]) if is_number else field(row, column, str, place)


def _is_hidden(example: Example) -> bool:
    if isinstance(example, Sentence):
        return example.tags is None
    return (example.impossible if isinstance(example, Question) else example.label) is None


def _has(row: Values, column: str) -> bool:
    """Whether the row has something in a column that may be missing."""
    return column in row and row[column] is not None and row[column] != ""


def _texts(row: Values, columns: Sequence[str], given: _Given) -> tuple[str, ...]:
    return tuple(field(row, column, str, given.place) for column in columns)


def _classification(row: Values, given: _Given) -> Text:
    segments = _texts(row, given.columns.segments, given)
    return Text(given.id, segments, _label(row, given) if _has(row, given.columns.label) else None)


def _label(row: Values, given: _Given) -> str:
    label = row[given.columns.label]
    if isinstance(label, int):  # also true and false
        label = json.dumps(label)
    if not isinstance(label, str):
        raise Refused(f"{given.place}: label {label!r} is neither text nor an integer")
    return _known(label, "label", given)


def _known(label: str, what: str, given: _Given) -> str:
    if label != label.strip():  # "1" and "1 " would be two classes
        raise Refused(f"{given.place}: {what} {label!r} has blanks around it")
    if given.labels and label not in given.labels:
        known = ", ".join(given.labels)
        raise Refused(f"{given.place}: {what} {label!r} is none of {known}{nearest(label, given.labels)}")
    return label


def _regression(row: Values, given: _Given) -> Text:
    segments = _texts(row, given.columns.segments, given)
    return Text(given.id, segments, _number(row, given) if _has(row, given.columns.label) else None)


def _number(row: Values, given: _Given) -> float:
    label = row[given.columns.label]
    try:
        value = math.nan if isinstance(label, bool) else float(label)
    except (OverflowError, TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise Refused(f"{given.place}: label {label!r} is no finite number")
    return value


def _multiple_choice(row: Values, given: _Given) -> Choice:
    segments = _texts(row, given.columns.segments, given)
    options = _texts(row, given.columns.options, given)
    label = _option(row[given.columns.label], options, given) if _has(row, given.columns.label) else None
    return Choice(given.id, tuple((*segments, option) for option in options), label)


def _option(label: Any, options: Sequence[str], given: _Given) -> int:
    """The option that the label means, if only one can be meant."""
    if type(label) is int:
        meant = {label} & set(range(len(options)))
    else:
        names = [(str(number), LETTERS[number : number + 1], option) for number, option in enumerate(options)]
        meant = {number for number, either in enumerate(names) if label in either}
    if not meant:
        raise Refused(
            f"{given.place}: label {label!r} is neither the number (from 0) nor the letter nor the text of one of the "
            f"{len(options)} options"
        )
    if len(meant) > 1:
        raise Refused(
            f"{given.place}: label {label!r} may mean each of the options {', '.join(map(str, sorted(meant)))}"
        )
    return meant.pop()


def _tagging(row: Values, given: _Given) -> Sentence:
    words = _words(row, given.columns.words, given)
    if not words:
        raise Refused(f"{given.place} has no words")
    if not _has(row, given.columns.tags):
        return Sentence(given.id, words, None)
    tags = _words(row, given.columns.tags, given)
    if len(tags) != len(words):
        raise Refused(f"{given.place} has {len(words)} words and {len(tags)} tags")
    return Sentence(given.id, words, tuple(_known(tag, "tag", given) for tag in tags))


def _words(row: Values, column: str, given: _Given) -> tuple[str, ...]:
    if isinstance(row, Row):
        if LIST.fullmatch(row[column]):
            raise Refused(f"{given.place}: {column!r} is a list in brackets: separate by blanks, or write JSON lines")
        return tuple(word for word in row[column].translate(BLANKS).split(" ") if word)
    return _strings(field(row, column, list, given.place), column, given)


def _strings(values: Sequence[Any], column: str, given: _Given) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str) or not value:
            raise Refused(f"{given.place}: field {column!r} holds {value!r}, which is no text")
    return tuple(values)


def _span(row: Values, given: _Given) -> Question:
    question, context = _texts(row, (given.columns.question, given.columns.context), given)
    column = given.columns.answers
    if column not in row or row[column] is None:
        return Question(given.id, question, context, (), None)
    texts, starts = _answers(row, given)
    if len(texts) != len(starts):
        raise Refused(f"{given.place} has {len(texts)} answers and {len(starts)} starts of answers")
    answers = tuple(
        Answer(text, _place(context, text, _start(start, given), given))
        for text, start in zip(_strings(texts, column, given), starts, strict=True)
    )
    return Question(given.id, question, context, answers, not answers)


def _answers(row: Values, given: _Given) -> tuple[list[Any], list[Any]]:
    """Texts, and starts or None for each, as the row has them."""
    answers, start_column = row[given.columns.answers], given.columns.answer_start
    if answers in ("", []):
        return [], []
    if isinstance(answers, str):
        return [answers], [field(row, start_column, object, given.place) if start_column else None]
    if isinstance(answers, dict):
        return field(answers, "text", list, given.place), field(answers, "answer_start", list, given.place)
    if not isinstance(answers, list):
        raise Refused(f"{given.place}: answers are {type(answers).__name__}, and no text, list or object")
    if isinstance(answers[0], dict):
        texts = [field(answer, "text", str, given.place) for answer in answers]
        return texts, [answer.get("answer_start") for answer in answers]
    return answers, field(row, start_column, list, given.place) if start_column else [None] * len(answers)


def _start(value: Any, given: _Given) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch("-?[0-9]+", value):
        return int(value)
    if type(value) is not int:
        raise Refused(f"{given.place}: start {value!r} of an answer is no integer")
    return value


def _place(context: str, text: str, start: int | None, given: _Given) -> int:
    """Where the answer begins: at `start` if that is right, else at the only place that has it, else -1."""
    first = context.find(text)
    if first < 0:
        raise Refused(f"{given.place}: answer {text!r} is not in the context")
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    return first if context.find(text, first + 1) < 0 else -1


_READERS: dict[str, Callable[[Values, _Given], Example]] = {
    "classification": _classification,
    "regression": _regression,
    "multiple_choice": _multiple_choice,
    "tagging": _tagging,
    "span": _span,
}
