"""SQuAD: the answer to a question is a stretch of a paragraph or, from version 2 on, may not be there at all."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused
from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Answer, Example, Question
from deberta_jax.tasks.tables import field, text_lines
from deberta_jax.tasks.task import Prepared, Task


def locate(context: str, text: str, start: int) -> int:
    """Where the answer `text` begins in `context`: `start` where that is right, else the nearest occurrence, else -1.

    The earlier one of two that are equally near. Not every published start is right: some count other characters,
    some lie at a copy of the words elsewhere in the paragraph (which nobody can tell from a right one).
    """
    if not text:
        return -1
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return min(places, key=lambda place: abs(place - start), default=-1)


def _read(path: Path, version: int) -> list[Example]:
    """The questions of SQuAD's JSON, in order. Raises Refused, saying where, for what is not of that form."""
    questions: dict[str, Example] = {}
    for context, row, where in _rows(_json(path), str(path)):
        question = _question(context, row, where, version)
        if question.id in questions:
            raise Refused(f"{where}: id {question.id!r} belongs to an earlier question")
        questions[question.id] = question
    if not questions:
        raise Refused(f"{path} has no question")
    return list(questions.values())


def _json(path: Path) -> Any:
    try:
        return json.loads("\n".join(line for _, line in text_lines(path)))
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error


def _rows(file: Any, where: str) -> Iterator[tuple[str, Any, str]]:
    """(context, what the file holds of a question, where that is)."""
    for i, article in enumerate(field(file, "data", list, where), 1):
        in_article = f"{where}, article {i}"
        for j, paragraph in enumerate(field(article, "paragraphs", list, in_article), 1):
            in_paragraph = f"{in_article}, paragraph {j}"
            context = field(paragraph, "context", str, in_paragraph)
            for k, row in enumerate(field(paragraph, "qas", list, in_paragraph), 1):
                yield context, row, f"{in_paragraph}, question {k}"


def _question(context: str, row: Any, where: str, version: int) -> Question:
    id, text = field(row, "id", str, where), field(row, "question", str, where)
    answers = _answers(context, row, where) if "answers" in row else ()
    return Question(id, text, context, answers, _impossible(row, bool(answers), where, version))


def _answers(context: str, row: Any, where: str) -> tuple[Answer, ...]:
    rows = field(row, "answers", list, where)
    pairs = [(field(each, "text", str, where), field(each, "answer_start", int, where)) for each in rows]
    return tuple(Answer(text, locate(context, text, start)) for text, start in pairs)


def _impossible(row: Any, answered: bool, where: str, version: int) -> bool | None:
    if "is_impossible" in row and field(row, "is_impossible", bool, where):
        if version == 1:
            raise Refused(f"{where} has no answer, as questions of version 2 may: its task is squad-v2")
        if answered:
            raise Refused(f"{where} is impossible and has answers")
        return True
    return False if answered else None


def _prepared(row: Mapping[str, Any], number: int, version: int) -> list[Example]:
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    values: dict[str, Any] = {
        "id": row["id"],
        "question": row["question"],
        "answers": [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)],
    }
    if version == 2:
        values["is_impossible"] = row["is_impossible"]
    return [_question(row["context"], values, f"squad, row {number}", version)]


def _task(version: int, name: str, score: Any) -> Task:
    return Task(
        kind="span",
        labels=(),
        folder="SQuAD",
        files={"train": f"train-{name}.json", "validation": f"dev-{name}.json"},
        read=functools.partial(_read, version=version),
        prepared=Prepared(
            f"squad/{name}",
            {"train": "train", "validation": "validation"},
            functools.partial(_prepared, version=version),
        ),
        validation=("validation",),
        score=score,
        selection=("f1",),
    )


TASKS = {"squad": _task(1, "v1.1", scoring.squad), "squad-v2": _task(2, "v2.0", scoring.squad_v2)}
