"""From outputs of rows to predictions of examples of each kind, and to lines of JSON."""

import dataclasses
import json
import math

import numpy as np
import pytest

from deberta_jax.config import TaskEvalConfig
from deberta_jax.tasks.examples import Answer, Choice, Prediction, Question, Sentence, Text
from deberta_jax.tasks.loading import open_task
from deberta_jax.tasks.predictions import predictions_of, softmax, write_predictions
from deberta_jax.tasks.rows import ChoiceRow, TextRow
from deberta_jax.tasks.tagging import TagRow
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.windows import SpanRow
from task_builders import LABELS, task_data

SETTINGS = TaskEvalConfig(every=0, batch_size=8, patience=0, n_best=3, max_answer_length=2, null_threshold=0.0)
IDS = np.arange(5, dtype=np.int32)


def task(kind: str, *, answerless: bool = False) -> Task:
    return open_task(task_data(), kind, LABELS[kind], answerless)


def logs(*probabilities: float) -> np.ndarray:
    """Logits of these probabilities."""
    return np.log(np.float32(probabilities)) + np.float32(3)


def text_rows(count: int) -> list[TextRow]:
    return [TextRow(number, IDS, -1, math.nan) for number in range(count)]


def test_a_classification_is_the_likeliest_label_with_all_probabilities():
    examples = [Text(str(number), ("ka",), None) for number in range(3)]
    outputs = [logs(0.2, 0.3, 0.5), logs(0.7, 0.2, 0.1), logs(0.1, 0.8, 0.1)]
    found = predictions_of(task("classification"), examples, text_rows(3), outputs, SETTINGS)
    assert [each.value for each in found] == ["yes", "no", "maybe"]
    np.testing.assert_allclose([each.probabilities for each in found], np.exp(np.stack(outputs) - 3), rtol=1e-6)


def test_a_regression_is_the_number_itself():
    examples = [Text("0", ("ka",), None), Text("1", ("te",), None)]
    found = predictions_of(task("regression"), examples, text_rows(2), [np.float32(2.5), np.float32(-7)], SETTINGS)
    assert found == [Prediction(2.5), Prediction(-7.0)]
    assert all(type(each.value) is float for each in found)


def test_a_choice_is_the_number_of_the_likeliest_option():
    examples = [Choice(str(number), (("ka",), ("te",), ("mo",)), None) for number in range(2)]
    rows = [ChoiceRow(number, (IDS,) * 3, -1) for number in range(2)]
    outputs = [logs(0.1, 0.2, 0.7), np.float32([2, 1, -1e9])]  # the last option is not there
    first, second = predictions_of(task("multiple_choice"), examples, rows, outputs, SETTINGS)
    assert (first.value, second.value) == (2, 0) and type(first.value) is int
    assert first.probabilities == pytest.approx((0.1, 0.2, 0.7))
    assert second.probabilities == pytest.approx((1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 0))
    assert second.probabilities[2] == 0


def tag_logits(length: int, labels: dict[int, int]) -> np.ndarray:
    """[length, 3]; every token is most likely label 0 but those named."""
    logits = np.float32(np.tile([1.0, 0.5, 0.0], (length, 1)))
    for token, label in labels.items():
        logits[token, label] = 5
    return logits


def test_the_tags_of_a_sentence_are_those_of_its_words_in_all_its_rows():
    """The second sentence has two rows; what is predicted for inner tokens and padding is nobody's."""
    examples = [Sentence("0", ("ka",), None), Sentence("1", ("ka", "te", "mo"), None)]
    hidden = lambda *starts: (np.int32(starts), np.full(len(starts), -1, np.int32))  # noqa: E731
    rows = [
        TagRow(0, np.arange(3, dtype=np.int32), *hidden(1)),
        TagRow(1, np.arange(6, dtype=np.int32), *hidden(1, 4)),
        TagRow(1, np.arange(4, dtype=np.int32), *hidden(1)),
    ]
    outputs = [
        tag_logits(8, {1: 2, 2: 1}),
        tag_logits(8, {0: 2, 1: 1, 2: 2, 3: 2, 4: 2, 5: 1}),
        tag_logits(4, {1: 0, 2: 1, 3: 2}),
    ]
    found = predictions_of(task("tagging"), examples, rows, outputs, SETTINGS)
    assert [each.value for each in found] == [("O",), ("I-X", "O", "B-X")]
    most = math.exp(5) / (math.exp(5) + math.exp(1) + math.exp(0.5)), math.exp(5) / (math.exp(5) + math.exp(0.5) + 1)
    third = math.exp(5) / (math.exp(5) + math.e + 1)
    np.testing.assert_allclose(found[0].probabilities, [most[0]], rtol=1e-6)
    np.testing.assert_allclose(found[1].probabilities, [third, most[0], most[1]], rtol=1e-6)


