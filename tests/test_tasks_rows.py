"""Rows of every kind of task: layout, cutting, gold, and what is refused."""

import math

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import KINDS, Answer, Choice, Question, Sentence, Text
from deberta_jax.tasks.rows import ChoiceRow, SpanRow, TagRow, TextRow, encode
from deberta_jax.tasks.truncation import truncated
from deberta_jax.tokenizers import SentencePieceTokenizer, load_tokenizer

LABELS = ("no", "yes")
ONE_OF_EACH = {
    "classification": Text("c", ("ka te", "mo"), "yes"),
    "regression": Text("r", ("ka te", "mo"), 2.5),
    "multiple_choice": Choice("m", (("ka", "te"), ("ka", "mo ri")), 1),
    "tagging": Sentence("t", ("ka", "te"), ("no", "yes")),
    "span": Question("s", "ka te", "mo ri ka", (Answer("ri", 3),), False),
}


@pytest.fixture(scope="module")
def tokenizer(spm_dir) -> SentencePieceTokenizer:
    return load_tokenizer(spm_dir)


def rows_of(examples, kind, tokenizer, **changes):
    options = {"max_length": 64, "labels": LABELS, "stride": 4, "max_query": 8} | changes
    return encode(examples, kind, tokenizer, **options)


def laid_out(tokenizer, *segments: list[int]) -> list[int]:
    return [tokenizer.cls_id, *(index for ids in segments for index in [*ids, tokenizer.sep_id])]


def test_every_kind_has_its_rows(tokenizer):
    kinds = {kind: type(rows_of([example], kind, tokenizer)[0]) for kind, example in ONE_OF_EACH.items()}
    assert set(kinds) == set(KINDS)
    assert list(kinds.values()) == [TextRow, TextRow, ChoiceRow, TagRow, SpanRow]
    assert all(rows_of([], kind, tokenizer) == [] for kind in KINDS)


def test_a_tagging_row_and_a_span_row_hold_their_gold(tokenizer):
    (row,) = rows_of([ONE_OF_EACH["tagging"]], "tagging", tokenizer)
    assert row.ids.tolist() == laid_out(tokenizer, tokenizer.ids("ka te"))
    assert row.labels.tolist() == [0, 1]
    (row,) = rows_of([ONE_OF_EACH["span"]], "span", tokenizer)
    assert row.ids.tolist() == laid_out(tokenizer, tokenizer.ids("ka te"), tokenizer.ids("mo ri ka"))
    assert row.ids[row.start : row.end + 1].tolist() == tokenizer.ids("ri")


@pytest.mark.parametrize("segments", [("ka te.",), ("ka te.", "mo"), ("", "mo"), ("a", "", "c d"), ("",)])
def test_segments_are_encoded_one_by_one_with_a_separator_after_each(tokenizer, segments):
    (row,) = rows_of([Text("x", segments, "yes")], "classification", tokenizer)
    assert row.ids.tolist() == laid_out(tokenizer, *map(tokenizer.ids, segments))
    assert row.ids.dtype == np.int32
    (same,) = rows_of([Choice("x", (segments,), 0)], "multiple_choice", tokenizer)
    assert same.ids[0].tolist() == row.ids.tolist() and same.ids[0].dtype == np.int32


def test_long_texts_are_cut_to_max_length_with_their_special_tokens(tokenizer, documents):
    rng = np.random.default_rng(0)
    for _ in range(100):
        segments = tuple(documents[i][: rng.integers(0, 300)] for i in rng.integers(0, 300, rng.integers(1, 4)))
        max_length = int(rng.integers(1 + 2 * len(segments), 60))
        (row,) = rows_of([Text("x", segments, "no")], "classification", tokenizer, max_length=max_length)
        whole = [tokenizer.ids(segment) for segment in segments]
        cut = truncated(whole, max_length - 1 - len(segments))
        assert row.ids.tolist() == laid_out(tokenizer, *cut)
        assert len(row.ids) == min(max_length, len(laid_out(tokenizer, *whole)))


def test_labels_and_values(tokenizer):
    def gold(kind, *labels):
        rows = rows_of([Text(str(i), ("ka",), label) for i, label in enumerate(labels)], kind, tokenizer)
        assert [row.example for row in rows] == list(range(len(labels)))
        return [(row.label, row.value) for row in rows]

    assert str(gold("classification", "yes", "no", None)) == "[(1, nan), (0, nan), (-1, nan)]"
    assert str(gold("regression", 2.5, 0.0, None)) == "[(-1, 2.5), (-1, 0.0), (-1, nan)]"
    assert all(isinstance(value, float) for _, value in gold("regression", 3, None))
    with pytest.raises(Refused, match="example 1: label 'yess' is none of no, yes, did you mean 'yes'"):
        gold("classification", "no", "yess")
    with pytest.raises(Refused, match="example 0: label 1.0 is none of no, yes"):
        gold("classification", 1.0)


