"""Reading SuperGLUE from its JSON lines and from the rows of TensorFlow Datasets."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Choice, Text
from deberta_jax.tasks.superglue import TASKS, marked, sentences

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))

BOOLQ = {"question": "is it hot", "passage": "Fire -- Fire is hot.", "idx": 7, "label": True}
CB = {"premise": "He said it rained.", "hypothesis": "it rained", "label": "neutral", "idx": 3}
COPA = {"premise": "P.", "choice1": "C1.", "choice2": "C2.", "question": "cause", "label": 1, "idx": 4}
RTE = {"premise": "A b.", "hypothesis": "b.", "label": "not_entailment", "idx": 5}
AX_B = {"sentence1": "A b.", "sentence2": "b.", "label": "entailment", "logic": "Negation", "idx": 9}
WIC = {"word": "run", "sentence1": "A run.", "sentence2": "Runs dry.", "idx": 6, "label": False}
WIC |= {"start1": 2, "start2": 0, "end1": 5, "end2": 4, "version": 1.1}
WSC = {"text": "Ann met Eve, and she left.", "idx": 8, "label": True}
WSC |= {"target": {"span1_index": 0, "span1_text": "Ann", "span2_index": 4, "span2_text": "she"}}
MULTIRC = {
    "idx": 2,
    "version": 1.1,
    "passage": {
        "text": "Sent one. Sent two.",
        "questions": [
            {
                "question": "Who?",
                "idx": 11,
                "answers": [{"text": "He", "idx": 30, "label": 1}, {"text": "She", "idx": 31, "label": 0}],
            },
            {"question": "Why?", "idx": 12, "answers": [{"text": "So", "idx": 32, "label": 1}]},
        ],
    },
}
ARTICLE = "Ann Lee met Bob\n@highlight\nBob and Ann Lee spoke.\n@highlight\nUN silent"
RECORD = {
    "source": "CNN",
    "idx": 1,
    "passage": {
        "text": ARTICLE,
        "entities": [{"start": s, "end": s + n - 1} for s, n in ((0, 7), (12, 3), (27, 3), (35, 7), (61, 2))],
    },
    "qas": [
        {
            "query": "Later @placeholder paid @placeholder's bill.",
            "idx": 20,
            "answers": [{"start": 12, "end": 14, "text": "Bob"}, {"start": 27, "end": 29, "text": "Bob"}],
        },
        {"query": "@placeholder said no.", "idx": 21, "answers": [{"start": 61, "end": 62, "text": "UN"}]},
    ],
}
ROWS = {"boolq": BOOLQ, "cb": CB, "copa": COPA, "multirc": MULTIRC, "record": RECORD, "superglue-rte": RTE}
ROWS |= {"wic": WIC, "wsc": WSC, "ax-b": AX_B, "ax-g": RTE}

PREPARED = {  # the same as TensorFlow Datasets gives them, with the names of the labels
    "boolq": [BOOLQ | {"label": "True"}],
    "cb": [CB],
    "copa": [COPA | {"label": "choice2"}],
    "superglue-rte": [RTE],
    "ax-b": [AX_B],
    "ax-g": [RTE],
    "wic": [WIC | {"label": "False"}],
    "wsc": [{"text": WSC["text"], "idx": 8, "label": "True"} | WSC["target"]],
    "multirc": [
        {
            "paragraph": MULTIRC["passage"]["text"],
            "question": question["question"],
            "answer": answer["text"],
            "label": "True" if answer["label"] else "False",
            "idx": {"paragraph": 2, "question": question["idx"], "answer": answer["idx"]},
        }
        for question in MULTIRC["passage"]["questions"]
        for answer in question["answers"]
    ],
    "record": [
        {
            "passage": ARTICLE,
            "query": query["query"],
            "entities": ["Ann Lee", "Bob", "UN"],
            "answers": sorted({answer["text"] for answer in query["answers"]}),
            "idx": {"passage": 1, "query": query["idx"]},
        }
        for query in RECORD["qas"]
    ],
}


def written(tmp_path: Path, *rows) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(tmp_path: Path, task: str, *rows) -> list:
    return TASKS[task].read(written(tmp_path, *rows))


def without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("task", "example"),
    [
        ("boolq", Text("7", ("Fire -- Fire is hot.", "is it hot"), "true")),
        ("cb", Text("3", ("He said it rained.", "it rained"), "neutral")),
        ("copa", Choice("4", (("C1.", "P."), ("C2.", "P.")), 1)),
        ("superglue-rte", Text("5", ("A b.", "b."), "not_entailment")),
        ("ax-b", Text("9", ("A b.", "b."), "entailment")),
        ("ax-g", Text("5", ("A b.", "b."), "not_entailment")),
        ("wic", Text("6", ("run", "A run.", "Runs dry."), "false")),
        ("wsc", Text("8", ("Ann met Eve, and *she* left.", "Ann"), "true")),
    ],
)
def test_a_row_gives_its_example(tmp_path, task: str, example):
    assert read(tmp_path, task, ROWS[task]) == [example]
    assert read(tmp_path, task, without(ROWS[task], "label")) == [example._replace(label=None)]


def test_an_effect_follows_the_premise(tmp_path):
    assert read(tmp_path, "copa", COPA | {"question": "effect"})[0].options == (("P.", "C1."), ("P.", "C2."))


def test_multirc_has_a_text_for_each_answer(tmp_path):
    passage = "Sent one. Sent two."
    assert read(tmp_path, "multirc", MULTIRC) == [
        Text("2-11-30", (passage, "Who? He"), "true", group="2-11"),
        Text("2-11-31", (passage, "Who? She"), "false", group="2-11"),
        Text("2-12-32", (passage, "Why? So"), "true", group="2-12"),
    ]


def test_record_has_a_text_for_each_query_and_name(tmp_path):
    passage = "Ann Lee met Bob. Bob and Ann Lee spoke. UN silent"
    examples = read(tmp_path, "record", RECORD)
    assert examples[:3] == [
        Text("20-0", (passage, "Later Ann Lee paid Ann Lee's bill."), "false", "20", "Ann Lee", ("Bob",)),
        Text("20-1", (passage, "Later Bob paid Bob's bill."), "true", "20", "Bob", ("Bob",)),
        Text("20-2", (passage, "Later UN paid UN's bill."), "false", "20", "UN", ("Bob",)),
    ]
    assert [(example.id, example.label) for example in examples[3:]] == [
        ("21-0", "false"),
        ("21-1", "false"),
        ("21-2", "true"),
    ]


@pytest.mark.parametrize("hidden", [lambda query: without(query, "answers"), lambda query: query | {"answers": []}])
def test_record_without_answers_has_hidden_labels(tmp_path, hidden):
    row = RECORD | {"qas": [hidden(query) for query in RECORD["qas"]]}
    examples = read(tmp_path, "record", row)
    assert [(example.label, example.golds) for example in examples] == [(None, ())] * 6
    assert [example.candidate for example in examples] == ["Ann Lee", "Bob", "UN"] * 2


def test_hidden_answers_of_multirc(tmp_path):
    questions = [
        question | {"answers": [without(answer, "label") for answer in question["answers"]]}
        for question in MULTIRC["passage"]["questions"]
    ]
    row = MULTIRC | {"passage": MULTIRC["passage"] | {"questions": questions}}
    assert [example.label for example in read(tmp_path, "multirc", row)] == [None] * 3


@pytest.mark.parametrize("task", list(TASKS))
def test_tensorflow_datasets_gives_the_same_examples(tmp_path, task: str):
    rows = PREPARED[task]
    examples = [example for number, row in enumerate(rows) for example in TASKS[task].prepared.example(row, number)]
    assert examples == read(tmp_path, task, ROWS[task])


@pytest.mark.parametrize("task", [task for task in TASKS if task != "record"])
def test_tensorflow_datasets_gives_no_label_where_it_is_hidden(task: str):
    (example,) = TASKS[task].prepared.example(PREPARED[task][0] | {"label": None}, 0)
    assert example.label is None


def test_names_and_splits_in_tensorflow_datasets():
    names = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "axb", "axg"]
    assert [task.prepared.name for task in TASKS.values()] == [f"super_glue/{name}" for name in names]
    for task in TASKS.values():
        assert set(task.prepared.splits) == set(task.files)
        assert all(ours == theirs for ours, theirs in task.prepared.splits.items())


@pytest.mark.parametrize(
    ("value", "label"), [(True, "true"), (False, "false"), ("true", "true"), ("False", "false"), ("True", "true")]
)
def test_truth_may_be_a_word(tmp_path, value, label: str):
    for task in ("boolq", "wic", "wsc"):
        assert read(tmp_path, task, ROWS[task] | {"label": value})[0].label == label


@pytest.mark.parametrize(
    ("passage", "plain"),
    [
        ("One.\n@highlight\nTwo", "One. Two"),
        ("One\n@highlight\nTwo!\n@highlight\nThree", "One. Two! Three"),
        ('He said "no"\n@highlight\nWhy? \n@highlight\nSo', 'He said "no" Why? So'),
        ("No summary", "No summary"),
        ("He wrote @highlight here", "He wrote @highlight here"),
    ],
)
def test_highlights_become_ends_of_sentences(passage: str, plain: str):
    assert sentences(passage) == plain


@pytest.mark.parametrize(
    ("text", "index", "pronoun", "result"),
    [
        ("it is what it is", 3, "it", "it is what *it* is"),
        ("it is what it is", 0, "it", "*it* is what it is"),
        ('for him," he said', 1, "him", 'for *him*," he said'),
        ("use  it , but", 0, "it", "use  *it* , but"),  # one too low
        ("It fit the kit. Use it", 4, "it", "It fit the kit. Use *it*"),
        ("HE left", 0, "he", "*HE* left"),
        ("Items: it", 0, "it", "Items: *it*"),
        ("(he left) he", 0, "he", "(*he* left) he"),
        ("take it. It's it", 2, "it", "take it. *It*'s it"),
        ("a (b) c.d (b)", 3, "(b)", "a (b) c.d *(b)*"),
    ],
)
def test_the_pronoun_is_marked(text: str, index: int, pronoun: str, result: str):
    assert marked(text, index, pronoun, "here") == result


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("boolq", without(BOOLQ, "passage"), "'passage'"),
        ("boolq", BOOLQ | {"question": 3}, "'question'"),
        ("boolq", without(BOOLQ, "idx"), "'idx'"),
        ("boolq", BOOLQ | {"label": "maybe"}, "label 'maybe' is none of "),
        ("cb", CB | {"label": "entailed"}, "label 'entailed' is none of contradiction, neutral, entailment"),
        ("superglue-rte", RTE | {"label": "neutral"}, "label 'neutral' is none of entailment, not_entailment"),
        ("copa", COPA | {"question": "why"}, "question 'why' is neither cause nor effect"),
        ("copa", COPA | {"label": 2}, "label '2' is none of 0, 1"),
        ("copa", without(COPA, "choice2"), "'choice2'"),
        ("wic", WIC | {"start1": -1}, "characters -1 to 5 are not inside sentence1"),
        ("wic", WIC | {"end2": 10}, "characters 0 to 10 are not inside sentence2"),
        ("wic", WIC | {"end1": 2}, "characters 2 to 2 are not inside sentence1"),
        ("wic", without(WIC, "end1"), "'end1'"),
        ("wsc", WSC | {"text": "There is nothing."}, "the pronoun 'she' is not in the text"),
        ("wsc", WSC | {"target": WSC["target"] | {"span2_text": ""}}, "the pronoun '' is not in the text"),
        ("wsc", WSC | {"target": {"span1_text": "Ann"}}, "'span2_text'"),
        ("multirc", without(MULTIRC, "passage"), "'passage'"),
        ("multirc", MULTIRC | {"passage": {"text": "T"}}, "'questions'"),
        ("multirc", MULTIRC | {"passage": {"text": "T", "questions": [{"idx": 1}]}}, "'answers'"),
        ("record", without(RECORD, "qas"), "'qas'"),
        ("record", RECORD | {"qas": [{"query": "No gap.", "idx": 4}]}, "query 4 has no @placeholder"),
        (
            "record",
            RECORD | {"passage": {"text": "Ann", "entities": [{"start": 0, "end": 3}]}},
            "entity at characters 0 to 3 is not inside the passage",
        ),
        (
            "record",
            RECORD | {"passage": {"text": "Ann", "entities": [{"start": 2, "end": 1}]}},
            "entity at characters 2 to 1 is not inside the passage",
        ),
        ("record", RECORD | {"passage": {"text": "Ann", "entities": []}}, "has no entity to choose from"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path, task: str, row: dict, message: str):
    path = written(tmp_path, ROWS[task], row)
    with pytest.raises(Refused) as refusal:
        TASKS[task].read(path)
    assert str(refusal.value).startswith(f"{path}, line 2")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_wrong_row_of_tensorflow_datasets_is_refused_with_its_number():
    with pytest.raises(Refused, match="super_glue/cb, row 41: label 'x'"):
        TASKS["cb"].prepared.example(CB | {"label": "x"}, 41)


def test_what_the_tasks_are():
    assert [task.folder for task in TASKS.values()] == [
        "BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "RTE", "WiC", "WSC", "AX-b", "AX-g",
    ]  # fmt: skip
    chosen_by = {name: task.selection for name, task in TASKS.items() if task.selection != ("accuracy",)}
    assert chosen_by == {"cb": ("macro_f1",), "multirc": ("f1a",), "record": ("f1",), "ax-b": (), "ax-g": ()}
    assert [task.kind for task in TASKS.values()].count("classification") == 9
    assert TASKS["copa"].kind == "multiple_choice" and TASKS["copa"].labels == ()
    assert TASKS["cb"].labels == ("contradiction", "neutral", "entailment")
    assert TASKS["wsc"].labels == TASKS["record"].labels == ("false", "true")
    assert TASKS["ax-b"].labels == TASKS["superglue-rte"].labels == ("entailment", "not_entailment")
    assert TASKS["ax-b"].files == {"test": "AX-b.jsonl"} and TASKS["ax-b"].validation == ()


@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("boolq", "BoolQ/val", 3270),
        ("boolq", "BoolQ/train_32shot", 32),
        ("cb", "CB/train", 250),
        ("cb", "CB/val", 56),
        ("cb", "CB/test", 250),
        ("copa", "COPA/train", 400),
        ("copa", "COPA/val", 100),
        ("copa", "COPA/test", 500),
        ("wic", "WiC/train", 5428),
        ("wic", "WiC/val", 638),
        ("wsc", "WSC/train", 554),
        ("wsc", "WSC/val", 104),
        ("wsc", "WSC/test", 146),
    ],
)
def test_published_files_are_read_whole(task: str, file: str, count: int):
    examples = TASKS[task].read(published(f"superglue/{file}.jsonl"))
    assert len(examples) == count
    labels = {example.label for example in examples}
    assert labels == ({None} if "test" in file else set(TASKS[task].labels or (0, 1)))
    if file != "WiC/train":  # the copy has one row twice
        assert len({example.id for example in examples}) == count


@pytest.mark.parametrize(("file", "passages"), [("val", 83), ("dev32", 32), ("train_32shot", 32)])
def test_published_multirc(file: str, passages: int):
    path = published(f"superglue/MultiRC/{file}.jsonl")
    examples = TASKS["multirc"].read(path)
    labels = [
        answer["label"]
        for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        for question in json.loads(line)["passage"]["questions"]
        for answer in question["answers"]
    ]
    assert [example.label for example in examples] == [("false", "true")[label] for label in labels]
    assert len({example.id for example in examples}) == len(labels)
    assert len({example.group.split("-")[0] for example in examples}) == passages


@pytest.mark.parametrize(("file", "queries"), [("dev32", 32), ("train_32shot", 32)])
def test_published_record_has_the_answer_among_the_names(file: str, queries: int):
    examples = TASKS["record"].read(published(f"superglue/ReCoRD/{file}.jsonl"))
    right = Counter(example.group for example in examples if example.label == "true")
    assert len(right) == len({example.group for example in examples}) == queries
    assert all(right[example.group] == len(example.golds) for example in examples)
    assert not any("@highlight" in text or "@placeholder" in text for each in examples for text in each.segments)


@pytest.mark.parametrize(("file", "queries"), [("train", 9), ("val", 2), ("test", 1)])
def test_published_rows_of_record(file: str, queries: int):
    examples = TASKS["record"].read(published(f"layouts/record/{file}.jsonl"))
    assert len({example.group for example in examples}) == queries
    assert {example.label for example in examples} == ({None} if file == "test" else {"false", "true"})


def test_published_pronouns_are_where_their_index_says():
    """But for one in 804, whose index is one too low."""
    elsewhere = 0
    for split in ("train", "val", "test"):
        path = published(f"superglue/WSC/{split}.jsonl")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
        for row, example in zip(rows, TASKS["wsc"].read(path), strict=True):
            text = example.segments[0]
            assert text.replace("*", "") == row["text"].replace("*", "")
            elsewhere += "*" not in text.split()[row["target"]["span2_index"]]
    assert elsewhere == 1


def published(file: str) -> Path:
    if not (DATA / file).exists():
        pytest.skip(f"needs the published data in {DATA}, which DEBERTA_JAX_DATA names")
    return DATA / file
