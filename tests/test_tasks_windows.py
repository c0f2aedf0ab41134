"""Windows of long contexts and the answers that their logits say, against code that tries every window and span."""

import collections
import json
import os
import re
import string
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Answer, Prediction, Question
from deberta_jax.tasks.windows import SpanRow, decode, gold_tokens, question_rows, windows
from deberta_jax.tokenizers import Tokenizer, load_tokenizer
from test_tasks_tagging import byte_level_bpe

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
SMALL = {"max_length": 30, "stride": 7, "max_query": 6}


@pytest.fixture(scope="module", params=["sentencepiece", "bpe"])
def tokenizer(request, spm_dir, documents, tmp_path_factory) -> Tokenizer:
    if request.param == "sentencepiece":
        return load_tokenizer(spm_dir)
    return byte_level_bpe(documents, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def questions(documents) -> list[Question]:
    """Contexts of no word to hundreds of characters, some answered in the middle of words, some not at all."""
    rng = np.random.default_rng(0)
    made = []
    for number, document in enumerate(documents[:100]):
        context = document[: rng.integers(0, 400)] + rng.choice(["", "  ", " \u65e5\u672c x."])
        start, length = rng.integers(0, max(len(context), 1)), rng.integers(1, 30)
        text = context[start : start + length]
        answers = (Answer(text, int(start)),) if text and number % 3 else ()
        made.append(Question(str(number), documents[-number - 1][: rng.integers(0, 40)], context, answers, not answers))
    return made


def rows_by_question(questions: list[Question], tokenizer: Tokenizer, **options: int) -> list[list[SpanRow]]:
    rows = question_rows(questions, tokenizer, **options)
    assert [row.example for row in rows] == sorted(row.example for row in rows)
    return [[row for row in rows if row.example == number] for number in range(len(questions))]


# Windows


def sizes(count: int) -> list[tuple[int, int, int]]:
    """(tokens, room, stride), random."""
    rng = np.random.default_rng(0)
    rooms = rng.integers(1, 25, count)
    return [(int(rng.integers(0, 90)), int(room), int(rng.integers(0, room))) for room in rooms]


def test_windows_go_on_until_one_reaches_the_end():
    for tokens, room, stride in sizes(500):
        expected, first = [], 0
        while True:
            expected.append((first, min(first + room, tokens)))
            if first + room >= tokens:
                break
            first += room - stride
        assert [(window.first, window.end) for window in windows(tokens, room, stride)] == expected


def test_windows_cover_all_tokens_and_share_the_stride():
    for tokens, room, stride in sizes(500):
        cut = windows(tokens, room, stride)
        assert set().union(*(range(window.first, window.end) for window in cut)) == set(range(tokens))
        for window, following in zip(cut, cut[1:], strict=False):
            assert window.end - following.first == stride
            assert following.end > window.end


def test_every_token_is_owned_by_the_window_with_its_largest_context():
    for tokens, room, stride in (*sizes(300), (430, 300, 20)):  # a last window so short that its length tells
        cut = windows(tokens, room, stride)
        for token in range(tokens):
            contexts = [
                min(token - window.first, window.end - 1 - token) + 0.01 * (window.end - window.first)
                if window.first <= token < window.end
                else -1.0
                for window in cut
            ]
            owning = [n for n, w in enumerate(cut) if w.first <= token < w.end and w.owned[token - w.first]]
            assert owning == [contexts.index(max(contexts))]


def test_of_equal_contexts_the_first_window_owns():
    first, second = windows(5, 4, 3)
    assert (first.owned.tolist(), second.owned.tolist()) == ([True, True, True, False], [False, False, True, True])
    # tokens 1 and 3 lie as far from an end in one window only, token 2 in both
    longer, shorter = windows(6, 4, 1)
    assert longer.owned.tolist() == [True] * 4 and shorter.owned.tolist() == [False, True, True]


# Rows


def test_a_row_is_the_question_and_a_window_of_the_context(tokenizer, questions):
    for question, rows in zip(questions, rows_by_question(questions, tokenizer, **SMALL), strict=True):
        query = tokenizer.encode(question.question).ids[1:-1][:6]
        context = tokenizer.encode(question.context)
        cut = windows(len(context.ids) - 2, 30 - 3 - len(query), 7)
        assert len(rows) == len(cut)
        for row, window in zip(rows, cut, strict=True):
            inside = slice(window.first + 1, window.end + 1)
            separated = [tokenizer.cls_id, *query, tokenizer.sep_id, *context.ids[inside], tokenizer.sep_id]
            assert row.ids.tolist() == separated and len(row.ids) <= 30
            assert row.context == len(query) + 2
            assert [tuple(pair) for pair in row.offsets.tolist()] == context.offsets[inside]
            assert row.owned.tolist() == window.owned.tolist()
            assert [a.dtype for a in (row.ids, row.offsets, row.owned)] == [np.int32, np.int32, np.bool_]


def test_the_questions_are_of_every_kind(tokenizer, questions):
    rows = rows_by_question(questions, tokenizer, **SMALL)
    assert {min(len(of_one), 3) for of_one in rows} == {1, 2, 3}
    golds = [{row.start > 0 for row in of_one} for of_one in rows]
    assert {True, False} in golds and {True} in golds and {False} in golds


def test_the_gold_are_the_tokens_that_share_characters_with_the_answer(tokenizer, questions):
    for question, rows in zip(questions, rows_by_question(questions, tokenizer, **SMALL), strict=True):
        offsets = tokenizer.encode(question.context).offsets[1:-1]
        cut = windows(len(offsets), 30 - rows[0].context - 1, 7)
        expected = [(0, 0)] * len(cut)
        if question.answers:
            answer = range(question.answers[0].start, question.answers[0].start + len(question.answers[0].text))
            shared = [token for token, span in enumerate(offsets) if set(range(*span)) & set(answer)]
            assert gold_tokens(question, np.array(offsets)) == ((shared[0], shared[-1]) if shared else None)
            for number, window in enumerate(cut):
                if shared and window.first <= shared[0] and shared[-1] < window.end:
                    shift = rows[0].context - window.first
                    expected[number] = (shared[0] + shift, shared[-1] + shift)
            assert all(row.usable == bool(question.answers[0].text.strip()) for row in rows)
        assert [(row.start, row.end) for row in rows] == expected


@pytest.mark.parametrize(
    ("answers", "impossible", "gold", "usable"),
    [
        ((Answer("te", 3),), False, "te", True),
        ((Answer("te", -1), Answer("mo", 9), Answer("ka", 0)), False, "mo", True),
        ((Answer("e  . mo r", 4),), False, "te  . mo ri", True),  # tokens are whole
        ((Answer("te", -1),), False, None, False),
        ((Answer(" ", 2),), False, None, False),  # no token to train on
        ((Answer(" te  .", 2),), False, "te  .", True),  # white space before, and a mark of its own, are no part
        ((), True, None, True),
        ((), None, None, False),  # hidden
        ((), False, None, False),
    ],
)
def test_what_is_trained_on(tokenizer, answers, impossible, gold, usable):
    question = Question("a", "ri?", "ka te  . mo ri", answers, impossible)
    (row,) = question_rows([question], tokenizer, **SMALL)
    assert row.usable is usable
    if gold is None:
        assert (row.start, row.end) == (0, 0)
    else:
        first, last = row.offsets[row.start - row.context], row.offsets[row.end - row.context]
        assert question.context[first[0] : last[1]] == gold


def test_a_context_without_tokens_is_one_window(tokenizer):
    (row,) = question_rows([Question("a", "ka", "", (), True)], tokenizer, **SMALL)
    assert row.ids.tolist() == [tokenizer.cls_id, *tokenizer.ids("ka"), tokenizer.sep_id, tokenizer.sep_id]
    assert row.offsets.shape == (0, 2) and row.owned.shape == (0,)
    assert (row.start, row.end, row.usable) == (0, 0, True)
    assert question_rows([], tokenizer, **SMALL) == []


def test_windows_that_cannot_advance_are_refused_whatever_the_questions(tokenizer):
    def rows(max_length, stride, max_query):
        question = Question("a", "ka", "te mo", (), True)
        return question_rows([question], tokenizer, max_length=max_length, stride=stride, max_query=max_query)

    assert rows(20, 6, 10) and rows(14, 0, 10)
    for wrong, least in (((20, 7, 10), 7), ((20, -1, 10), 7), ((13, 0, 10), 0), ((12, 0, 10), 0)):
        message = f"data.max_length {wrong[0]} leaves {least} tokens .*data.max_query 10;.* data.stride {wrong[1]}"
        with pytest.raises(Refused, match=message):
            rows(*wrong)
    with pytest.raises(Refused, match="data.max_length 4 is too small"):
        rows(4, 0, 0)


# Answers


class Logits(NamedTuple):
    starts: list[np.ndarray]
    ends: list[np.ndarray]


def random_logits(rows: list[SpanRow], rng: np.random.Generator) -> Logits:
    """Padding has the largest."""
    both = [[rng.normal(size=len(row.ids) + 5).astype(np.float32) for row in rows] for _ in range(2)]
    for row, starts, ends in zip(rows, *both, strict=True):
        starts[len(row.ids) :], ends[len(row.ids) :] = 100, 100
    return Logits(*both)


def among_best(logits: list[float], place: int, n_best: int) -> bool:
    return sum(other > logits[place] for other in logits) < n_best


def every_span(question: Question, rows: list[SpanRow], logits: Logits, n_best: int, longest: int) -> Prediction:
    """What decode says, by trying all (window, start, end)."""
    scores: dict[str, float] = {}
    null = float("inf")
    for row, all_starts, all_ends in zip(rows, *logits, strict=True):
        null = min(null, float(all_starts[0]) + float(all_ends[0]))
        starts = [float(all_starts[row.context + token]) for token in range(len(row.offsets))]
        ends = [float(all_ends[row.context + token]) for token in range(len(row.offsets))]
        for first in range(len(starts)):
            for last in range(first, min(first + longest, len(ends))):
                text = question.context[row.offsets[first][0] : row.offsets[last][1]].strip()
                best = among_best(starts, first, n_best) and among_best(ends, last, n_best)
                if row.owned[first] and best and text:
                    scores[text] = max(scores.get(text, -1e9), starts[first] + ends[last])
    ranked = sorted(scores.items(), key=lambda item: -item[1])[:n_best]
    if not ranked:
        return Prediction("", null_odds=float("inf"))
    total = sum(np.exp(score) for _, score in ranked)
    best = tuple((text, float(np.exp(score) / total)) for text, score in ranked)
    return Prediction(ranked[0][0], best=best, null_odds=null - ranked[0][1])


@pytest.mark.parametrize(("n_best", "longest"), [(1, 30), (3, 5), (5, 1), (20, 8), (100, 100)])
def test_decoding_equals_trying_every_span(tokenizer, questions, n_best, longest):
    rng = np.random.default_rng(0)
    values = set()
    for question, rows in zip(questions[:40], rows_by_question(questions[:40], tokenizer, **SMALL), strict=True):
        logits = random_logits(rows, rng)
        said = decode(question, rows, *logits, n_best=n_best, max_answer_length=longest)
        expected = every_span(question, rows, logits, n_best, longest)
        assert said.value == expected.value
        assert [text for text, _ in said.best] == [text for text, _ in expected.best]
        np.testing.assert_allclose([p for _, p in said.best], [p for _, p in expected.best], rtol=1e-9)
        np.testing.assert_allclose(said.null_odds, expected.null_odds, rtol=1e-9)
        assert said.probabilities == () and type(said.null_odds) is float
        values.add(said.value)
    assert len(values) > 10


def test_logits_that_point_at_the_gold_give_its_text(tokenizer, questions):
    answered = [question for question in questions if question.answers and question.answers[0].text.strip()]
    count = 0
    for question, rows in zip(answered, rows_by_question(answered, tokenizer, **SMALL), strict=True):
        logits = Logits(*([np.zeros(len(row.ids)) for row in rows] for _ in range(2)))
        for row, starts, ends in zip(rows, *logits, strict=True):
            if row.start and row.owned[row.start - row.context]:
                starts[row.start], ends[row.end] = 9, 9
                count += 1
        if any(starts.any() for starts in logits.starts):
            said = decode(question, rows, *logits, n_best=5, max_answer_length=30)
            assert_whole_tokens(said.value, question, tokenizer)
            assert said.best[0][1] > 0.99 and said.null_odds == -18
    assert count > 30


def assert_whole_tokens(value: str, question: Question, tokenizer: Tokenizer) -> None:
    """`value` is the gold, or the gold and the rest of the tokens that it begins and ends within."""
    (gold,) = question.answers
    start, end = gold.start, gold.start + len(gold.text)
    touched = [(s, e) for s, e in tokenizer.encode(question.context).offsets if s < end and e > start]
    assert value == question.context[touched[0][0] : touched[-1][1]].strip()
    assert gold.text.strip() in value


def row_by_hand(offsets: list[tuple[int, int]], owned: list[bool] | None = None) -> SpanRow:
    """[CLS] q [SEP] and a token for each of the offsets."""
    count = len(offsets)
    owned_m = np.array([True] * count if owned is None else owned, bool)
    return SpanRow(0, np.zeros(4 + count, np.int32), 3, np.array(offsets).reshape(-1, 2), owned_m, 0, 0, True)


def decoded(context: str, rows: list[SpanRow], starts, ends, n_best: int = 20, longest: int = 30) -> Prediction:
    """From logits of the context's tokens; those of [CLS] are 1 and 2, those of the question and [SEP] 50."""
    whole = [[np.array([null, 50, 50, *each, 50.0]) for each in given] for null, given in ((1, starts), (2, ends))]
    return decode(Question("a", "q", context, (), None), rows, *whole, n_best=n_best, max_answer_length=longest)


def test_texts_are_those_of_the_context_distinct_and_not_empty():
    row = row_by_hand([(0, 2), (2, 2), (2, 3), (3, 5)])  # "ka", the mark of a word's start, a space, "ka"
    said = decoded("ka ka", [row], [[5, 9, 9, 6]], [[5, 9, 9, 7]])
    assert said.value == "ka" and said.null_odds == 3 - 16  # of the mark or the space to the end, stripped
    assert [text for text, _ in said.best] == ["ka", "ka ka"]
    np.testing.assert_allclose(said.best[0][1], 1 / (1 + np.exp(12 - 16)))
    assert decoded("ka ka", [row], [[5, 0, 0, 6]], [[5, 0, 0, 7]], longest=1).null_odds == 3 - 13


def test_only_the_window_that_owns_a_start_offers_it():
    first, second = row_by_hand([(0, 1), (2, 3)], [True, False]), row_by_hand([(2, 3), (4, 5)], [True, True])
    said = decoded("a b c", [first, second], [[0, 9], [1, 0]], [[0, 9], [0, 2]])
    assert said.value == "a b" and said.best[1][0] == "b c"  # ends may lie where another window owns


def test_the_null_score_is_the_least_of_all_windows():
    rows = [row_by_hand([(0, 1)]), row_by_hand([(2, 3)])]
    starts, ends = [np.array([4, 0, 0, 1, 0]), np.array([2, 0, 0, 0, 0])], [np.array([0, 0, 0, 1, 0]), np.zeros(5)]
    said = decode(Question("a", "q", "a b", (), None), rows, starts, ends, n_best=1, max_answer_length=1)
    assert said == Prediction("a", best=(("a", 1.0),), null_odds=2.0 + 0.0 - 2.0)


def test_of_equal_scores_the_first_span_is_taken():
    row = row_by_hand([(0, 1), (2, 3), (4, 5), (6, 7)])
    said = decoded("a b c d", [row, row], [[0, 1, 1, 1]] * 2, [[0, 1, 1, 1]] * 2, n_best=2)
    assert [text for text, _ in said.best] == ["b", "b c"]
    assert decoded("a b", [row_by_hand([(0, 1), (2, 3)])], [[1, 2]], [[2, 1]], longest=1).value == "a"


def test_a_window_without_context_has_no_answer():
    assert decoded("", [row_by_hand([])], [[]], [[]]) == Prediction("", null_odds=float("inf"))
    assert decoded("a b", [row_by_hand([(0, 1), (2, 3)])], [[0, 9]], [[9, 0]], n_best=1).value == ""


def test_a_large_score_is_no_overflow():
    row = row_by_hand([(0, 1), (2, 3)])
    said = decoded("a b", [row], [[2000, 1000]], [[2000, 0]])
    assert said.best[0] == ("a", 1.0) and sum(p for _, p in said.best) == 1


def test_rows_and_logits_must_be_as_many():
    row = row_by_hand([(0, 1)])
    with pytest.raises(ValueError, match="shorter"):
        decoded("a", [row, row], [[1]], [[1]])


# The published questions


def normal(answer: str) -> str:
    """As the official scorer compares answers: lower case, no punctuation, no articles, single spaces."""
    letters = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


def published_questions(file: Path) -> list[Question]:
    """Questions of SQuAD v1.1 that have an answer whose start is right."""
    made = []
    for article in json.loads(file.read_text())["data"]:
        for paragraph in article["paragraphs"]:
            context = paragraph["context"]
            for question in paragraph["qas"]:
                given = [Answer(a["text"], a["answer_start"]) for a in question["answers"]]
                right = tuple(answer for answer in given if context.startswith(answer.text, answer.start))
                made += [Question(question["id"], question["question"], context, right, False)] if right else []
    return made


def test_the_tokens_of_published_answers_spell_them():
    file, model = DATA / "squad" / "dev-v1.1.json", DATA / "tokenizer" / "spiece.model"
    if not file.exists() or not model.exists():
        pytest.skip(f"needs {file} and {model}; DEBERTA_JAX_DATA names the folder above them")
    questions = published_questions(file)
    rows = question_rows(questions, load_tokenizer(model), max_length=384, stride=128, max_query=64)
    assert all(row.usable for row in rows)
    texts = collections.defaultdict(set)
    for row in rows:
        if row.start:
            first, last = row.offsets[row.start - row.context], row.offsets[row.end - row.context]
            texts[row.example].add(questions[row.example].context[first[0] : last[1]])
    assert len(texts) == len(questions)  # every answer is whole in some window
    for number, question in enumerate(questions):
        assert all(question.answers[0].text.strip() in text for text in texts[number])
    right = sum({normal(t) for t in texts[n]} == {normal(q.answers[0].text)} for n, q in enumerate(questions))
    assert right / len(questions) > 0.97