def test_options_share_a_text_and_are_cut_each_for_itself(tokenizer, documents):
    article = documents[0]
    options = ("ka", "ka te mo " * 5, "ka te mo ri " * 9)
    (row,) = rows_of([Choice("x", tuple((article, o) for o in options), None)], "multiple_choice", tokenizer)
    for ids, option in zip(row.ids, options, strict=True):
        cut = truncated([tokenizer.ids(article), tokenizer.ids(option)], 61)
        assert ids.tolist() == laid_out(tokenizer, *cut)
    assert [len(ids) for ids in row.ids] == [64, 64, 64]


def test_labels_of_choices(tokenizer):
    options = (("a",), ("b",))
    choices = [Choice(str(label), options, label) for label in (0, 1, None)]
    assert [(r.example, r.label) for r in rows_of(choices, "multiple_choice", tokenizer)] == [(0, 0), (1, 1), (2, -1)]
    for wrong in (2, -1):
        with pytest.raises(Refused, match=f"example {wrong}: label {wrong} is none of its options 0 to 1"):
            rows_of([Choice(str(wrong), options, wrong)], "multiple_choice", tokenizer)


@pytest.mark.parametrize(
    ("kind", "example"),
    [
        ("classification", Text("bad", ("ka", "a\ud800"), "yes")),
        ("regression", Text("bad", ("a\ud800",), 1.0)),
        ("multiple_choice", Choice("bad", (("ka",), ("te", "a\ud800")), 0)),
        ("tagging", Sentence("bad", ("ka", "a\ud800"), ("no", "no"))),
        ("span", Question("bad", "a\ud800", "ka", (), None)),
        ("span", Question("bad", "ka", "a\ud800", (), None)),
    ],
)
def test_a_lone_surrogate_is_refused_by_the_name_of_its_example(tokenizer, kind, example):
    with pytest.raises(Refused, match="example bad: text holds a lone surrogate.* 1$"):
        rows_of([ONE_OF_EACH[kind], example], kind, tokenizer)


def test_too_small_a_max_length_is_refused(tokenizer):
    for kind, least in (("classification", 5), ("regression", 5), ("multiple_choice", 5), ("tagging", 3)):
        assert rows_of([ONE_OF_EACH[kind]], kind, tokenizer, max_length=least)
        with pytest.raises(Refused, match=f"data.max_length {least - 1} is too small"):
            rows_of([ONE_OF_EACH[kind]], kind, tokenizer, max_length=least - 1)


def test_an_unknown_kind_is_refused(tokenizer):
    with pytest.raises(Refused, match="kind 'tags' is none of .*, did you mean 'tagging'"):
        rows_of([], "tags", tokenizer)


def test_a_text_that_examples_share_is_encoded_once(spm_dir):
    class Counting(SentencePieceTokenizer):
        seen: list[str]

        def ids_of(self, texts):
            self.seen += texts
            return super().ids_of(texts)

        def encode(self, text, pair=None):
            self.seen.append(text)
            return super().encode(text, pair)

    counting = Counting((spm_dir / "spm.model").read_bytes())
    for kind, examples, texts in (
        ("classification", [Text("", ("ka", "te"), "no"), Text("", ("te", "ka"), "no")], {"ka", "te"}),
        ("multiple_choice", [Choice("", (("ka", "te"), ("ka", "mo")), 0)] * 2, {"ka", "te", "mo"}),
        ("tagging", [Sentence("", ("ka", "te", "ka"), None)] * 2, {"ka", "te"}),
        ("span", [Question("", q, "mo ri", (), None) for q in ("ka", "te", "ka")], {"ka", "te", "mo ri"}),
    ):
        counting.seen = []
        rows = rows_of(examples, kind, counting)
        assert len(rows) == len(examples)
        assert sorted(counting.seen) == sorted(texts)


def test_values_are_not_read_as_labels(tokenizer):
    (row,) = rows_of([Text("x", ("ka",), 1)], "regression", tokenizer, labels=("score",))
    assert row.label == -1 and row.value == 1.0
    (row,) = rows_of([Text("x", ("ka",), None)], "regression", tokenizer, labels=("score",))
    assert math.isnan(row.value)
