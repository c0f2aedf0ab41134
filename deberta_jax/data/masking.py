"""Masked-language-model corruption of one packed row, in NumPy: which tokens are predicted, and what replaces them.

Letters: l position in the row, p prediction slot, u unit (a token or a whole word), s span.
"""

import dataclasses
from collections.abc import Iterable
from itertools import chain

import numpy as np

from deberta_jax.config import MaskConfig
from deberta_jax.tokenizers import Tokenizer

LONGEST_WORD = 8  # tokens that are masked together


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """What masking needs to know about the ids."""

    size: int  # ids that exist, [MASK] included
    pad_id: int
    mask_id: int
    ordinary_ids: np.ndarray  # what a random replacement may be: no special, control or byte piece
    starts_word: np.ndarray  # bool [size]
    is_special: np.ndarray  # bool [size]; never predicted

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        is_special = np.zeros(tokenizer.size, bool)
        is_special[list(tokenizer.special_ids)] = True
        return cls(
            size=tokenizer.size,
            pad_id=tokenizer.pad_id,
            mask_id=tokenizer.mask_id,
            ordinary_ids=tokenizer.ordinary_ids,
            starts_word=tokenizer.starts_word,
            is_special=is_special,
        )


def predictions_per_row(length: int, rate: float) -> int:
    """Prediction slots of a row of `length` tokens: 77 for 512 at 0.15, as in the released code."""
    return max(1, round(rate * length))


def mask_row(
    ids_l: np.ndarray, documents_l: np.ndarray, *, mask: MaskConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The corrupted row and its predictions: input_ids [l], masked_positions, labels and weights [p].

    `documents_l` numbers the documents of the row from 1; 0 is padding. Predicted are round(rate * real tokens),
    specials counted, at least one; slots are sorted by position, and those left over hold zeros with weight 0. A unit
    that would exceed this quota is left out and others are tried until the quota is full or no unit fits, so a row
    never overshoots and a word (of up to 8 tokens) is masked whole or not at all. (The released sampler lets the last
    word overshoot, and walks the row from the left until its quota is gone, which leaves the last 48 of 512 tokens
    unmasked for ever.)
    """
    positions = _choose(ids_l, documents_l, mask, vocabulary, rng)
    count, slots = len(positions), predictions_per_row(len(ids_l), mask.rate)
    row = {
        "input_ids": _replace(ids_l, positions, mask, vocabulary, rng),
        "masked_positions": np.zeros(slots, np.int32),
        "labels": np.zeros(slots, np.int32),
        "weights": np.zeros(slots, np.float32),
    }
    row["masked_positions"][:count] = positions
    row["labels"][:count] = ids_l[positions]
    row["weights"][:count] = 1
    return row


def _choose(
    ids_l: np.ndarray, documents_l: np.ndarray, mask: MaskConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> np.ndarray:
    """Positions to predict, ascending."""
    maskable = np.flatnonzero((documents_l > 0) & ~vocabulary.is_special[ids_l])
    if not len(maskable):
        return maskable
    quota = predictions_per_row(np.count_nonzero(documents_l), mask.rate)
    if mask.unit == "token" and mask.max_ngram == 1:
        return np.sort(rng.permutation(maskable)[:quota])
    # A run is a stretch of maskable tokens of one document; neither words nor spans reach beyond it.
    opens_run = np.ones(len(maskable), bool)
    opens_run[1:] = (np.diff(maskable) > 1) | (np.diff(documents_l[maskable]) != 0)
    opens_unit = np.ones_like(opens_run)
    if mask.unit == "word":
        opens_unit = _opens_word(opens_run | vocabulary.starts_word[ids_l[maskable]])
    unit_of = np.cumsum(opens_unit) - 1
    spans = _spans(opens_run[opens_unit], mask.max_ngram, quota, rng) if mask.max_ngram > 1 else []
    order = chain(spans, rng.permutation(unit_of[-1] + 1).tolist())
    is_taken_u = _fill(order, np.bincount(unit_of), quota)
    return maskable[is_taken_u[unit_of]]


def _opens_word(starts_word: np.ndarray) -> np.ndarray:
    """Where a word begins; what goes on for more than LONGEST_WORD tokens is cut, or text without spaces (Chinese, a
    long address) would be one word that fits no quota and is never masked."""
    number = np.arange(len(starts_word))
    since_start = number - np.maximum.accumulate(np.where(starts_word, number, 0))
    return since_start % LONGEST_WORD == 0


def _spans(opens_run_u: np.ndarray, max_ngram: int, quota: int, rng: np.random.Generator) -> list[int]:
    """Units in the order in which random spans of up to `max_ngram` of them cover the row; spans may meet or overlap.

    A span's length n is drawn in proportion to 1/n (XLNet and the released DeBERTa code), its start uniformly from a
    line on which every run is preceded by max_ngram - 1 empty places. So each unit is covered by exactly n of the
    equally likely starts, at the edge of a document as in its middle; what falls on empty places is clipped.
    """
    lengths = np.arange(1, max_ngram + 1)
    margin = max_ngram - 1
    places_u = np.arange(len(opens_run_u)) + margin * np.cumsum(opens_run_u)
    line = np.full(places_u[-1] + 1 + margin, -1)
    line[places_u] = np.arange(len(places_u))
    draws = 2 * quota  # cover 1 - exp(-3.3 rate) of a row at max_ngram 3, more than any rate in use
    n_s = rng.choice(lengths, size=draws, p=1 / lengths / np.sum(1 / lengths))
    start_s = rng.integers(len(line) - margin, size=draws)
    covered = line[start_s[:, None] + np.arange(max_ngram)]
    covered[np.arange(max_ngram) >= n_s[:, None]] = -1
    return covered[covered >= 0].tolist()


def _fill(order: Iterable[int], size_u: np.ndarray, quota: int) -> np.ndarray:
    """Which units are taken [u]: those of `order`, one after the other, that still fit into `quota` tokens."""
    is_taken_u = np.zeros(len(size_u), bool)
    sizes, left = size_u.tolist(), quota
    for unit in order:
        if sizes[unit] <= left and not is_taken_u[unit]:
            is_taken_u[unit] = True
            left -= sizes[unit]
            if not left:
                break
    return is_taken_u


def _replace(
    ids_l: np.ndarray, positions: np.ndarray, mask: MaskConfig, vocabulary: Vocabulary, rng: np.random.Generator
) -> np.ndarray:
    """The row with [MASK], a random ordinary token, or the token itself at `positions`."""
    draw = rng.random(len(positions))
    is_random = (draw >= mask.mask_share) & (draw < mask.mask_share + mask.random_share)
    input_ids_l = ids_l.astype(np.int32)  # a copy
    input_ids_l[positions[draw < mask.mask_share]] = vocabulary.mask_id
    input_ids_l[positions[is_random]] = rng.choice(vocabulary.ordinary_ids, np.count_nonzero(is_random))
    return input_ids_l
