"""SuperGLUE's eight tasks and two diagnostic sets, from its JSON lines or TensorFlow Datasets.

Both give the same examples. Ids and groups are made of the data's own `idx`, which the submission files name.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused
from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Choice, Example, Prediction, Text
from deberta_jax.tasks.glue import known_label
from deberta_jax.tasks.tables import field, json_lines
from deberta_jax.tasks.task import Prepared, Task

BOOLEAN = ("false", "true")
THREE = ("contradiction", "neutral", "entailment")
TWO = ("entailment", "not_entailment")
BOOLEAN_AS = {"False": "false", "True": "true", "false": "false", "true": "true", "0": "false", "1": "true"}
FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
COPA_AS = {"0": 0, "1": 1, "choice1": 0, "choice2": 1}
HIGHLIGHT = "\n@highlight\n"  # between the sentences that sum up an article of ReCoRD
GAP = "@placeholder"

Row = Mapping[str, Any]
Score = Callable[[Sequence[Any], Sequence[Prediction]], dict[str, float]]
Reader = Callable[[Row, str], list[Example]]  # (row, where it is) -> its examples


def sentences(passage: str) -> str:
    """A passage of ReCoRD with its "@highlight" lines as ordinary ends of sentences."""
    parts = [part.strip() for part in passage.split(HIGHLIGHT)]
    ended = [part if part.endswith((".", "?", "!", '"', "'")) else part + "." for part in parts[:-1]]
    return " ".join([*ended, parts[-1]])


def marked(text: str, index: int, pronoun: str, where: str) -> str:
    """`text` with *asterisks* around `pronoun`, which is in its word number `index`, counted from 0.

    Words lie between white space, so that signs may stick to the pronoun ('him,"'). Where another word is there, the
    nearest one with the pronoun is taken: one of the published indices is one too low. Raises Refused where the text
    has no such word.
    """
    pattern = re.compile(rf"(?<!\w){re.escape(pronoun)}(?!\w)", re.IGNORECASE)
    found = {len(text[: match.end()].split()) - len(pronoun.split()): match for match in pattern.finditer(text)}
    if not (pronoun and found):
        raise Refused(f"{where}: the pronoun {pronoun!r} is not in the text")
    match = found[min(found, key=lambda number: abs(number - index))]
    return f"{text[: match.start()]}*{match.group()}*{text[match.end() :]}"


def _pair(first: str, second: str, labels: Mapping[str, str]) -> Reader:
    def examples(row: Row, where: str) -> list[Example]:
        segments = (field(row, first, str, where), field(row, second, str, where))
        return [Text(str(field(row, "idx", int, where)), segments, _label(row, labels, where))]

    return examples


def _copa(row: Row, where: str) -> list[Example]:
    """The cause comes first, as in the released code."""
    premise, question = field(row, "premise", str, where), field(row, "question", str, where)
    if question not in ("cause", "effect"):
        raise Refused(f"{where}: question {question!r} is neither cause nor effect")
    both = [field(row, name, str, where) for name in ("choice1", "choice2")]
    options = tuple((choice, premise) if question == "cause" else (premise, choice) for choice in both)
    return [Choice(str(field(row, "idx", int, where)), options, _label(row, COPA_AS, where))]


def _wic(row: Row, where: str) -> list[Example]:
    segments = tuple(field(row, name, str, where) for name in ("word", "sentence1", "sentence2"))
    for n in (1, 2):
        start, end = field(row, f"start{n}", int, where), field(row, f"end{n}", int, where)
        if not 0 <= start < end <= len(segments[n]):
            raise Refused(f"{where}: characters {start} to {end} are not inside sentence{n}")
    return [Text(str(field(row, "idx", int, where)), segments, _label(row, BOOLEAN_AS, where))]


def _wsc(row: Row, where: str) -> list[Example]:
    """The text with its pronoun marked, and the noun phrase that the pronoun may stand for.

    The phrase's own place is not used: many published phrases are not in the text as they are written.
    """
    target = field(row, "target", dict, where) if "target" in row else row
    pronoun, index = field(target, "span2_text", str, where), field(target, "span2_index", int, where)
    text = marked(field(row, "text", str, where), index, pronoun, where)
    segments = (text, field(target, "span1_text", str, where))
    return [Text(str(field(row, "idx", int, where)), segments, _label(row, BOOLEAN_AS, where))]


def _multirc(row: Row, where: str) -> list[Example]:
    """A text for each answer to each question about the passage; the answers to a question are a group."""
    passage = field(row, "passage", dict, where)
    return [
        _multirc_text(field(passage, "text", str, where), question, answer, field(row, "idx", int, where), where)
        for question in field(passage, "questions", list, where)
        for answer in field(question, "answers", list, where)
    ]


def _multirc_text(passage: str, question: Row, answer: Row, passage_idx: int, where: str) -> Text:
    asked = f"{field(question, 'question', str, where)} {field(answer, 'text', str, where)}"
    group = f"{passage_idx}-{field(question, 'idx', int, where)}"
    id = f"{group}-{field(answer, 'idx', int, where)}"
    return Text(id, (passage, asked), _label(answer, BOOLEAN_AS, where), group=group)


def _multirc_prepared(row: Row, where: str) -> list[Example]:
    idx = row["idx"]
    question = {"question": row["question"], "idx": idx["question"]}
    answer = {"text": row["answer"], "idx": idx["answer"], "label": row["label"]}
    return [_multirc_text(row["paragraph"], question, answer, idx["paragraph"], where)]


def _record(row: Row, where: str) -> list[Example]:
    """A text for each query about the passage and each different name in the passage; a query's texts are a group.

    The baseline of SuperGLUE judges each name on its own like this. The released code has a head for this task alone,
    which pools the places of a name in the passage.
    """
    passage = field(row, "passage", dict, where)
    text = field(passage, "text", str, where)
    names = {_mention(text, entity, where) for entity in field(passage, "entities", list, where)}
    examples = []
    for query in field(row, "qas", list, where):
        answers = field(query, "answers", list, where) if "answers" in query else []
        golds = [field(answer, "text", str, where) for answer in answers]
        idx = field(query, "idx", int, where)
        examples += _record_texts(text, field(query, "query", str, where), names, golds, idx, where)
    return examples


def _mention(text: str, entity: Row, where: str) -> str:
    start, end = field(entity, "start", int, where), field(entity, "end", int, where)
    if not 0 <= start <= end < len(text):
        raise Refused(f"{where}: entity at characters {start} to {end} is not inside the passage")
    return text[start : end + 1]  # ReCoRD counts the end as part of it


def _record_prepared(row: Row, where: str) -> list[Example]:
    return _record_texts(row["passage"], row["query"], row["entities"], row["answers"], row["idx"]["query"], where)


def _record_texts(
    passage: str, query: str, names: Collection[str], golds: Iterable[str], idx: int, where: str
) -> list[Example]:
    golds = tuple(sorted(set(golds)))
    if GAP not in query:
        raise Refused(f"{where}: query {idx} has no {GAP}")
    if not names:
        raise Refused(f"{where}: query {idx} has no entity to choose from")
    passage = sentences(passage)
    return [
        Text(
            id=f"{idx}-{number}",
            segments=(passage, query.replace(GAP, name)),
            label=BOOLEAN[name in golds] if golds else None,
            group=str(idx),
            candidate=name,
            golds=golds,
        )
        for number, name in enumerate(sorted(set(names)))
    ]


def _label(row: Row, labels: Mapping[str, Any], where: str) -> Any:
    """What `labels` has for the row's label; None where it is hidden."""
    if "label" not in row or row["label"] is None:
        return None
    return labels[known_label(str(row["label"]), tuple(labels), where)]


