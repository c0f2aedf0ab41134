"""Reading GLUE from its own files and from the rows of TensorFlow Datasets."""

import os
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Prediction, Text
from deberta_jax.tasks.glue import TASKS

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "glue"
ODD = 'un "balanced\u2028 and\x85 more'
NLI_HEADER = "index\tpromptID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1"


def written(folder: Path, *lines: str, end: str = "\n", bom: str = "") -> Path:
    path = folder / "file.tsv"
    path.write_bytes((bom + end.join(lines) + end).encode())
    return path


LAYOUTS = [  # task, lines of a file, what they say
    ("cola", ["gj04\t1\t\t" + ODD, "c_13\t0\t*\tsentence"], [("0", (ODD,), "1"), ("1", ("sentence",), "0")]),
    ("cola", ["index\tsentence", "0\tone", "7\t" + ODD], [("0", ("one",), None), ("7", (ODD,), None)]),
    ("sst-2", ["sentence\tlabel", ODD + " \t0", "b\t1"], [("0", (ODD + " ",), "0"), ("1", ("b",), "1")]),
    ("sst-2", ["index\tsentence", "4\t" + ODD], [("4", (ODD,), None)]),
    ("mrpc", ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", f"1\t17\t18\t{ODD}\tb"], [("0", (ODD, "b"), "1")]),
    ("mrpc", ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", f"3\t17\t18\t{ODD}\tb"], [("3", (ODD, "b"), None)]),
    ("sts-b", ["index\tsource1\tsentence1\tsentence2\tscore", f"9\tx\t{ODD}\tb\t3.80"], [("9", (ODD, "b"), 3.8)]),
    ("sts-b", ["index\tsource1\tsentence1\tsentence2", f"9\tx\t{ODD}\tb"], [("9", (ODD, "b"), None)]),
    (
        "qqp",
        ["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", f"50\t1\t2\t{ODD}\tb\t0", "60\t3\t4\tc\td\t1"],
        [("0", (ODD, "b"), "0"), ("1", ("c", "d"), "1")],
    ),
    ("qqp", ["id\tquestion1\tquestion2", f"50\t{ODD}\tb"], [("50", (ODD, "b"), None)]),
    (
        "qnli",
        ["index\tquestion\tsentence\tlabel", f"2\tq\t{ODD}\tentailment", "3\tq\ts\tnot_entailment"],
        [("2", (ODD, "q"), "entailment"), ("3", ("s", "q"), "not_entailment")],
    ),
    ("qnli", ["index\tquestion\tsentence", f"2\tq\t{ODD}"], [("2", (ODD, "q"), None)]),
    (
        "rte",
        ["index\tsentence1\tsentence2\tlabel", f"2\t{ODD}\tb\tentailment", "3\tc\td\tnot_entailment"],
        [("2", (ODD, "b"), "entailment"), ("3", ("c", "d"), "not_entailment")],
    ),
    ("rte", ["index\tsentence1\tsentence2", f"2\t{ODD}\tb"], [("2", (ODD, "b"), None)]),
    (
        "wnli",
        ["index\tsentence1\tsentence2\tlabel", f"2\t{ODD}\tb\t0", "3\tc\td\t1"],
        [("2", (ODD, "b"), "0"), ("3", ("c", "d"), "1")],
    ),
    ("wnli", ["index\tsentence1\tsentence2", f"2\t{ODD}\tb"], [("2", (ODD, "b"), None)]),
    ("ax", ["index\tsentence1\tsentence2", f"2\t{ODD}\tb"], [("2", (ODD, "b"), None)]),
    (
        "ax",
        ["Lexical Semantics\tLogic\tPremise\tHypothesis\tLabel", f"\tx\t{ODD}\tb\tneutral", "\t\tc\td\tcontradiction"],
        [("0", (ODD, "b"), "neutral"), ("1", ("c", "d"), "contradiction")],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("end", "bom"), [("\n", ""), ("\r\n", "\ufeff")])
@pytest.mark.parametrize(("task", "lines", "expected"), LAYOUTS)
def test_every_layout_is_read_by_its_columns(tmp_path, task: str, lines: list[str], expected: list, end: str, bom: str):
    assert TASKS[task].read(written(tmp_path, *lines, end=end, bom=bom)) == [Text(*each) for each in expected]


@pytest.mark.parametrize(("task", "lines", "expected"), [each for each in LAYOUTS if not each[1][0].startswith("gj04")])
def test_the_order_of_columns_is_of_no_consequence(tmp_path, task: str, lines: list[str], expected: list):
    backwards = ["\t".join(reversed(line.split("\t"))) for line in lines]
    assert TASKS[task].read(written(tmp_path, *backwards)) == [Text(*each) for each in expected]


@pytest.mark.parametrize("more", ["", "\tlabel2\tlabel3\tlabel4\tlabel5"])
def test_mnli_has_genres_and_leaves_out_undecided_pairs(tmp_path, more: str):
    label1 = "contradiction" + "\tneutral" * more.count("\t")
    lines = [
        f"{NLI_HEADER}{more}\tgold_label",
        f"4\t1\tfiction\t(x\t{ODD}\tb\t{label1}\tentailment",
        f"5\t1\tfiction\t(x\ta\tb\t{label1}\t-",
        f"8\t1\ttravel\t(x\tc\td\t{label1}\tneutral",
    ]
    assert TASKS["mnli"].read(written(tmp_path, *lines)) == [
        Text("4", (ODD, "b"), "entailment", group="fiction"),
        Text("8", ("c", "d"), "neutral", group="travel"),
    ]
    with pytest.raises(Refused, match=r"file\.tsv has no row with a gold label other than '-'$"):
        TASKS["mnli"].read(written(tmp_path, lines[0], lines[2]))


def test_mnli_is_read_without_labels_and_without_genres(tmp_path):
    test = written(tmp_path, NLI_HEADER.removesuffix("\tlabel1"), "4\t1\tfiction\t(x\ta\tb")
    assert TASKS["mnli"].read(test) == [Text("4", ("a", "b"), None, group="fiction")]
    bare = written(tmp_path, "sentence1\tsentence2\tgold_label", "-\t-\t-", "a\tb\tneutral")
    assert TASKS["mnli"].read(bare) == [Text("1", ("a", "b"), "neutral")]


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("cola", ["gj04\t1\t\ta", "gj04\t2\t\tb"], "file.tsv, line 2: label '2' is none of 0, 1"),
        ("cola", ["gj04\t1\ta"], "file.tsv, line 1 has 3 fields instead of 4"),
        ("sst-2", ["sentence\tlabel", "a\tpositive"], "file.tsv, line 2: label 'positive' is none of 0, 1"),
        ("sst-2", ["sentence\tlabel", "a\t"], "file.tsv, line 2: label '' is none of 0, 1"),
        ("mrpc", ["Quality\t#1 String\t#2 Strnig", "1\ta\tb"],
         "file.tsv has no column '#2 String', did you mean '#2 Strnig'?; it has Quality, #1 String, #2 Strnig"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\t5", "a\tb\t5.001"],
         "file.tsv, line 3: score '5.001' is not between 0 and 5"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\t-1"], "file.tsv, line 2: score '-1' is not between 0 and 5"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\tnan"], "file.tsv, line 2: score 'nan' is not between 0 and 5"),
        ("sts-b", ["sentence1\tsentence2\tscore", "a\tb\thigh"], "file.tsv, line 2: score 'high' is no number"),
        ("qqp", ["id\tquestion1\tquestion2\tis_duplicate", "7\ta\tb\t1", "8\tcut", "here\td\t0"],
         "file.tsv, line 3 has 2 fields instead of 4"),
        ("qqp", ["id\tquestion1\tquestion2\tis_duplicate", "7\ta\tb\tc"],
         "file.tsv, line 2: label 'c' is none of 0, 1"),
        ("mnli", ["index\tsentence1\tsentence2\tgold_label", "7\ta\tb\tcontradictory"],
         "file.tsv, line 2: label 'contradictory' is none of contradiction, neutral, entailment, did you mean "
         "'contradiction'?"),
        ("qnli", ["index\tquestion\tsentence\tlabel", "7\ta\tb\tnot entailment"],
         "file.tsv, line 2: label 'not entailment' is none of entailment, not_entailment, did you mean "
         "'not_entailment'?"),
        ("rte", ["index\tsentence1\tsentence2\tlabel", "7\ta\tb\tneutral"],
         "file.tsv, line 2: label 'neutral' is none of entailment, not_entailment"),
        ("wnli", ["index\tsentence1\tsentence2\tlabel", "7\ta\tb\tentailment"],
         "file.tsv, line 2: label 'entailment' is none of 0, 1"),
        ("ax", ["index\tpremise\thypothesis", "7\ta\tb"],
         "file.tsv has no column 'sentence1'; it has index, premise, hypothesis"),
        ("ax", ["Premise\tHypothesis\tLabel", "a\tb\tNeutral"],
         "file.tsv, line 2: label 'Neutral' is none of contradiction, neutral, entailment, did you mean 'neutral'?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(tmp_path, task: str, lines: list[str], message: str):
    with pytest.raises(Refused) as refusal:
        TASKS[task].read(written(tmp_path, *lines))
    assert str(refusal.value) == f"{tmp_path}/{message}"


TWO = {label: label for label in ("entailment", "not_entailment")}
THREE = {label: label for label in ("entailment", "neutral", "contradiction")}
PREPARED = [  # task, set, texts of a row, segments, {class: label}
    ("cola", "cola", {"sentence": "a"}, ("a",), {"unacceptable": "0", "acceptable": "1"}),
    ("sst-2", "sst2", {"sentence": "a"}, ("a",), {"negative": "0", "positive": "1"}),
    ("mrpc", "mrpc", {"sentence1": "a", "sentence2": "b"}, ("a", "b"), {"not_equivalent": "0", "equivalent": "1"}),
    ("sts-b", "stsb", {"sentence1": "a", "sentence2": "b"}, ("a", "b"), {3.75: 3.75, 0.0: 0.0, 5.0: 5.0, -1.0: None}),
    ("qqp", "qqp", {"question1": "a", "question2": "b"}, ("a", "b"), {"not_duplicate": "0", "duplicate": "1"}),
    ("mnli", "mnli", {"premise": "a", "hypothesis": "b"}, ("a", "b"), THREE),
    ("qnli", "qnli", {"question": "a", "sentence": "b"}, ("b", "a"), TWO),
    ("rte", "rte", {"sentence1": "a", "sentence2": "b"}, ("a", "b"), TWO),
    ("wnli", "wnli", {"sentence1": "a", "sentence2": "b"}, ("a", "b"), {"not_entailment": "0", "entailment": "1"}),
    ("ax", "ax", {"premise": "a", "hypothesis": "b"}, ("a", "b"), THREE),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name", "texts", "segments", "labels"), PREPARED)
def test_rows_of_tensorflow_datasets_are_the_same_examples(
    task: str, name: str, texts: dict, segments: tuple, labels: dict
):
    prepared = TASKS[task].prepared
    assert prepared.name == f"glue/{name}"
    assert set(prepared.splits) == set(TASKS[task].files) - {"diagnostic"}
    assert all(ours == theirs for ours, theirs in prepared.splits.items())
    for theirs, ours in labels.items():
        assert prepared.example({**texts, "idx": 17, "label": theirs}, 3) == [Text("17", segments, ours)]
    if task != "sts-b":
        assert prepared.example({**texts, "idx": 17, "label": None}, 3) == [Text("17", segments, None)]
    assert {ours for ours in labels.values() if ours is not None} >= (set(TASKS[task].labels) - {"score"})


def test_other_classes_of_tensorflow_datasets_are_refused():
    row = {"premise": "a", "hypothesis": "b", "sentence1": "a", "sentence2": "b", "idx": 17, "label": "entailmint"}
    with pytest.raises(
        Refused, match=r"^glue/mnli, row 3: label 'entailmint' is none of .*, did you mean 'entailment'\?$"
    ):
        TASKS["mnli"].prepared.example(row, 3)
    with pytest.raises(Refused, match=r"^glue/stsb, row 3: score '5\.5' is not between 0 and 5$"):
        TASKS["sts-b"].prepared.example(row | {"label": 5.5}, 3)


def test_files_and_folders_are_those_of_the_release():
    assert [task.folder for task in TASKS.values()] == [
        "CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "AX",
    ]  # fmt: skip
    assert dict(TASKS["mnli"].files) == {
        "train": "train.tsv",
        "validation_matched": "dev_matched.tsv",
        "validation_mismatched": "dev_mismatched.tsv",
        "test_matched": "test_matched.tsv",
        "test_mismatched": "test_mismatched.tsv",
    }
    assert dict(TASKS["ax"].files) == {"test": "diagnostic.tsv", "diagnostic": "diagnostic-full.tsv"}
    for name in set(TASKS) - {"mnli", "ax"}:
        assert dict(TASKS[name].files) == {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
        assert TASKS[name].validation == ("validation",)
    assert TASKS["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert TASKS["ax"].validation == ("diagnostic",)
    assert [name for name, task in TASKS.items() if task.kind != "classification"] == ["sts-b"]
    assert TASKS["mnli"].labels == TASKS["ax"].labels == ("contradiction", "neutral", "entailment")
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")


WITH_ACCURACY = ("sst-2", "mnli", "qnli", "rte", "wnli")


@pytest.mark.parametrize(
    ("task", "gold", "predicted", "scores", "selection"),
    [
        ("cola", "1100", "1000", {"matthews": 3**-0.5, "accuracy": 0.75}, ("matthews",)),
        ("ax", "1100", "1000", {"matthews": 3**-0.5, "accuracy": 0.75}, ("matthews",)),
        ("mrpc", "1100", "1000", {"accuracy": 0.75, "f1": 2 / 3}, ("accuracy", "f1")),
        ("qqp", "1100", "1000", {"accuracy": 0.75, "f1": 2 / 3}, ("accuracy", "f1")),
        *[(name, "1100", "1000", {"accuracy": 0.75}, ("accuracy",)) for name in WITH_ACCURACY],
    ],
)  # fmt: skip
def test_scores_and_those_that_choose(task: str, gold: str, predicted: str, scores: dict, selection: tuple):
    examples = [Text(str(n), ("a",), label) for n, label in enumerate(gold)]
    assert TASKS[task].score(examples, [Prediction(label) for label in predicted]) == pytest.approx(scores)
    assert TASKS[task].selection == selection


def test_similarity_is_scored_by_correlation():
    examples = [Text(str(n), ("a", "b"), float(n)) for n in range(4)]
    scores = TASKS["sts-b"].score(examples, [Prediction(2.0 * n - 1) for n in range(4)])
    assert scores == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert TASKS["sts-b"].selection == ("pearson", "spearman")
    assert TASKS["sts-b"].labels == ("score",)


@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("cola", "train", 8551), ("cola", "dev", 1043), ("cola", "test", 1063),
        ("sst-2", "train", 67349), ("sst-2", "dev", 872), ("sst-2", "test", 1821),
        ("mrpc", "train", 3668), ("mrpc", "dev", 408), ("mrpc", "test", 1725),
        ("sts-b", "train", 5749), ("sts-b", "dev", 1500), ("sts-b", "test", 1379),
        ("rte", "train", 2490), ("rte", "dev", 277), ("rte", "test", 3000),
        ("wnli", "train", 635), ("wnli", "dev", 71), ("wnli", "test", 146),
        ("qnli", "train", 9999), ("qnli", "dev", 5463), ("qnli", "test", 5463),
        ("qqp", "train", 31868), ("qqp", "dev", 1000),
        ("mnli", "train", 9471), ("mnli", "dev_from_train", 1000),
        ("mnli", "dev_matched", 1000), ("mnli", "dev_mismatched", 1000),
        ("ax", "diagnostic", 1104), ("ax", "diagnostic-full", 1104),
    ],
)  # fmt: skip
def test_published_files_are_read_whole(task: str, file: str, count: int):
    path = DATA / TASKS[task].folder / f"{file}.tsv"
    if not path.exists():
        pytest.skip(f"needs the published {path}; DEBERTA_JAX_DATA names the folder above glue")
    examples = TASKS[task].read(path)
    assert len(examples) == len({example.id for example in examples}) == count
    assert all(text for example in examples for text in example.segments)
    labels = {example.label for example in examples}
    if file in ("test", "diagnostic"):
        assert labels == {None}
    elif task != "sts-b":
        assert labels == set(TASKS[task].labels)
    else:
        assert min(labels) == 0 and max(labels) == 5


def test_both_published_diagnostic_files_have_the_same_pairs_but_for_blanks():
    if not (DATA / "AX").exists():
        pytest.skip(f"needs the published files in {DATA}; DEBERTA_JAX_DATA names the folder above")
    hidden, labelled = (TASKS["ax"].read(DATA / "AX" / TASKS["ax"].files[split]) for split in ("test", "diagnostic"))
    for one, other in zip(hidden, labelled, strict=True):
        assert one.id == other.id
        assert [text.strip() for text in one.segments] == [text.strip() for text in other.segments]