CONTEXT = "ka te mo ri"


def span_row(example: int, first: int, words: int, owned: list[bool]) -> SpanRow:
    """[CLS] question [SEP], so many words of the context, [SEP]; a token is a word of two letters."""
    offsets = np.array([(3 * word, 3 * word + 2) for word in range(first, first + words)], np.int32)
    return SpanRow(example, np.arange(words + 4, dtype=np.int32), 3, offsets, np.array(owned), 0, 0, False)


def span_logits(length: int, null: float, places: dict[int, float]) -> np.ndarray:
    logits = np.full(length, -20, np.float32)
    logits[0] = null
    for place, value in places.items():
        logits[place] = value
    return logits


def answers(answerless: bool, null: float, settings: TaskEvalConfig = SETTINGS) -> list[Prediction]:
    """To a question of one window, and one of two whose better answer is in the second."""
    questions = [Question(str(number), "ri?", CONTEXT, (), None) for number in range(2)]
    rows = [
        span_row(0, 0, 4, [True] * 4),
        span_row(1, 0, 3, [True, True, False]),
        span_row(1, 1, 3, [False, True, True]),
    ]
    outputs = [
        (span_logits(8, null, {4: 4, 3: 1}), span_logits(9, null, {5: 3, 4: 1})),
        (span_logits(8, null, {3: 2}), span_logits(8, null, {3: 2, 4: 1})),
        (span_logits(8, null + 1, {5: 3}), span_logits(8, null + 1, {5: 3})),
    ]
    return predictions_of(task("span", answerless=answerless), questions, rows, outputs, settings)


def test_an_answer_is_the_best_span_of_all_windows():
    first, second = answers(answerless=False, null=1.0)
    assert (first.value, second.value) == ("te mo", "ri")
    assert [text for text, _ in first.best] == ["te mo", "te", "ka te"]
    odds = np.exp([7.0, 5.0, 2.0])
    np.testing.assert_allclose([probability for _, probability in first.best], odds / odds.sum(), rtol=1e-6)
    assert [text for text, _ in second.best] == ["ri", "ka", "ka te"]
    assert (first.null_odds, second.null_odds) == (2 - 7, 2 - 6)


@pytest.mark.parametrize(
    ("null", "with_answers"), [(1.0, ("te mo", "ri")), (3.0, ("te mo", "ri")), (3.25, ("te mo", "")), (4.0, ("", ""))]
)
def test_a_question_of_v2_has_no_answer_where_none_is_likelier(null, with_answers):
    """At equal scores, null odds of 0, it has one; of v1 it always has."""
    found = answers(answerless=True, null=null)
    assert tuple(each.value for each in found) == with_answers
    always = answers(answerless=False, null=null)
    assert [each.value for each in always] == ["te mo", "ri"]
    assert [(each.best, each.null_odds) for each in found] == [(each.best, each.null_odds) for each in always]


@pytest.mark.parametrize(
    ("threshold", "with_answers"), [(-10.0, ("", "")), (0.5, ("te mo", "ri")), (0.0, ("te mo", ""))]
)
def test_the_threshold_of_no_answer_is_the_configs(threshold, with_answers):
    """Null odds of the second question are 0.5, and equal odds have an answer."""
    settings = dataclasses.replace(SETTINGS, null_threshold=threshold)
    assert tuple(each.value for each in answers(answerless=True, null=3.25, settings=settings)) == with_answers


