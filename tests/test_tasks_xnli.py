"""Reading XNLI from its own files and from the rows of TensorFlow Datasets."""

import json
import os
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Prediction, Text
from deberta_jax.tasks.xnli import TASKS, read_xnli

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "layouts" / "xnli"
ODD = 'un "balanced\u2028 and\x85 more'
PAIRS = [  # language, number, premise, hypothesis, label; the same numbers in both languages
    ("ar", "1", "وقال، ماما", ODD, "neutral"),
    ("ar", "2", "وقال، ماما", "b", "contradiction"),
    ("en", "1", "Mama, he said", "d", "neutral"),
    ("en", "2", ODD, "e", "contradiction"),
]
TEXTS = [Text(f"{pair[0]}-{pair[1]}", (pair[2], pair[3]), pair[4], group=pair[0]) for pair in PAIRS]
COLUMNS = ("language", "pairID", "sentence1", "sentence2", "gold_label")


def table(path: Path, header: str, *rows: str, end: str = "\n") -> Path:
    path.write_bytes(end.join([header, *rows, ""]).encode())
    return path


@pytest.mark.parametrize(("end", "bom"), [("\n", ""), ("\r\n", "\ufeff")])
@pytest.mark.parametrize("labelled", [True, False])
def test_all_languages_of_a_table(tmp_path, labelled: bool, end: str, bom: str):
    order = ("language", "gold_label", "sentence1_parse", "sentence1", "sentence2", "pairID")[:: 1 if labelled else -1]
    kept = [name for name in order if labelled or name != "gold_label"]
    rows = [{**dict(zip(COLUMNS, pair, strict=True)), "sentence1_parse": ""} for pair in PAIRS]
    path = table(
        tmp_path / "xnli.dev.tsv",
        bom + "\t".join(kept),
        *("\t".join(row[name] for name in kept) for row in rows),
        end=end,
    )
    assert read_xnli(path) == (TEXTS if labelled else [text._replace(label=None) for text in TEXTS])


@pytest.mark.parametrize("labelled", [True, False])
def test_all_languages_of_json_lines(tmp_path, labelled: bool):
    names = COLUMNS if labelled else COLUMNS[:-1]
    rows = [dict(zip(names, pair, strict=False)) | {"annotator_labels": ["neutral"]} for pair in PAIRS]
    path = tmp_path / "xnli.test.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_xnli(path) == (TEXTS if labelled else [text._replace(label=None) for text in TEXTS])


def test_translated_training_pairs_have_labels_of_their_own(tmp_path):
    path = table(
        tmp_path / "multinli.train.en.tsv",
        "premise\thypo\tlabel",
        f'"a\t{ODD}\tcontradictory',
        "c\td\tneutral",
        "e\tf\tentailment",
        "g\th\tcontradiction",
    )
    assert read_xnli(path) == [
        Text("0", ('"a', ODD), "contradiction"),
        Text("1", ("c", "d"), "neutral"),
        Text("2", ("e", "f"), "entailment"),
        Text("3", ("g", "h"), "contradiction"),
    ]
    assert read_xnli(table(path, "premise\thypo", "a\tb")) == [Text("0", ("a", "b"), None)]


