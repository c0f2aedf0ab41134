"""From examples to rows of tokens: what a model reads, and the gold as numbers.

A row is [CLS] first [SEP] second [SEP] ...: every segment is encoded as a text of its own.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks.examples import Choice, Example, Question, Sentence, Text
from deberta_jax.tasks.tagging import TagRow, sentence_rows
from deberta_jax.tasks.truncation import room_for, truncated
from deberta_jax.tasks.windows import SpanRow, question_rows
from deberta_jax.tokenizers.interface import Tokenizer, check_unicode


class TextRow(NamedTuple):
    """Of "classification" and "regression"."""

    example: int  # number of the example
    ids: np.ndarray  # int32 [n]
    label: int  # of classification: number of the label; -1 where it is hidden, and of regression
    value: float  # of regression; nan where it is hidden, and of classification


class ChoiceRow(NamedTuple):
    """Of "multiple_choice": a sequence for each option."""

    example: int
    ids: tuple[np.ndarray, ...]  # int32 [n], n of its own for each
    label: int  # number of the right option; -1 where it is hidden


Row = TextRow | ChoiceRow | TagRow | SpanRow


def encode(
    examples: Sequence[Example],
    kind: str,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    labels: Sequence[str],
    stride: int,
    max_query: int,
) -> list[Row]:
    """The rows of the examples of a kind, in their order: one each, several of a long sentence or context.

    No row has more than `max_length` tokens, special ones included; texts are cut as `truncated` says. `labels` are
    those of classification and tagging, `stride` and `max_query` are used for spans only (see windows.py). Raises
    Refused, naming the example, for a label that is not among `labels`, for an option that is not there, and for a text
    that is not Unicode; and for a max_length without room for a token of each segment.
    """
    if kind not in _TEXTS_OF:
        raise Refused(f"kind {kind!r} is none of {', '.join(_TEXTS_OF)}{nearest(kind, _TEXTS_OF)}")
    _check_texts(examples, _TEXTS_OF[kind])
    if kind == "tagging":
        return sentence_rows(examples, tokenizer, max_length=max_length, labels=labels)
    if kind == "span":
        return question_rows(examples, tokenizer, max_length=max_length, stride=stride, max_query=max_query)
    if kind == "multiple_choice":
        return _choice_rows(examples, tokenizer, max_length)
    return _text_rows(examples, tokenizer, max_length, labels if kind == "classification" else None)


def _words_of(sentence: Sentence) -> Iterable[str]:
    return sentence.words


def _options_of(choice: Choice) -> Iterable[str]:
    return (text for segments in choice.options for text in segments)


def _segments_of(text: Text) -> Iterable[str]:
    return text.segments


def _question_of(question: Question) -> Iterable[str]:
    return question.question, question.context


_TEXTS_OF: dict[str, Callable[[Example], Iterable[str]]] = {
    "classification": _segments_of,
    "regression": _segments_of,
    "multiple_choice": _options_of,
    "tagging": _words_of,
    "span": _question_of,
}


def _check_texts(examples: Iterable[Example], texts_of: Callable[[Example], Iterable[str]]) -> None:
    """Raises Refused for a text with a lone surrogate: a tokenizer would not say whose it is."""
    checked: set[str] = set()
    for example in examples:
        for text in texts_of(example):
            if text in checked:
                continue
            try:
                check_unicode(text)
            except ValueError as error:
                raise Refused(f"example {example.id}: {error}") from error
            checked.add(text)


def _text_rows(
    examples: Sequence[Text], tokenizer: Tokenizer, max_length: int, labels: Sequence[str] | None
) -> list[TextRow]:
    """Rows of classification, or of regression where there are no labels."""
    ids = _ids_by_text(examples, _segments_of, tokenizer)
    rows = []
    for number, example in enumerate(examples):
        label = -1 if labels is None else _label_number(example, labels)
        value = math.nan if labels is not None or example.label is None else float(example.label)
        rows.append(TextRow(number, _sequence(example.segments, ids, tokenizer, max_length), label, value))
    return rows


def _choice_rows(examples: Sequence[Choice], tokenizer: Tokenizer, max_length: int) -> list[ChoiceRow]:
    ids = _ids_by_text(examples, _options_of, tokenizer)
    rows = []
    for number, example in enumerate(examples):
        options = tuple(_sequence(segments, ids, tokenizer, max_length) for segments in example.options)
        if example.label is not None and not 0 <= example.label < len(options):
            raise Refused(f"example {example.id}: label {example.label} is none of its options 0 to {len(options) - 1}")
        rows.append(ChoiceRow(number, options, -1 if example.label is None else example.label))
    return rows


def _ids_by_text(
    examples: Iterable[Example], texts_of: Callable[[Example], Iterable[str]], tokenizer: Tokenizer
) -> dict[str, list[int]]:
    """Ids of all texts; one that several examples share is encoded once."""
    texts = list(dict.fromkeys(text for example in examples for text in texts_of(example)))
    return dict(zip(texts, tokenizer.ids_of(texts), strict=True))


def _sequence(
    segments: Sequence[str], ids: Mapping[str, Sequence[int]], tokenizer: Tokenizer, max_length: int
) -> np.ndarray:
    """int32 [n]: [CLS] first [SEP] second [SEP] ..., cut to max_length."""
    sequence = [tokenizer.cls_id]
    for segment in truncated([ids[text] for text in segments], room_for(len(segments), max_length)):
        sequence += [*segment, tokenizer.sep_id]
    return np.array(sequence, np.int32)


def _label_number(example: Text, labels: Sequence[str]) -> int:
    if example.label is None:
        return -1
    if example.label not in labels:
        near = nearest(str(example.label), labels)
        raise Refused(f"example {example.id}: label {example.label!r} is none of {', '.join(labels)}{near}")
    return labels.index(example.label)