@pytest.mark.parametrize(("limit", "answer"), [(1, "te"), (2, "te mo")])
def test_answers_are_as_long_as_the_config_allows(limit, answer):
    settings = TaskEvalConfig(every=0, batch_size=8, patience=0, n_best=1, max_answer_length=limit, null_threshold=0.0)
    row = span_row(0, 0, 4, [True] * 4)
    ends = span_logits(8, 0, {5: 3, 4: 2}) if limit == 2 else span_logits(8, 0, {4: 3, 5: 2})
    question = Question("0", "ri?", CONTEXT, (), None)
    (found,) = predictions_of(task("span"), [question], [row], [(span_logits(8, 0, {4: 4}), ends)], settings)
    assert found.value == answer and len(found.best) == 1
    too_long = span_logits(8, 0, {6: 3})
    (found,) = predictions_of(task("span"), [question], [row], [(span_logits(8, 0, {4: 4}), too_long)], settings)
    assert found == Prediction("", null_odds=math.inf)


def test_rows_find_their_examples_in_any_order():
    examples = [Text(str(number), ("ka",), None) for number in range(3)]
    rows, outputs = text_rows(3)[::-1], [np.float32(number) for number in (2, 1, 0)]
    found = predictions_of(task("regression"), examples, rows, outputs, SETTINGS)
    assert [each.value for each in found] == [0, 1, 2]


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_softmax_is_the_share_of_each_exponential(shift):
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = np.float32(5 * rng.normal(size=rng.integers(1, 6)))
        total = math.fsum(math.exp(value) for value in logits.tolist())
        expected = [math.exp(value) / total for value in logits.tolist()]
        found = softmax(np.float64(logits) + shift)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert found.sum() == pytest.approx(1, rel=1e-12)


def test_softmax_of_float32_is_exact_to_float64():
    logits = np.float32([10.1, -3.3, 0.7])
    odds = [math.exp(float(value)) for value in logits]
    np.testing.assert_allclose(softmax(logits), np.array(odds) / sum(odds), rtol=1e-12)


WRITTEN = [
    (
        Text("ü1", ("ka",), "yes"),
        Prediction("no", (2 / 3, 1 / 3)),
        {"id": "ü1", "gold": "yes", "prediction": "no", "probabilities": [0.666667, 0.333333]},
    ),
    (Text("2", ("ka",), 2.5), Prediction(-0.125), {"id": "2", "gold": 2.5, "prediction": -0.125}),
    (
        Choice("3", (("ka",), ("te",)), None),
        Prediction(1, (0.25, 0.75)),
        {"id": "3", "gold": None, "prediction": 1, "probabilities": [0.25, 0.75]},
    ),
    (
        Sentence("4", ("ka", "te"), ("O", "B-X")),
        Prediction(("B-X", "O"), (0.5, 1.0)),
        {"id": "4", "gold": ["O", "B-X"], "prediction": ["B-X", "O"], "probabilities": [0.5, 1.0]},
    ),
    (Sentence("5", ("ka",), None), Prediction(("O",)), {"id": "5", "gold": None, "prediction": ["O"]}),
    (
        Question("6", "q", "te\u2028mo é", (Answer("te\u2028mo", 0), Answer("é", 6)), False),
        Prediction("é", best=(("é", 0.9), ("te\u2028mo", 0.1)), null_odds=-1 / 3),
        {
            "id": "6",
            "gold": ["te\u2028mo", "é"],
            "prediction": "é",
            "best": [["é", 0.9], ["te\u2028mo", 0.1]],
            "null_odds": -0.333333,
        },
    ),
    (
        Question("7", "q", "te", (), True),
        Prediction("", null_odds=math.inf),
        {"id": "7", "gold": [], "prediction": "", "best": [], "null_odds": None},
    ),
    (
        Question("8", "q", "te", (), None),
        Prediction("te", best=(("te", 1.0),), null_odds=0.5),
        {"id": "8", "gold": None, "prediction": "te", "best": [["te", 1.0]], "null_odds": 0.5},
    ),
]


def test_predictions_are_written_one_to_a_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [example for example, _, _ in WRITTEN], [prediction for _, prediction, _ in WRITTEN])
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") and "ü1" in text
    assert [json.loads(line) for line in text[:-1].split("\n")] == [line for _, _, line in WRITTEN]


def test_as_many_predictions_are_written_as_there_are_examples(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(tmp_path / "predictions.jsonl", [WRITTEN[0][0]], [])
