"""Questions about a context that may be longer than a row: windows of its tokens, and answers from their logits.

Letters: n tokens of a row, m context tokens among them.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Prediction, Question
from deberta_jax.tasks.truncation import room_for
from deberta_jax.tokenizers.interface import Tokenizer

LENGTH_SHARE = 0.01  # of a window's length in what decides whose a token is, as BERT's run_squad.py has it


class SpanRow(NamedTuple):
    """A question and a window of its context: [CLS] question [SEP] window [SEP]."""

    example: int  # number of the question
    ids: np.ndarray  # int32 [n]
    context: int  # the token where the window begins in this row
    offsets: np.ndarray  # int32 [m, 2]; characters [start, end) in the whole context of each token of the window
    owned: np.ndarray  # bool [m]; whether no other window shows more context of the token: see `windows`
    start: int  # tokens of the row that the answer spans, inclusive;
    end: int  # 0 and 0, [CLS], where it is not whole in this window or there is none
    usable: bool  # whether there is a gold to train on: not where it is hidden, or none of its places are known


class Window(NamedTuple):
    """Tokens [first, end) of a context, m of them."""

    first: int
    end: int
    owned: np.ndarray  # bool [m]; as in SpanRow


class _Context(NamedTuple):
    ids: list[int]
    offsets: np.ndarray  # int32 [tokens, 2]


def question_rows(
    questions: Sequence[Question], tokenizer: Tokenizer, *, max_length: int, stride: int, max_query: int
) -> list[SpanRow]:
    """Rows of all questions, in order, those of one question in the order of their windows.

    A question keeps its first `max_query` tokens; windows have what is left of `max_length`, and neighbours share
    `stride` tokens. A context without tokens has one window, without any. Trained on is the first answer whose place is
    known. Raises Refused when the longest question leaves a window no more than `stride` tokens, whether there is such
    a question or not: a test set must not be the first to have one.
    """
    least = max(room_for(2, max_length) - max_query, 0)
    if not 0 <= stride < least:
        raise Refused(
            f"data.max_length {max_length} leaves {least} tokens to a context beside a question of data.max_query "
            f"{max_query}; windows cannot share data.stride {stride} of them"
        )
    distinct = list(dict.fromkeys(question.question for question in questions))
    ids = dict(zip(distinct, tokenizer.ids_of(distinct), strict=True))
    read = functools.cache(lambda text: _context(text, tokenizer))  # one context has many questions
    cut = functools.cache(windows)
    rows = []
    for number, question in enumerate(questions):
        query = [tokenizer.cls_id, *ids[question.question][:max_query], tokenizer.sep_id]
        context = read(question.context)
        gold = gold_tokens(question, context.offsets)
        usable = question.impossible is True or gold is not None
        for window in cut(len(context.ids), max_length - len(query) - 1, stride):
            ids_n = [*query, *context.ids[window.first : window.end], tokenizer.sep_id]
            start, end = _place(gold, window, len(query))
            offsets = context.offsets[window.first : window.end]
            row = SpanRow(number, np.array(ids_n, np.int32), len(query), offsets, window.owned, start, end, usable)
            rows.append(row)
    return rows


def _place(gold: tuple[int, int] | None, window: Window, context: int) -> tuple[int, int]:
    """The gold as tokens of the window's row, in which the window begins at token `context`."""
    if gold is None or gold[0] < window.first or gold[1] >= window.end:
        return 0, 0
    return context + gold[0] - window.first, context + gold[1] - window.first


def _context(text: str, tokenizer: Tokenizer) -> _Context:
    encoding = tokenizer.encode(text)
    offsets = np.array(encoding.offsets[1:-1], np.int32).reshape(-1, 2)
    return _Context(encoding.ids[1:-1], offsets)


