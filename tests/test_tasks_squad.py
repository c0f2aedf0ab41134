"""Reading SQuAD's JSON, whose answers' places cannot all be trusted."""

import json
import os
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Answer, Question
from deberta_jax.tasks.squad import TASKS, locate

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "squad"
CONTEXT = "Ann met Bob. 🙂 Bob met Ann."


def question(id: str, *answers: tuple[str, int], **others) -> dict:
    return {
        "id": id,
        "question": f"Question {id}?",
        "answers": [{"text": text, "answer_start": start} for text, start in answers],
    } | others


def document(*questions: dict) -> dict:
    return {"version": "1.1", "data": [{"title": "T", "paragraphs": [{"context": CONTEXT, "qas": list(questions)}]}]}


def read(tmp_path: Path, task: str, content) -> list:
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return TASKS[task].read(path)


def test_questions_keep_every_answer(tmp_path):
    first = question("a", ("Bob", 8), ("Bob", 8), ("Ann", 23))
    assert read(tmp_path, "squad", document(first, question("b", ("met", 4)))) == [
        Question("a", "Question a?", CONTEXT, (Answer("Bob", 8), Answer("Bob", 8), Answer("Ann", 23)), False),
        Question("b", "Question b?", CONTEXT, (Answer("met", 4),), False),
    ]


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("Bob", 8, 8),
        ("Bob", 15, 15),
        ("Bob", 9, 8),
        ("Bob", 13, 15),
        ("Bob", 999, 15),
        ("Bob", -5, 8),
        ("bob", 8, -1),
        ("", 3, -1),
        ("🙂", 13, 13),
    ],
)
def test_an_answer_lies_at_its_start_or_nearest_to_it(text: str, start: int, found: int):
    assert locate(CONTEXT, text, start) == found


def test_the_earlier_of_two_equally_near_answers_is_taken_also_where_they_overlap():
    assert locate("ab ab", "ab", 1) == 0
    assert locate("a ab b ab", "ab", 4) == 2
    assert locate("aaaa", "aa", 1) == 1


def test_an_answer_that_is_not_there_stays_for_scoring(tmp_path):
    (example,) = read(tmp_path, "squad", document(question("a", ("Carol", 0), ("Bob", 2))))
    assert example.answers == (Answer("Carol", -1), Answer("Bob", 8))
    assert example.impossible is False


def test_the_second_version_has_questions_without_an_answer(tmp_path):
    no_answer = question("b", is_impossible=True, plausible_answers=[{"text": "Bob", "answer_start": 8}])
    examples = read(tmp_path, "squad-v2", document(question("a", ("Bob", 8), is_impossible=False), no_answer))
    assert [(example.answers, example.impossible) for example in examples] == [((Answer("Bob", 8),), False), ((), True)]


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize("row", [{"id": "a", "question": "Q?"}, {"id": "a", "question": "Q?", "answers": []}])
def test_hidden_answers(tmp_path, task: str, row: dict):
    assert read(tmp_path, task, document(row)) == [Question("a", "Q?", CONTEXT, (), None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', " is not JSON: "),
        ([1], ": 'data' is looked for in what is no object but list"),
        ({"version": "1.1"}, " has no field 'data'"),
        ({"data": {"title": "T"}}, ": field 'data' is no list but dict"),
        ({"data": [{"title": "T"}]}, ", article 1 has no field 'paragraphs'"),
        (
            {"data": [{"paragraphs": []}, {"paragraphs": [{"qas": []}]}]},
            ", article 2, paragraph 1 has no field 'context'",
        ),
        ({"data": [{"paragraphs": [{"context": "C"}]}]}, ", article 1, paragraph 1 has no field 'qas'"),
        (document(question("a", ("Bob", 8)), {"id": "b"}), "paragraph 1, question 2 has no field 'question'"),
        (document({"question": "Q?"}), "question 1 has no field 'id'"),
        (document({"id": 3, "question": "Q?"}), "question 1: field 'id' is no str but int"),
        (document(question("a") | {"answers": [{"text": "Bob"}]}), "question 1 has no field 'answer_start'"),
        (document(question("a") | {"answers": [{"answer_start": 1}]}), "question 1 has no field 'text'"),
        (document(question("a", ("Bob", True))), "'answer_start' is no int but bool"),
        (document(question("a") | {"answers": {"text": ["Bob"]}}), "'answers' is no list but dict"),
        (
            document(question("a") | {"answers": ["Bob"]}),
            "question 1: 'text' is looked for in what is no object but str",
        ),
        (document(question("a", is_impossible="no")), "'is_impossible' is no bool but str"),
        (document(question("a"), question("a")), "question 2: id 'a' belongs to an earlier question"),
        (document(question("a", ("Bob", 8), is_impossible=True)), "question 1 is impossible and has answers"),
        ({"data": []}, " has no question"),
    ],
)
def test_other_files_are_refused_with_the_place(tmp_path, content, message: str):
    with pytest.raises(Refused) as refusal:
        read(tmp_path, "squad-v2", content)
    assert str(refusal.value).startswith(str(tmp_path / "file.json"))
    assert message in str(refusal.value)


