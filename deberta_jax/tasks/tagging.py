"""Sentences as rows of tokens, word by word, and a tag for each word from what is predicted for the tokens.

Letters: n tokens and w words of a row.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deberta_jax.errors import Refused, nearest
from deberta_jax.tasks.examples import Sentence
from deberta_jax.tasks.truncation import room_for
from deberta_jax.tokenizers.interface import Tokenizer


class TagRow(NamedTuple):
    """A sentence, or some words of one that is too long: [CLS] words [SEP]."""

    example: int  # number of the sentence
    ids: np.ndarray  # int32 [n]
    starts: np.ndarray  # int32 [w]; the token where each word of this row starts
    labels: np.ndarray  # int32 [w]; number of each word's tag, -1 where it is hidden


def sentence_rows(
    sentences: Sequence[Sentence], tokenizer: Tokenizer, *, max_length: int, labels: Sequence[str]
) -> list[TagRow]:
    """Rows of all sentences, in order, those of one sentence in the order of its words.

    A word has the ids it has in the words joined by spaces, [UNK] where that is none; a tag belongs to the word's
    first token (BERT 5.3). A row takes as many words as fit, and the next row goes on with the next word; a word longer
    than a whole row keeps its first tokens. A sentence without words is a row without any. Raises Refused for a number
    of tags that is not that of the words, and for a tag that is not among `labels`.
    """
    room = room_for(1, max_length)
    marked = _marks_a_first_word(tokenizer)
    spellings = [_spellings(sentence.words, marked) for sentence in sentences]
    distinct = list(dict.fromkeys(spelling for words in spellings for spelling in words))
    ids = dict(zip(distinct, tokenizer.ids_of(distinct), strict=True))
    rows = []
    for number, (sentence, words) in enumerate(zip(sentences, spellings, strict=True)):
        ids_of_words = [ids[spelling][:room] or [tokenizer.unk_id] for spelling in words]
        tags = _tag_numbers(sentence, labels)
        for first, end in _parts([len(word) for word in ids_of_words], room):
            rows.append(_row(number, ids_of_words[first:end], tags[first:end], tokenizer))
    return rows


def _row(example: int, words: Sequence[Sequence[int]], labels: np.ndarray, tokenizer: Tokenizer) -> TagRow:
    ids = [tokenizer.cls_id, *(index for word in words for index in word), tokenizer.sep_id]
    ends = 1 + np.cumsum([0, *map(len, words)], dtype=np.int32)
    return TagRow(example, np.array(ids, np.int32), ends[:-1], labels)


def decode_tags(
    rows: Sequence[TagRow], predicted: Sequence[np.ndarray], labels: Sequence[str], words: int
) -> tuple[str, ...]:
    """The tag of each of a sentence's `words`, from all its rows in order.

    `predicted` holds, for each row, the number of the likeliest label of every token, int [>= n]; what comes after the
    row's tokens is padding. Raises ValueError when the rows have another number of words.
    """
    tags = [labels[number] for row, numbers in zip(rows, predicted, strict=True) for number in numbers[row.starts]]
    if len(tags) != words:
        raise ValueError(f"the rows hold {len(tags)} words of a sentence of {words}")
    return tuple(tags)


def _marks_a_first_word(tokenizer: Tokenizer) -> bool:
    """Whether a text's first word has the mark of a word's start, as of SentencePiece, without a space before it."""
    return bool(tokenizer.starts_word[tokenizer.ids("a")[0]])


def _spellings(words: Sequence[str], marks_a_first_word: bool) -> list[str]:
    """What is encoded for each word: where only a space gives the mark, all but the first word have one."""
    if marks_a_first_word:
        return list(words)
    return [f" {word}" if word and number else word for number, word in enumerate(words)]


def _tag_numbers(sentence: Sentence, labels: Sequence[str]) -> np.ndarray:
    """int32 [words]; -1 where the tags are hidden."""
    if sentence.tags is None:
        return np.full(len(sentence.words), -1, np.int32)
    if len(sentence.tags) != len(sentence.words):
        raise Refused(f"example {sentence.id}: {len(sentence.tags)} tags for {len(sentence.words)} words")
    for word, tag in zip(sentence.words, sentence.tags, strict=True):
        if tag not in labels:
            raise Refused(
                f"example {sentence.id}: tag {tag!r} of {word!r} is none of {', '.join(labels)}{nearest(tag, labels)}"
            )
    return np.array([labels.index(tag) for tag in sentence.tags], np.int32)


def _parts(lengths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """[first, end) of the words of each row; no word is longer than the room."""
    first, used = 0, 0
    for number, length in enumerate(lengths):
        if used + length > room:
            yield first, number
            first, used = number, 0
        used += length
    yield first, len(lengths)
