"""Predictions as the files that the servers of GLUE and SuperGLUE and the scorer of SQuAD read.

The servers want the examples of a test in the order and by the numbers of its file, which are our ids; sets of
TensorFlow Datasets hold them in another order.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.tasks.examples import Example, Prediction, Question, Text
from deberta_jax.tasks.registry import TASKS

GLUE_FILES = {
    "cola": "CoLA",
    "sst-2": "SST-2",
    "mrpc": "MRPC",
    "sts-b": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI-m",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
    "ax": "AX",
}
IN_WORDS = ("mnli", "qnli", "rte", "ax")  # the other tasks of GLUE are submitted as numbers of labels
SUPERGLUE_FILES = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "superglue-rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
    "ax-b": "AX-b",
    "ax-g": "AX-g",
}
SURE = 1e9  # odds of no answer where a context has none at all: JSON has no infinity

Pairs = Iterable[tuple[Any, Prediction]]


def write_submission(
    directory: Path, task_name: str, split: str, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> Path | None:
    """Writes the predictions of one split into `directory`; returns the file, or None where a task has no such form.

    GLUE: tab-separated "index" and "prediction", of MNLI a file for each of its two tests. SuperGLUE: JSON lines of
    "idx" and "label". SQuAD: predictions.json, and null_odds.json of version 2 beside it. Raises ValueError where
    there are not as many predictions as examples.
    """
    pairs = list(zip(examples, predictions, strict=True))
    if task_name in GLUE_FILES or task_name in SUPERGLUE_FILES:
        pairs.sort(key=lambda pair: [(len(number), number) for number in pair[0].id.split("-")])  # 2 before 10
    if task_name == "mnli":
        return _write_glue(directory / ("MNLI-mm.tsv" if "mismatched" in split else "MNLI-m.tsv"), task_name, pairs)
    if task_name in GLUE_FILES:
        return _write_glue(directory / f"{GLUE_FILES[task_name]}.tsv", task_name, pairs)
    if task_name in SUPERGLUE_FILES:
        lines = _SUPERGLUE_LINES[task_name](pairs)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return _write(directory / f"{SUPERGLUE_FILES[task_name]}.jsonl", text)
    if task_name in ("squad", "squad-v2"):
        return _write_squad(directory, pairs, with_odds=task_name == "squad-v2")
    return None


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _write_glue(path: Path, task_name: str, pairs: Pairs) -> Path:
    rows = [f"{example.id}\t{_glue_value(task_name, prediction.value)}\n" for example, prediction in pairs]
    return _write(path, "index\tprediction\n" + "".join(rows))


def _glue_value(task_name: str, value: Any) -> str:
    if task_name == "sts-b":
        return f"{min(max(value, 0.0), 5.0):.3f}"
    return value if task_name in IN_WORDS else str(TASKS[task_name].labels.index(value))


def _write_squad(directory: Path, pairs: Sequence[tuple[Question, Prediction]], with_odds: bool) -> Path:
    answers = {example.id: prediction.value for example, prediction in pairs}
    if with_odds:
        odds = {example.id: min(prediction.null_odds, SURE) for example, prediction in pairs}
        _write(directory / "null_odds.json", json.dumps(odds) + "\n")
    return _write(directory / "predictions.json", json.dumps(answers, ensure_ascii=False) + "\n")


def _labels(form: Callable[[Any], Any]) -> Callable[[Pairs], Iterator[dict[str, Any]]]:
    """A line for each example, whose label is the prediction in the server's form."""

    def lines(pairs: Pairs) -> Iterator[dict[str, Any]]:
        for example, prediction in pairs:
            yield {"idx": int(example.id), "label": form(prediction.value)}

    return lines


def _multirc_lines(pairs: Iterable[tuple[Text, Prediction]]) -> list[dict[str, Any]]:
    """A line for each passage, in which the answers lie under their questions."""
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for example, prediction in pairs:
        passage, question, answer = map(int, example.id.split("-"))
        answers = passages.setdefault(passage, {}).setdefault(question, [])
        answers.append({"idx": answer, "label": int(prediction.value == "true")})
    return [
        {"idx": passage, "passage": {"questions": [{"idx": idx, "answers": each} for idx, each in questions.items()]}}
        for passage, questions in passages.items()
    ]


def _record_lines(pairs: Iterable[tuple[Text, Prediction]]) -> list[dict[str, Any]]:
    """A line for each query: the name that is most probably right, the first of equals as in its score."""
    best: dict[str, tuple[float, str]] = {}
    for example, prediction in pairs:
        _, true = prediction.probabilities
        if example.group not in best or true > best[example.group][0]:
            best[example.group] = (true, example.candidate)
    return [{"idx": int(query), "label": name} for query, (_, name) in best.items()]


_SUPERGLUE_LINES: dict[str, Callable[[Any], Iterable[dict[str, Any]]]] = {
    "boolq": _labels(str),
    "cb": _labels(str),
    "copa": _labels(int),
    "multirc": _multirc_lines,
    "record": _record_lines,
    "superglue-rte": _labels(str),
    "wic": _labels(str),
    "wsc": _labels(str.capitalize),  # of all boolean tasks this one only
    "ax-b": _labels(str),
    "ax-g": _labels(str),
}
