"""Submission files, read back."""

import json
import math
from pathlib import Path

import pytest

from deberta_jax.tasks.examples import Answer, Choice, Prediction, Question, Sentence, Text
from deberta_jax.tasks.registry import TASKS
from deberta_jax.tasks.submission import write_submission


def texts(*ids: str) -> list[Text]:
    return [Text(id, ("a", "b"), None) for id in ids]


def table(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n") and "\r" not in text
    return [line.split("\t") for line in text[:-1].split("\n")]


def json_lines(path: Path) -> list:
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text[:-1].split("\n")]


@pytest.mark.parametrize(
    ("task", "split", "file"),
    [
        ("cola", "test", "CoLA.tsv"),
        ("sst-2", "test", "SST-2.tsv"),
        ("mrpc", "test", "MRPC.tsv"),
        ("qqp", "test", "QQP.tsv"),
        ("wnli", "test", "WNLI.tsv"),
    ],
)
def test_glue_takes_the_numbers_of_labels(tmp_path, task: str, split: str, file: str):
    negative, positive = TASKS[task].labels
    predictions = [Prediction(positive), Prediction(negative), Prediction(positive)]
    path = write_submission(tmp_path / "new" / "folder", task, split, texts("0", "1", "2"), predictions)
    assert path == tmp_path / "new" / "folder" / file
    assert table(path) == [["index", "prediction"], ["0", "1"], ["1", "0"], ["2", "1"]]


@pytest.mark.parametrize(
    ("task", "split", "file"),
    [
        ("mnli", "test_matched", "MNLI-m.tsv"),
        ("mnli", "test_mismatched", "MNLI-mm.tsv"),
        ("qnli", "test", "QNLI.tsv"),
        ("rte", "test", "RTE.tsv"),
        ("ax", "test", "AX.tsv"),
    ],
)
def test_glue_takes_entailment_in_words(tmp_path, task: str, split: str, file: str):
    labels = TASKS[task].labels
    path = write_submission(tmp_path, task, split, texts("0", "1"), [Prediction(labels[1]), Prediction(labels[0])])
    assert path == tmp_path / file
    assert table(path) == [["index", "prediction"], ["0", labels[1]], ["1", labels[0]]]
    assert "entailment" in labels


def test_rows_come_by_their_numbers(tmp_path):
    """Sets of TensorFlow Datasets are shuffled."""
    predictions = [Prediction("entailment"), Prediction("not_entailment"), Prediction("not_entailment")]
    path = write_submission(tmp_path, "rte", "test", texts("10", "9", "0"), predictions)
    rows = [["0", "not_entailment"], ["9", "not_entailment"], ["10", "entailment"]]
    assert table(path) == [["index", "prediction"], *rows]
    path = write_submission(tmp_path, "wic", "test", texts("10", "9"), [Prediction("true"), Prediction("false")])
    assert [line["idx"] for line in json_lines(path)] == [9, 10]
    answers = texts("1-0-1", "0-11-0", "0-2-0", "1-0-0")
    path = write_submission(tmp_path, "multirc", "test", answers, [Prediction("true")] * 4)
    assert [
        (line["idx"], [(each["idx"], len(each["answers"])) for each in line["passage"]["questions"]])
        for line in json_lines(path)
    ] == [(0, [(2, 1), (11, 1)]), (1, [(0, 2)])]


def test_every_test_split_of_mnli_has_a_file_of_its_own(tmp_path):
    splits = [split for split in TASKS["mnli"].files if split.startswith("test")]
    files = [write_submission(tmp_path, "mnli", split, texts("0"), [Prediction("neutral")]).name for split in splits]
    assert sorted(files) == ["MNLI-m.tsv", "MNLI-mm.tsv"]


def test_similarities_lie_between_0_and_5(tmp_path):
    predictions = [Prediction(value) for value in (-0.2, 5.3, 2.34567, 4.0)]
    path = write_submission(tmp_path, "sts-b", "test", texts("0", "1", "2", "3"), predictions)
    assert path.name == "STS-B.tsv"
    assert table(path) == [["index", "prediction"], ["0", "0.000"], ["1", "5.000"], ["2", "2.346"], ["3", "4.000"]]