def _reading(examples: Reader) -> Callable[[Path], list[Example]]:
    """Raises Refused, naming file and line, for rows without the fields of the task and for unknown labels."""
    return lambda path: [example for where, row in json_lines(path) for example in examples(row, where)]


def _prepared(config: str, splits: Iterable[str], examples: Reader) -> Prepared:
    name = f"super_glue/{config}"
    return Prepared(
        name, {split: split for split in splits}, lambda row, number: examples(row, f"{name}, row {number}")
    )


def _task(
    folder: str,
    labels: tuple[str, ...],
    examples: Reader,
    prepared_examples: Reader,
    metrics: Score,
    chosen_by: str,
    kind: str = "classification",
) -> Task:
    return Task(
        kind=kind,
        labels=labels,
        folder=folder,
        files=FILES,
        read=_reading(examples),
        prepared=_prepared(folder.lower(), FILES, prepared_examples),
        validation=("validation",),
        score=metrics,
        selection=(chosen_by,),
    )


def _diagnostic(folder: str, examples: Reader, metrics: Score) -> Task:
    """Only a test, for a model of RTE."""
    return Task(
        kind="classification",
        labels=TWO,
        folder=folder,
        files={"test": f"{folder}.jsonl"},
        read=_reading(examples),
        prepared=_prepared(folder.lower().replace("-", ""), ("test",), examples),
        validation=(),
        score=metrics,
        selection=(),
    )


_boolq = _pair("passage", "question", BOOLEAN_AS)
_cb = _pair("premise", "hypothesis", {label: label for label in THREE})
_rte = _pair("premise", "hypothesis", {label: label for label in TWO})
_broad = _pair("sentence1", "sentence2", {label: label for label in TWO})

TASKS = {
    "boolq": _task("BoolQ", BOOLEAN, _boolq, _boolq, scoring.accuracy, "accuracy"),
    "cb": _task("CB", THREE, _cb, _cb, scoring.accuracy_and_macro_f1(THREE), "macro_f1"),
    "copa": _task("COPA", (), _copa, _copa, scoring.choices, "accuracy", kind="multiple_choice"),
    "multirc": _task("MultiRC", BOOLEAN, _multirc, _multirc_prepared, scoring.multirc, "f1a"),
    "record": _task("ReCoRD", BOOLEAN, _record, _record_prepared, scoring.record, "f1"),
    "superglue-rte": _task("RTE", TWO, _rte, _rte, scoring.accuracy, "accuracy"),
    "wic": _task("WiC", BOOLEAN, _wic, _wic, scoring.accuracy, "accuracy"),
    "wsc": _task("WSC", BOOLEAN, _wsc, _wsc, scoring.accuracy, "accuracy"),
    "ax-b": _diagnostic("AX-b", _broad, scoring.matthews),
    "ax-g": _diagnostic("AX-g", _rte, scoring.accuracy),
}