def test_files_of_mnli_serve_for_training(tmp_path):
    header = "index\tpromptID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label"
    path = table(
        tmp_path / "train.tsv", header, "3\t1\tfiction\ta\tb\tneutral\tneutral", "4\t1\tfiction\ta\tc\tneutral\t-"
    )
    assert read_xnli(path) == [Text("3", ("a", "b"), "neutral", group="fiction")]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        (
            "dev.tsv",
            [
                "language\tgold_label\tsentence1\tsentence2\tpairID",
                "en\tneutral\ta\tb\t1",
                "en\tcontradictory\ta\tb\t2",
            ],
            "dev.tsv, line 3: label 'contradictory' is none of contradiction, neutral, entailment, did you mean "
            "'contradiction'?",
        ),
        (
            "dev.tsv",
            ["language\tgold_label\tsentence1\tsentence2\tpairid", "en\tneutral\ta\tb\t1"],
            "dev.tsv has no column 'pairID', did you mean 'pairid'?; it has language, gold_label, sentence1, "
            "sentence2, pairid",
        ),
        (
            "dev.jsonl",
            ['{"language": "en", "pairID": "1", "sentence1": "a", "sentence": "b"}'],
            "dev.jsonl, line 1 has no field 'sentence2', did you mean 'sentence'?; it has language, pairID, sentence1, "
            "sentence",
        ),
        (
            "dev.jsonl",
            ['{"language": "en", "pairID": 1, "sentence1": "a", "sentence2": "b"}'],
            "dev.jsonl, line 1: field 'pairID' is no str but int",
        ),
        (
            "train.tsv",
            ["premise\thypo\tlabel", "a\tb\tneutral", "c\td\tentails"],
            "train.tsv, line 3: label 'entails' is none of contradiction, neutral, entailment, contradictory, did you "
            "mean 'entailment'?",
        ),
        ("train.tsv", ["premise\thypo\tlabel", "a\tneutral"], "train.tsv, line 2 has 2 fields instead of 3"),
        (
            "train.tsv",
            ["premise\thypothesis\tlabel", "a\tb\tneutral"],
            "train.tsv has no column 'sentence1'; it has premise, hypothesis, label",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path, name: str, lines: list[str], message: str):
    with pytest.raises(Refused) as refusal:
        read_xnli(table(tmp_path / name, *lines))
    assert str(refusal.value) == f"{tmp_path}/{message}"


def test_a_row_of_tensorflow_datasets_is_a_pair_in_each_language():
    row = {
        "premise": {"ar": "pa", "en": "pe", "zh": "pz"},
        "hypothesis": {"language": ["zh", "ar", "en"], "translation": ["hz", "ha", "he"]},
        "label": "entailment",
    }
    example = TASKS["xnli"].prepared.example
    assert example(row, 4) == [
        Text("zh-4", ("pz", "hz"), "entailment", group="zh"),
        Text("ar-4", ("pa", "ha"), "entailment", group="ar"),
        Text("en-4", ("pe", "he"), "entailment", group="en"),
    ]
    assert {text.label for text in example(row | {"label": None}, 4)} == {None}
    with pytest.raises(Refused, match=r"^xnli, row 4: label 'entails' is none of .*, did you mean 'entailment'\?$"):
        example(row | {"label": "entails"}, 4)


def test_what_the_task_is():
    task = TASKS["xnli"]
    assert (task.kind, task.folder) == ("classification", "XNLI")
    assert task.labels == ("contradiction", "neutral", "entailment")
    assert dict(task.files) == {
        "train": "multinli.train.en.tsv",
        "validation": "xnli.dev.tsv",
        "test": "xnli.test.tsv",
    }
    assert task.validation == ("validation",)
    assert (task.prepared.name, dict(task.prepared.splits)) == ("xnli", {"validation": "validation", "test": "test"})
    predicted = [Prediction(label) for label in ("neutral", "neutral", "neutral", "contradiction")]
    scores = {"accuracy": 0.75, "accuracy/ar": 0.5, "accuracy/en": 1.0, "accuracy/mean": 0.75}
    assert task.score(TEXTS, predicted) == scores
    assert task.selection == ("accuracy",)


@pytest.mark.parametrize(("split", "ids"), [("dev", ["ar-1", "ar-2"]), ("test", ["ar-4", "ar-5"])])
def test_published_rows_are_the_same_in_both_layouts(split: str, ids: list[str]):
    if not DATA.exists():
        pytest.skip(f"needs the published rows in {DATA}; DEBERTA_JAX_DATA names the folder above layouts")
    examples = read_xnli(DATA / f"xnli.{split}.tsv")
    assert [example.id for example in examples] == ids
    assert {example.group for example in examples} == {"ar"}
    assert read_xnli(DATA / f"xnli.{split}.jsonl") == examples