def windows(tokens: int, room: int, stride: int) -> list[Window]:
    """The windows of `room` tokens of which neighbours share `stride` (as transformers' doc_stride).

    The last may be shorter. All tokens are covered, and every window has tokens that the one before it lacks. Needs
    0 <= stride < room. A token is owned by the window that shows the most context of it, the first of several. That is
    BERT's rule (run_squad.py): the fewer of the tokens to its left and right in the window, and a hundredth of the
    window's length.
    """
    firsts = range(0, max(tokens - stride, 1), room - stride)
    ends = [min(first + room, tokens) for first in firsts]
    owner, most = np.zeros(tokens, np.int32), np.full(tokens, -np.inf)
    for number, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        place = np.arange(end - first)
        context = np.minimum(place, place[::-1]) + LENGTH_SHARE * len(place)
        better = context > most[first:end]
        owner[first:end][better], most[first:end][better] = number, context[better]
    return [Window(f, e, owner[f:e] == number) for number, (f, e) in enumerate(zip(firsts, ends, strict=True))]


def gold_tokens(question: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """(first, last) context token that shares characters with the first answer whose place is known.

    None where there is no such answer, or no such token.
    """
    known = [answer for answer in question.answers if answer.start >= 0]
    if question.impossible or not known:
        return None
    start, end = known[0].start, known[0].start + len(known[0].text)
    # A mark of a word's start that is a token of its own has no characters: it is at neither end of an answer.
    shares = np.flatnonzero(np.maximum(offsets[:, 0], start) < np.minimum(offsets[:, 1], end))
    return (int(shares[0]), int(shares[-1])) if shares.size else None


class _Candidates(NamedTuple):
    """Spans of the context, each array of the same length, in the order of their windows, starts and ends."""

    score: np.ndarray  # float64
    start: np.ndarray  # characters
    end: np.ndarray


def decode(
    question: Question,
    rows: Sequence[SpanRow],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    *,
    n_best: int,
    max_answer_length: int,
) -> Prediction:
    """The answers to a question, from all its rows and, for each, logits [>= n] whose rest is padding.

    In every window the `n_best` likeliest starts and as many ends are combined; a span has at most `max_answer_length`
    tokens, and its start belongs to the window that owns the token. Its text is that of the context, without white
    space around it. `best` are the `n_best` best distinct texts, with the softmax of their scores, and `value` is the
    first of them: whether it is better to give none is the caller's decision, by `null_odds`, which is the least score
    of [CLS] in any window less that of the best text (BERT 4.3). Without a candidate `value` is "" and `null_odds` inf.
    """
    starts, ends = (
        [np.asarray(logits[: len(row.ids)], np.float64) for row, logits in zip(rows, both, strict=True)]
        for both in (start_logits, end_logits)
    )
    null_score = min(float(s[0] + e[0]) for s, e in zip(starts, ends, strict=True))
    parts = [_candidates(*window, n_best, max_answer_length) for window in zip(rows, starts, ends, strict=True)]
    found = _best_texts(question.context, _Candidates(*map(np.concatenate, zip(*parts, strict=True))), n_best)
    if not found:
        return Prediction("", null_odds=np.inf)
    scores = np.array(list(found.values()))
    odds = np.exp(scores - scores[0])
    best = tuple(zip(found, (odds / odds.sum()).tolist(), strict=True))
    return Prediction(best[0][0], best=best, null_odds=float(null_score - scores[0]))


def _candidates(
    row: SpanRow, start_logits: np.ndarray, end_logits: np.ndarray, n_best: int, max_answer_length: int
) -> _Candidates:
    inside = slice(row.context, row.context + len(row.offsets))
    start_logits, end_logits = start_logits[inside], end_logits[inside]
    starts, ends = _likeliest(start_logits, n_best), _likeliest(end_logits, n_best)
    starts = starts[row.owned[starts]]
    longer = ends[None] - starts[:, None]  # tokens beyond the first
    first, last = np.nonzero((longer >= 0) & (longer < max_answer_length))
    first, last = starts[first], ends[last]
    return _Candidates(start_logits[first] + end_logits[last], row.offsets[first, 0], row.offsets[last, 1])


def _likeliest(logits: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest logits, of equal ones the first, ascending."""
    return np.sort(np.argsort(-logits, kind="stable")[:count])


def _best_texts(context: str, candidates: _Candidates, n_best: int) -> dict[str, float]:
    """Text -> score of the best distinct texts, the best first; a text has the score of its best span."""
    texts: dict[str, float] = {}
    for number in np.argsort(-candidates.score, kind="stable"):
        if len(texts) == n_best:
            break
        text = context[candidates.start[number] : candidates.end[number]].strip()
        if text:
            texts.setdefault(text, float(candidates.score[number]))
    return texts
