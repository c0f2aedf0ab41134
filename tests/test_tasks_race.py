"""Reading RACE from JSON lines and from the folders of its release."""

import json
import os
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Choice
from deberta_jax.tasks.race import TASKS, filled, read_race

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "race"
ARTICLE = {
    "id": "middle13.txt",
    "article": "It rained.\nAll   day.",
    "questions": ["It was  _  .", "Why?"],
    "options": [["wet", "dry", "hot", "cold"], ["Rain.", "Sun.", "Snow.", "Wind."]],
    "answers": ["B", "D"],
}


def write(path: Path, *articles: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(article) for article in articles), encoding="utf-8")
    return path


def test_an_article_gives_its_questions(tmp_path):
    text = "It rained. All day."
    wet = [(text, f"It was {word} .") for word in ("wet", "dry", "hot", "cold")]
    why = [(text, f"Why? {word}.") for word in ("Rain", "Sun", "Snow", "Wind")]
    expected = [Choice("middle13-0", tuple(wet), 1), Choice("middle13-1", tuple(why), 3)]
    assert read_race(write(tmp_path / "a.jsonl", ARTICLE)) == expected
    row = {**ARTICLE, "example_id": ARTICLE["id"]}
    del row["id"]
    assert TASKS["race-high"].prepared.example(row, 0) == expected


def test_without_answers_labels_are_hidden(tmp_path):
    hidden = {name: value for name, value in ARTICLE.items() if name != "answers"}
    assert [question.label for question in read_race(write(tmp_path / "a.jsonl", hidden))] == [None, None]


@pytest.mark.parametrize(
    ("question", "option", "text"),
    [
        ("A _ b", "x", "A x b"),
        ("A _ b _", "x", "A _ b _ x"),
        ("A _ and _.", "b c; d", "A b c and d."),
        ("A _ and _.", "b ,c", "A b and c."),
        ("A _ and _.", "b;", "A b and ."),
        ("A _ and _.", "b; c; d", "A _ and _. b; c; d"),
        ("A _ b", "x; y", "A x; y b"),
        ("A b?", " x ", "A b? x"),
        ("A\n_ b", "x\ty", "A x y b"),
        ("_", "x", "x"),
    ],
)
def test_an_option_fills_the_gap_or_follows(question: str, option: str, text: str):
    assert filled(question, option) == text


def test_a_folder_of_the_release_is_read_by_folder_and_number(tmp_path):
    for name in ("middle/10", "middle/2", "high/3"):
        folder, number = name.split("/")
        write(tmp_path / f"dev/{name}.txt", ARTICLE | {"id": f"{folder}{number}.txt"})
    (tmp_path / "dev" / "notes.md").write_text("not an article")
    ids = [example.id for example in read_race(tmp_path / TASKS["race"].files["validation"])]
    assert ids == ["high3-0", "high3-1", "middle2-0", "middle2-1", "middle10-0", "middle10-1"]
    halves = [read_race(tmp_path / TASKS[f"race-{half}"].files["validation"]) for half in ("high", "middle")]
    assert [example.id for half in halves for example in half] == ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["B"]}, "has 2 questions, 2 lists of options, 1 answers"),
        ({"options": [["a", "b", "c", "d"]]}, "has 2 questions, 1 lists of options, 2 answers"),
        ({"answers": ["B", "E"]}, "question 1: answer 'E' is none of A, B, C, D"),
        ({"options": [["a", "b", "c", "d"], ["a", "b", "c"]]}, "question 1 is no text with four options"),
        ({"options": ["abcd", ["a", "b", "c", "d"]]}, "question 0 is no text with four options"),
        ({"options": [["a", "b", "c", 4], ["a", "b", "c", "d"]]}, "question 0 is no text with four options"),
        ({"questions": ["Why?", 2]}, "question 1 is no text with four options"),
        ({"article": 3}, "'article'"),
        ({"questions": "Why?"}, "'questions'"),
    ],
)
def test_other_articles_are_refused_with_their_line(tmp_path, change: dict, message: str):
    path = write(tmp_path / "a.jsonl", ARTICLE, ARTICLE | change)
    with pytest.raises(Refused) as refusal:
        read_race(path)
    assert str(refusal.value).startswith(f"{path}, line 2")
    assert message in str(refusal.value)


@pytest.mark.parametrize("name", ["id", "article", "questions", "options"])
def test_a_missing_field_is_named(tmp_path, name: str):
    path = write(tmp_path / "a.jsonl", {other: value for other, value in ARTICLE.items() if other != name})
    with pytest.raises(Refused, match=f"line 1.*'{name}'"):
        read_race(path)


def test_a_folder_without_articles_is_refused(tmp_path):
    with pytest.raises(Refused, match="has no .txt file"):
        read_race(tmp_path)


def test_what_the_tasks_are():
    assert all(task.validation == ("validation",) for task in TASKS.values())
    assert all(task.kind == "multiple_choice" and task.labels == () for task in TASKS.values())
    assert TASKS["race"].files == {"train": "train", "validation": "dev", "test": "test"}
    assert TASKS["race"].prepared is None
    assert [TASKS[f"race-{half}"].prepared.name for half in ("middle", "high")] == ["race/middle", "race/high"]
    assert TASKS["race-high"].prepared.splits == {"train": "train", "validation": "dev", "test": "test"}


def test_published_articles_are_read_whole():
    path = DATA / "dev_middle.jsonl"
    if not path.exists():
        pytest.skip(f"needs the published data in {DATA}; DEBERTA_JAX_DATA names the folder above it")
    examples = read_race(path)
    assert len(examples) == len({example.id for example in examples}) == 1436
    assert len({example.id.rpartition("-")[0] for example in examples}) == 368
    articles = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    letters = [letter for article in articles for letter in article["answers"]]
    assert ["ABCD"[example.label] for example in examples] == letters
    assert not any("_" in text for example in examples for _, text in example.options)
