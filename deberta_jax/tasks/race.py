"""RACE: English exams for middle and high schools in China, four options a question."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Choice, Example
from deberta_jax.tasks.scoring import choices
from deberta_jax.tasks.tables import field, json_lines
from deberta_jax.tasks.task import Prepared, Task

LETTERS = ("A", "B", "C", "D")


def read_race(path: Path) -> list[Example]:
    """The questions of `path`: JSON lines, or a folder of the original release, an article in each .txt below it.

    Files of a folder come by folder and number. An option is (article, question with the option in it), see `filled`;
    an id is the article's, without .txt, and the question's number from 0. Without "answers" the labels are None.
    Raises Refused, naming file and line, for other files, other fields and other than four options.
    """
    files = sorted(path.rglob("*.txt"), key=_place) if path.is_dir() else [path]
    if not files:
        raise Refused(f"{path} has no .txt file, as the folders of RACE's release do")
    return [example for file in files for where, row in json_lines(file) for example in _questions(row, where)]


def filled(question: str, option: str) -> str:
    """The option in the question's gap (_), or behind a question without a gap; runs of white space are one blank.

    Of several gaps each has its part of an option "first; second", if there are as many parts; else the option comes
    behind the question. The released code puts it there always.
    """
    gaps = question.count("_")
    parts = [option] if gaps < 2 else re.split("[;,]", option)
    if len(parts) != gaps:
        return _plain(f"{question} {option}")
    left = iter(parts)
    return _plain(re.sub("_", lambda _: next(left), question))


def _place(file: Path) -> tuple[Path, int, str]:
    return file.parent, len(file.name), file.name  # 2.txt before 10.txt


def _plain(text: str) -> str:
    return " ".join(text.split())


def _questions(row: Mapping[str, Any], where: str) -> Iterator[Choice]:
    """Of one article."""
    article = _plain(field(row, "article", str, where))
    id = field(row, "id", str, where).removesuffix(".txt")
    questions, options = field(row, "questions", list, where), field(row, "options", list, where)
    answers = field(row, "answers", list, where) if "answers" in row else [None] * len(questions)
    if not len(questions) == len(options) == len(answers):
        counts = f"{len(questions)} questions, {len(options)} lists of options, {len(answers)} answers"
        raise Refused(f"{where} has {counts}")
    for number, (question, four, letter) in enumerate(zip(questions, options, answers, strict=True)):
        if not isinstance(four, list) or [type(text) for text in (question, *four)] != [str] * 5:
            raise Refused(f"{where}, question {number} is no text with four options")
        if letter is not None and letter not in LETTERS:
            raise Refused(f"{where}, question {number}: answer {letter!r} is none of {', '.join(LETTERS)}")
        label = None if letter is None else LETTERS.index(letter)
        yield Choice(f"{id}-{number}", tuple((article, filled(question, option)) for option in four), label)


def _prepared(row: Mapping[str, Any], number: int) -> list[Example]:
    return list(_questions({**row, "id": row["example_id"]}, f"race, row {number}"))


def _task(below: str, prepared: Prepared | None) -> Task:
    return Task(
        kind="multiple_choice",
        labels=(),
        folder="RACE",
        files={"train": f"train{below}", "validation": f"dev{below}", "test": f"test{below}"},
        read=read_race,
        prepared=prepared,
        validation=("validation",),  # the released code chooses by the test
        score=choices,
        selection=("accuracy",),
    )


def _half(name: str) -> Task:
    """TensorFlow Datasets has the two kinds of schools as two sets, and not both in one."""
    return _task(
        f"/{name}", Prepared(f"race/{name}", {"train": "train", "validation": "dev", "test": "test"}, _prepared)
    )


TASKS = {"race": _task("", None), "race-middle": _half("middle"), "race-high": _half("high")}
