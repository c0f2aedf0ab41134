"""Masked-language-model corruption of packed rows, in NumPy: which tokens are predicted, and what replaces them.

Letters: b row, l position in the row, p prediction slot, u unit (a token or a whole word) of the row, s span, n unit of
a span, c candidate; k counts tokens or units of all rows.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from deberta_jax.config import MaskConfig
from deberta_jax.data.uniform import random_bits, uniform
from deberta_jax.tokenizers import Tokenizer

LONGEST_WORD = 8  # tokens that are masked together
ORDER, SPAN_LENGTH, SPAN_START, REPLACEMENT, TOKEN = range(5)  # streams of random numbers
NEVER = np.iinfo(np.int32).max  # size of what fits no quota


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


def mask_rows(
    ids_bl: np.ndarray,
    documents_bl: np.ndarray,
    numbers_b: np.ndarray,
    *,
    seed: int,
    mask: MaskConfig,
    vocabulary: Vocabulary,
) -> dict[str, np.ndarray]:
    """The corrupted rows and their predictions: input_ids [b, l], masked_positions, labels and weights [b, p].

    `documents_bl` numbers the documents of each row from 1; 0 is padding. What happens to a row is a function of it,
    of `seed` and of its entry of `numbers_b`, not of the rows beside it. Predicted are round(rate * real tokens),
    specials counted, at least one; slots are sorted by position, and those left over hold zeros with weight 0. A unit
    that would exceed this quota is left out and others are tried until the quota is full or no unit fits, so a row
    never overshoots and a word (of up to 8 tokens) is masked whole or not at all. (The released sampler lets the last
    word overshoot, and walks the row from the left until its quota is gone, which leaves the last 48 of 512 tokens
    unmasked for ever.)
    """
    row_k, position_k = np.nonzero(_choose(ids_bl, documents_bl, numbers_b, seed, mask, vocabulary))
    slot_k = np.arange(len(row_k)) - np.searchsorted(row_k, row_k)  # counts in each row from 0
    labels_k = ids_bl[row_k, position_k]
    shape = len(ids_bl), predictions_per_row(ids_bl.shape[1], mask.rate)
    share_bp, token_bp = (uniform(seed, numbers_b, stream, shape[1]) for stream in (REPLACEMENT, TOKEN))
    masked = {
        "input_ids": ids_bl.astype(np.int32),  # a copy
        "masked_positions": np.zeros(shape, np.int32),
        "labels": np.zeros(shape, np.int32),
        "weights": np.zeros(shape, np.float32),
    }
    new_k = _replacements(labels_k, share_bp[row_k, slot_k], token_bp[row_k, slot_k], mask, vocabulary)
    masked["input_ids"][row_k, position_k] = new_k
    masked["masked_positions"][row_k, slot_k] = position_k
    masked["labels"][row_k, slot_k] = labels_k
    masked["weights"][row_k, slot_k] = 1
    return masked


def _replacements(
    ids_k: np.ndarray, share_k: np.ndarray, token_k: np.ndarray, mask: MaskConfig, vocabulary: Vocabulary
) -> np.ndarray:
    """[MASK], a random ordinary token, or the token itself [k], by two uniform draws for each token."""
    random_k = vocabulary.ordinary_ids[(token_k * len(vocabulary.ordinary_ids)).astype(np.int64)]
    others_k = np.where(share_k < mask.mask_share + mask.random_share, random_k, ids_k)
    return np.where(share_k < mask.mask_share, vocabulary.mask_id, others_k)


def _choose(
    ids_bl: np.ndarray,
    documents_bl: np.ndarray,
    numbers_b: np.ndarray,
    seed: int,
    mask: MaskConfig,
    vocabulary: Vocabulary,
) -> np.ndarray:
    """Which tokens to predict, bool [b, l]."""
    is_maskable_bl = (documents_bl > 0) & ~vocabulary.is_special[ids_bl]
    # A run is a stretch of maskable tokens of one document; neither words nor spans reach beyond it.
    opens_run_bl = is_maskable_bl.copy()
    opens_run_bl[:, 1:] &= ~is_maskable_bl[:, :-1] | (documents_bl[:, 1:] != documents_bl[:, :-1])
    opens_unit_bl = is_maskable_bl
    if mask.unit == "word":
        opens_unit_bl = is_maskable_bl & _opens_word(opens_run_bl | vocabulary.starts_word[ids_bl])
    units = _units(is_maskable_bl, opens_unit_bl, opens_run_bl)
    quota_b = np.maximum(1, np.rint(mask.rate * np.count_nonzero(documents_bl, axis=1))).astype(np.int32)
    order_bc = np.argsort(random_bits(seed, numbers_b, ORDER, units.size_bu.shape[1]), axis=1)
    if mask.max_ngram > 1:
        spans_bc = _spans(units, quota_b, mask.max_ngram, numbers_b, seed)
        order_bc = np.concatenate([spans_bc, order_bc], axis=1)
    is_taken_bu = _fill(order_bc, units.size_bu, quota_b)
    return is_maskable_bl & np.take_along_axis(is_taken_bu, units.of_bl, axis=1)


def _opens_word(starts_word_bl: np.ndarray) -> np.ndarray:
    """Where a word begins; what goes on for more than LONGEST_WORD tokens is cut, or text without spaces (Chinese, a
    long address) would be one word that fits no quota and is never masked."""
    column_l = np.arange(starts_word_bl.shape[1])
    start_bl = np.maximum.accumulate(np.where(starts_word_bl, column_l, 0), axis=1)
    return (column_l - start_bl) % LONGEST_WORD == 0


class _Units(NamedTuple):
    """The units of each row, counted from 0; the last column of size_bu is no unit of any row."""

    of_bl: np.ndarray  # the unit of each maskable token
    size_bu: np.ndarray  # tokens; 0 where a row has no such unit
    opens_run_bu: np.ndarray

    @property
    def nothing(self) -> int:
        return self.size_bu.shape[1] - 1


def _units(is_maskable_bl: np.ndarray, opens_unit_bl: np.ndarray, opens_run_bl: np.ndarray) -> _Units:
    rows = len(is_maskable_bl)
    of_bl = np.maximum(np.cumsum(opens_unit_bl, axis=1) - 1, 0)
    columns = of_bl.max() + 2
    flat_bl = of_bl + columns * np.arange(rows)[:, None]
    size_bu = np.bincount(flat_bl[is_maskable_bl], minlength=rows * columns).reshape(rows, columns)
    opens_run_bu = np.zeros((rows, columns), bool)
    opens_run_bu.reshape(-1)[flat_bl[opens_run_bl]] = True
    return _Units(of_bl, size_bu.astype(np.int32), opens_run_bu)


def _spans(units: _Units, quota_b: np.ndarray, max_ngram: int, numbers_b: np.ndarray, seed: int) -> np.ndarray:
    """Units in the order in which random spans of up to `max_ngram` of them cover the row [b, c]; spans may meet or
    overlap, and a place that covers nothing holds the last column of `units`.

    A span's length n is drawn in proportion to 1/n (XLNet and the released DeBERTa code), its start uniformly from the
    places of `_line`.
    """
    line, starts_b = _line(units, margin=max_ngram - 1)
    draws = 2 * quota_b.max()  # cover 1 - exp(-3.3 rate) of a row at max_ngram 3, more than any rate in use
    weight_n = np.cumsum(1 / np.arange(1, max_ngram + 1))
    length_bs = 1 + np.searchsorted(
        weight_n[:-1] / weight_n[-1], uniform(seed, numbers_b, SPAN_LENGTH, draws), side="right"
    )
    length_bs[np.arange(draws) >= 2 * quota_b[:, None]] = 0
    start_bs = (uniform(seed, numbers_b, SPAN_START, draws) * starts_b[:, None]).astype(np.int64)
    step_n = np.arange(max_ngram)
    covered_bsn = line[np.arange(len(line))[:, None, None], start_bs[:, :, None] + step_n]
    covered_bsn[step_n >= length_bs[:, :, None]] = units.nothing
    return covered_bsn.reshape(len(line), -1)


def _line(units: _Units, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The units of each row on a line on which every run is preceded by `margin` empty places, and the number of places
    that a span may start at [b].

    So each unit is covered by exactly n of the equally likely starts of a span of n units, at the edge of a document
    as in its middle; what falls on empty places is clipped.
    """
    rows, columns = units.size_bu.shape
    places_bu = np.arange(columns) + margin * np.cumsum(units.opens_run_bu, axis=1)
    starts_b = np.count_nonzero(units.size_bu, axis=1) + margin * np.count_nonzero(units.opens_run_bu, axis=1)
    line = np.full((rows, starts_b.max() + 1 + margin), units.nothing)
    row_k, unit_k = np.nonzero(units.size_bu)
    line[row_k, places_bu[row_k, unit_k]] = unit_k
    return line, starts_b


def _fill(order_bc: np.ndarray, size_bu: np.ndarray, quota_b: np.ndarray) -> np.ndarray:
    """Which units are taken [b, u]: those of `order`, one after the other, that still fit into `quota` tokens."""
    rows, columns = size_bu.shape
    size = np.where(size_bu > 0, size_bu, NEVER).reshape(-1)
    left_b = quota_b.copy()
    for place_b in np.ascontiguousarray((order_bc + columns * np.arange(rows)[:, None]).T):
        size_b = size[place_b]
        fits_b = size_b <= left_b
        left_b -= np.where(fits_b, size_b, 0)
        size[place_b[fits_b]] = NEVER  # taken
        if not left_b.any():
            break
    return (size.reshape(rows, columns) == NEVER) & (size_bu > 0)