@pytest.mark.parametrize(
    ("task", "file", "values", "labels"),
    [
        ("boolq", "BoolQ.jsonl", ["true", "false"], ["true", "false"]),
        ("wic", "WiC.jsonl", ["true", "false"], ["true", "false"]),
        ("wsc", "WSC.jsonl", ["true", "false"], ["True", "False"]),
        ("cb", "CB.jsonl", ["neutral", "contradiction"], ["neutral", "contradiction"]),
        ("superglue-rte", "RTE.jsonl", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
        ("ax-b", "AX-b.jsonl", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
        ("ax-g", "AX-g.jsonl", ["entailment", "not_entailment"], ["entailment", "not_entailment"]),
    ],
)
def test_superglue_takes_lines_of_json(tmp_path, task: str, file: str, values: list, labels: list):
    path = write_submission(tmp_path, task, "test", texts("4", "9"), [Prediction(value) for value in values])
    assert path == tmp_path / file
    assert json_lines(path) == [{"idx": 4, "label": labels[0]}, {"idx": 9, "label": labels[1]}]


def test_copa_takes_numbers(tmp_path):
    examples = [Choice(id, (("a", "b"), ("c", "b")), None) for id in ("0", "1")]
    path = write_submission(tmp_path, "copa", "test", examples, [Prediction(1), Prediction(0)])
    assert path.name == "COPA.jsonl"
    lines = json_lines(path)
    assert lines == [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]
    assert all(type(line["label"]) is int for line in lines)


def test_multirc_takes_answers_under_questions_under_passages(tmp_path):
    examples = texts("5-11-30", "5-11-31", "5-12-32", "7-13-33")
    predictions = [Prediction(value) for value in ("true", "false", "true", "false")]
    path = write_submission(tmp_path, "multirc", "test", examples, predictions)
    assert path.name == "MultiRC.jsonl"
    eleven = {"idx": 11, "answers": [{"idx": 30, "label": 1}, {"idx": 31, "label": 0}]}
    twelve = {"idx": 12, "answers": [{"idx": 32, "label": 1}]}
    thirteen = {"idx": 13, "answers": [{"idx": 33, "label": 0}]}
    assert json_lines(path) == [
        {"idx": 5, "passage": {"questions": [eleven, twelve]}},
        {"idx": 7, "passage": {"questions": [thirteen]}},
    ]


def test_record_takes_the_most_probable_name_of_each_query(tmp_path):
    names = [("3", "Zoë", 0.2), ("3", "Ann", 0.9), ("3", "Bob", 0.9), ("8", "UN", 0.1), ("8", "EU", 0.05)]
    examples = [Text(f"{q}-{n}", ("p", "q"), None, q, name) for n, (q, name, _) in enumerate(names)]
    predictions = [Prediction("false", (1 - true, true)) for _, _, true in names]
    path = write_submission(tmp_path, "record", "test", examples, predictions)
    assert path.name == "ReCoRD.jsonl"
    assert json_lines(path) == [{"idx": 3, "label": "Ann"}, {"idx": 8, "label": "UN"}]
    path = write_submission(tmp_path, "record", "test", examples[:1], predictions[:1])
    assert "Zoë" in path.read_text(encoding="utf-8")


def test_record_answers_as_it_is_scored(tmp_path):
    """Chosen names that are all right score 1 from the same predictions."""
    names = [("Ann", 0.3), ("Bob", 0.3), ("UN", 0.1)]
    examples = [Text(f"3-{n}", ("p", "q"), "false", "3", name, ("Ann",)) for n, (name, _) in enumerate(names)]
    predictions = [Prediction("false", (1 - true, true)) for _, true in names]
    path = write_submission(tmp_path, "record", "validation", examples, predictions)
    assert json_lines(path)[0]["label"] == "Ann"
    assert TASKS["record"].score(examples, predictions) == {"f1": 1.0, "em": 1.0}


@pytest.mark.parametrize("task", ["squad", "squad-v2"])
def test_squad_takes_answers_by_id(tmp_path, task: str):
    examples = [Question(id, "Q?", "An é.", (Answer("é", 3),), False) for id in ("a1", "b2", "c3")]
    predictions = [Prediction("é", null_odds=-2.5), Prediction("", null_odds=3.0), Prediction("", null_odds=math.inf)]
    path = write_submission(tmp_path, task, "validation", examples, predictions)
    assert path == tmp_path / "predictions.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"a1": "é", "b2": "", "c3": ""}
    odds = tmp_path / "null_odds.json"
    assert odds.exists() == (task == "squad-v2")
    if task == "squad-v2":
        assert json.loads(odds.read_text(encoding="utf-8")) == {"a1": -2.5, "b2": 3.0, "c3": 1e9}


@pytest.mark.parametrize("task", ["swag", "race", "conll2003"])
def test_other_tasks_have_no_submission(tmp_path, task: str):
    example = Sentence("0", ("a",), None) if task == "conll2003" else Choice("0", (("a",), ("b",)), None)
    assert write_submission(tmp_path, task, "test", [example], [Prediction(("O",))]) is None
    assert list(tmp_path.iterdir()) == []


def test_predictions_must_be_as_many_as_examples(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_submission(tmp_path, "boolq", "test", texts("0", "1"), [Prediction("true")])
    assert list(tmp_path.iterdir()) == []


def test_every_task_of_glue_and_superglue_has_a_submission(tmp_path):
    for name, task in TASKS.items():
        if task.folder in ("SQuAD", "RACE", "SWAG", "conll2003") or name.startswith("xnli"):
            continue
        value = {"regression": 1.0, "multiple_choice": 0}.get(task.kind) or (task.labels or (0,))[0]
        value = 1.0 if task.kind == "regression" else value
        example = Text("1-2-3" if name == "multirc" else "1", ("a",), None, group="1", candidate="x")
        assert write_submission(tmp_path, name, "test", [example], [Prediction(value, (0.5, 0.5))]) is not None