def test_a_question_without_an_answer_is_no_question_of_the_first_version(tmp_path):
    with pytest.raises(Refused, match="question 1 has no answer.*squad-v2"):
        read(tmp_path, "squad", document(question("a", is_impossible=True)))


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(Refused, match="there is no file .*none.json"):
        TASKS["squad"].read(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('{"data": ["é"]}'.encode("latin-1"))
    with pytest.raises(Refused, match="latin.json, line 1 is not UTF-8"):
        TASKS["squad"].read(tmp_path / "latin.json")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    assert len(read(tmp_path, "squad", "\ufeff" + json.dumps(document(question("a", ("Bob", 8)))))) == 1


def test_tensorflow_datasets_gives_the_same_examples(tmp_path):
    answered, no_answer = question("a", ("Bob", 9), ("Ann", 0), is_impossible=False), question("b", is_impossible=True)
    rows = [
        {"id": "a", "question": "Question a?", "context": CONTEXT, "is_impossible": False}
        | {"answers": {"text": ["Bob", "Ann"], "answer_start": [9, 0]}},
        {"id": "b", "question": "Question b?", "context": CONTEXT, "is_impossible": True}
        | {"answers": {"text": [], "answer_start": []}},
    ]
    prepared = TASKS["squad-v2"].prepared
    from_rows = [example for number, row in enumerate(rows) for example in prepared.example(row, number)]
    assert from_rows == read(tmp_path, "squad-v2", document(answered, no_answer))
    del rows[0]["is_impossible"], answered["is_impossible"]
    assert TASKS["squad"].prepared.example(rows[0], 0) == read(tmp_path, "squad", document(answered))


def test_what_the_tasks_are():
    first, second = TASKS["squad"], TASKS["squad-v2"]
    assert first.kind == second.kind == "span" and first.labels == ()
    assert first.files == {"train": "train-v1.1.json", "validation": "dev-v1.1.json"}
    assert second.files == {"train": "train-v2.0.json", "validation": "dev-v2.0.json"}
    assert (first.prepared.name, second.prepared.name) == ("squad/v1.1", "squad/v2.0")
    assert first.score is not second.score


@pytest.mark.parametrize(
    ("task", "file", "questions", "impossible"),
    [
        ("squad", "train-v1.1", 7539, 0),
        ("squad", "dev-v1.1", 3031, 0),
        ("squad-v2", "train-v2.0", 8506, 4330),
        ("squad-v2", "dev-v2.0", 3367, 1615),
    ],
)
def test_published_files_are_read_whole(task: str, file: str, questions: int, impossible: int):
    path = DATA / f"{file}.json"
    if not path.exists():
        pytest.skip(f"needs the published data in {DATA}; DEBERTA_JAX_DATA names the folder above it")
    examples = TASKS[task].read(path)
    assert len(examples) == questions
    assert sum(example.impossible for example in examples) == impossible
    places = [(example.context, answer) for example in examples for answer in example.answers]
    assert all(context[a.start : a.start + len(a.text)] == a.text for context, a in places if a.start >= 0)
    assert sum(answer.start >= 0 for _, answer in places) == len(places) > questions - impossible
