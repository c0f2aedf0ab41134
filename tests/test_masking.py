"""Masking against its definition: counts, uniformity over positions, whole words, and what may never happen."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from deberta_jax.config import MaskConfig
from deberta_jax.data.masking import (
    ORDER,
    REPLACEMENT,
    SPAN_LENGTH,
    SPAN_START,
    TOKEN,
    Vocabulary,
    mask_rows,
    predictions_per_row,
)
from deberta_jax.data.uniform import random_bits, uniform
from deberta_jax.tokenizers import SentencePieceTokenizer, load_tokenizer
from packed import PackedRow, packed_rows

LENGTH = 128
SETTINGS = list(itertools.product(("token", "word"), (1, 3)))


def config(unit: str = "token", max_ngram: int = 1, **changes: float) -> MaskConfig:
    return MaskConfig(
        **{"rate": 0.15, "mask_share": 0.8, "random_share": 0.1} | changes, unit=unit, max_ngram=max_ngram
    )


@pytest.fixture(scope="module")
def tokenizer(spm_dir: Path) -> SentencePieceTokenizer:
    return load_tokenizer(spm_dir)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: SentencePieceTokenizer) -> Vocabulary:
    return Vocabulary.of(tokenizer)


@pytest.fixture(scope="module")
def rows(tokenizer: SentencePieceTokenizer, documents: list[str]) -> list[PackedRow]:
    """Packed text of the tokenizer's language, with an unknown character inside the first words of each document."""
    texts = [text.replace("a", "a\u4e2d", 4) for text in documents]
    return packed_rows(tokenizer.ids_of(texts), LENGTH, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)


def masked(row: PackedRow, mask: MaskConfig, vocabulary: Vocabulary, number: int, seed: int = 0) -> dict:
    """A row masked by itself."""
    (result,) = masked_all([row], mask, vocabulary, [number], seed)
    return result


def masked_all(
    rows: list[PackedRow], mask: MaskConfig, vocabulary: Vocabulary, numbers: Sequence[int], seed: int = 0
) -> list[dict]:
    """Rows masked as one batch, and taken apart."""
    ids_bl, documents_bl = map(np.stack, zip(*rows, strict=True))
    batch = mask_rows(ids_bl, documents_bl, np.array(numbers), seed=seed, mask=mask, vocabulary=vocabulary)
    return [{key: value[i] for key, value in batch.items()} for i in range(len(rows))]


def chosen(result: dict[str, np.ndarray]) -> np.ndarray:
    return result["masked_positions"][result["weights"] > 0]


def plain_row(length: int, vocabulary: Vocabulary) -> PackedRow:
    """One document of ordinary one-token words between two specials."""
    ids_l = np.full(length, next(i for i in vocabulary.ordinary_ids if vocabulary.starts_word[i]), np.int32)
    ids_l[[0, -1]] = np.flatnonzero(vocabulary.is_special)[:2]
    return PackedRow(ids_l, np.ones(length, np.int32))


def rates(row: PackedRow, mask: MaskConfig, vocabulary: Vocabulary, draws: int) -> np.ndarray:
    """How often each position of `row` was chosen [l]."""
    count_l = np.zeros(len(row.ids_l))
    for result in masked_all([row] * draws, mask, vocabulary, range(draws)):
        count_l[chosen(result)] += 1
    return count_l / draws


def test_a_row_has_the_quota_of_the_released_code():
    assert [predictions_per_row(n, 0.15) for n in (512, 128, 64, 8, 2)] == [77, 19, 10, 1, 1]


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_shares_over_many_tokens_are_15_and_80_10_10_percent(unit, max_ngram, rows, vocabulary):
    mask = config(unit, max_ngram)
    real = predicted = became_mask = kept = replaced = 0
    for i, row in enumerate(itertools.cycle(rows)):
        result = masked(row, mask, vocabulary, i)
        now_p, was_p = result["input_ids"][chosen(result)], result["labels"][result["weights"] > 0]
        real += np.count_nonzero(row.documents_l)
        predicted += now_p.size
        became_mask += np.count_nonzero(now_p == vocabulary.mask_id)
        kept += np.count_nonzero(now_p == was_p)
        replaced += np.count_nonzero((now_p != was_p) & (now_p != vocabulary.mask_id))
        if real >= 100_000:
            break
    assert predicted / real == pytest.approx(0.15, abs=0.002)  # rounding of each row's quota
    by_chance = 0.1 / vocabulary.ordinary_ids.size  # a random token that is the original
    for count, share in ((became_mask, 0.8), (kept, 0.1 + by_chance), (replaced, 0.1 - by_chance)):
        deviation = np.sqrt(predicted * share * (1 - share))
        assert abs(count - predicted * share) < 4 * deviation


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_every_row_fills_its_quota_and_sorts_its_positions(unit, max_ngram, rows, vocabulary):
    slots = predictions_per_row(LENGTH, 0.15)
    filled = 0
    for i, row in enumerate(rows):
        result = masked(row, config(unit, max_ngram), vocabulary, i)
        quota = predictions_per_row(np.count_nonzero(row.documents_l), 0.15)
        positions = chosen(result)
        assert len(positions) <= quota
        filled += len(positions) == quota
        assert np.all(np.diff(positions) > 0)
        assert all(result[k].shape == (slots,) for k in ("masked_positions", "labels", "weights"))
        assert set(result["weights"][: len(positions)]) == {1.0}
        assert not any(result[k][len(positions) :].any() for k in ("masked_positions", "labels", "weights"))
    assert filled == len(rows) if unit == "token" else filled > 0.99 * len(rows)


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_the_original_row_is_recoverable(unit, max_ngram, rows, vocabulary):
    for i, row in enumerate(rows):
        result = masked(row, config(unit, max_ngram), vocabulary, i)
        restored_l = result["input_ids"].copy()
        restored_l[chosen(result)] = result["labels"][result["weights"] > 0]
        np.testing.assert_array_equal(restored_l, row.ids_l)


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_specials_and_padding_are_never_chosen(unit, max_ngram, rows, tokenizer, vocabulary):
    assert any(tokenizer.unk_id in row.ids_l for row in rows)
    for i, row in enumerate(rows):
        result = masked(row, config(unit, max_ngram, rate=0.5), vocabulary, i)
        assert not np.isin(row.ids_l[chosen(result)], tokenizer.special_ids).any()
        assert row.documents_l[chosen(result)].all()


def test_a_row_of_padding_or_of_specials_has_no_predictions(tokenizer, vocabulary):
    row = PackedRow(np.full(LENGTH, tokenizer.pad_id, np.int32), np.zeros(LENGTH, np.int32))
    assert not masked(row, config(), vocabulary, 0)["weights"].any()
    row.ids_l[:2] = tokenizer.cls_id, tokenizer.sep_id
    row.documents_l[:2] = 1
    for unit, max_ngram in SETTINGS:
        result = masked(row, config(unit, max_ngram), vocabulary, 0)
        assert not result["weights"].any()
        np.testing.assert_array_equal(result["input_ids"], row.ids_l)


def test_padding_is_known_by_its_document_even_where_its_id_is_a_word(vocabulary):
    row = plain_row(LENGTH, vocabulary)
    row.documents_l[LENGTH // 2 :] = 0
    for draw in range(50):
        assert chosen(masked(row, config(rate=0.3), vocabulary, draw)).max() < LENGTH // 2


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.25)])
def test_random_replacements_are_ordinary_and_uniform(shares, rows, tokenizer, vocabulary):
    mask = config(mask_share=shares[0], random_share=shares[1], rate=0.5)
    new = masked_all(rows * 5, mask, vocabulary, range(5 * len(rows)))
    now = np.concatenate([r["input_ids"][chosen(r)] for r in new])
    was = np.concatenate([r["labels"][r["weights"] > 0] for r in new])
    drawn = now if shares[1] == 1 else now[(now != was) & (now != vocabulary.mask_id)]
    count_v = np.bincount(drawn, minlength=tokenizer.size)
    assert not count_v[list(tokenizer.special_ids)].any()
    count_v = count_v[tokenizer.ordinary_ids]
    assert count_v.sum() == drawn.size  # nothing outside the ordinary ids, the table's padding included
    assert chi_square_per_freedom(count_v) == pytest.approx(1, abs=0.3)


def chi_square_per_freedom(count: np.ndarray) -> float:
    return float(((count - count.mean()) ** 2).sum() / count.mean() / (count.size - 1))


def test_unigram_masks_are_uniform_over_positions_to_the_last(vocabulary):
    draws, row = 2000, plain_row(512, vocabulary)
    rate_l = rates(row, config(), vocabulary, draws)[1:-1]
    expected = 77 / 510
    # Sum of 510 squared normal deviates that share one constraint: 509 +- 4.5 standard deviations.
    statistic = (draws * (rate_l - expected) ** 2 / (expected * (1 - expected))).sum()
    assert abs(statistic - 509) < 4.5 * np.sqrt(2 * 509)
    assert rate_l[-48:].mean() == pytest.approx(expected, rel=0.03)  # the released sampler: 0


@pytest.mark.parametrize("unit", ["token", "word"])
def test_span_masks_reach_the_edges_of_a_document_as_often_as_its_middle(unit, vocabulary):
    row, draws = plain_row(256, vocabulary), 12_000
    ids_dl, documents_dl = row.ids_l.reshape(8, 32), row.documents_l.reshape(8, 32)  # eight documents of 30 words
    ids_dl[:, 0], ids_dl[:, -1] = row.ids_l[0], row.ids_l[-1]
    documents_dl[:] = np.arange(1, 9)[:, None]
    rate_l = rates(row, config(unit, 3), vocabulary, draws).reshape(8, 32).mean(0)
    assert rate_l[1:31] == pytest.approx(rate_l[11:21].mean(), rel=0.03)  # 4 standard deviations of a position


def test_words_of_a_short_document_are_masked_as_often_as_those_of_a_long_one(vocabulary):
    row = plain_row(LENGTH, vocabulary)
    row.ids_l[[4, 5]] = row.ids_l[[-1, 0]]  # three words, then 121
    row.documents_l[5:] = 2
    rate_l = rates(row, config("word", 3), vocabulary, 8000)
    assert rate_l[1:4].mean() == pytest.approx(rate_l[6:127].mean(), rel=0.08)


def test_span_lengths_are_drawn_in_proportion_to_one_over_n(vocabulary):
    # Three tokens of a long row: the longest run tells which spans were drawn.
    row = plain_row(1024, vocabulary)
    runs = np.zeros(4, int)
    for result in masked_all([row] * 4000, config(rate=3 / 1024, max_ngram=3), vocabulary, range(4000)):
        positions = chosen(result)
        runs[np.diff(np.flatnonzero(np.diff(positions, prepend=-2, append=9999) > 1)).max()] += 1
    p1, p2, p3 = 6 / 11, 3 / 11, 2 / 11  # in proportion to 1, 1/2, 1/3; the last span is cut to what is left
    expected = {3: p3, 2: p2 + p1 * (p2 + p3), 1: p1 * p1}
    for length, share in expected.items():
        assert runs[length] / 4000 == pytest.approx(share, abs=0.03)


def test_spans_stay_inside_a_document_and_away_from_specials(vocabulary):
    row = plain_row(64, vocabulary)
    row.documents_l[32:] = 2  # a border without specials
    row.ids_l[48] = row.ids_l[0]  # a special amid a document
    results = masked_all([row] * 3000, config(rate=2 / 64, max_ngram=2), vocabulary, range(3000))
    pairs = [set(chosen(result)) for result in results]
    inside, across_border, across_special = (pairs.count(pair) for pair in ({29, 30}, {31, 32}, {47, 49}))
    assert inside > 15
    assert max(across_border, across_special) < 0.3 * inside  # by two separate spans only


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_whole_words_are_never_half_masked(max_ngram, rows, tokenizer, vocabulary):
    multiple = 0
    for i, row in enumerate(rows):
        hidden = set(chosen(masked(row, config("word", max_ngram), vocabulary, i)).tolist())
        for word in words_of(row, tokenizer):
            assert len(hidden & set(word)) in (0, len(word))
            multiple += len(word) > 1 and word[0] in hidden
    assert multiple > 100


def words_of(row: PackedRow, tokenizer: SentencePieceTokenizer) -> list[list[int]]:
    """Positions of each word of the row, the slow way."""
    words, open_word = [], False
    for position, token in enumerate(row.ids_l.tolist()):
        if token in tokenizer.special_ids:
            open_word = False
        elif open_word and not tokenizer.piece(token).startswith("\u2581"):
            words[-1].append(position)
        else:
            words.append([position])
            open_word = True
    return words


def test_a_word_larger_than_what_is_left_gives_way_to_smaller_ones(vocabulary):
    starts = next(i for i in vocabulary.ordinary_ids if vocabulary.starts_word[i])
    goes_on = next(i for i in vocabulary.ordinary_ids if not vocabulary.starts_word[i])
    ids_l = np.array([1] + [starts, goes_on, goes_on, goes_on] * 4 + [starts] * 2 + [2], np.int32)
    row = PackedRow(ids_l, np.ones(len(ids_l), np.int32))
    for draw in range(50):  # quota 3: no word of four fits, both words of one do
        assert chosen(masked(row, config("word"), vocabulary, draw)).tolist() == [17, 18]


def test_a_row_of_one_word_too_large_has_no_prediction(vocabulary):
    goes_on = next(i for i in vocabulary.ordinary_ids if not vocabulary.starts_word[i])
    row = PackedRow(np.array([1] + [goes_on] * 8 + [2], np.int32), np.ones(10, np.int32))
    assert not masked(row, config("word"), vocabulary, 0)["weights"].any()


def test_text_without_spaces_is_masked_in_stretches_of_eight_tokens(vocabulary):
    goes_on = next(i for i in vocabulary.ordinary_ids if not vocabulary.starts_word[i])
    row = PackedRow(np.array([1] + [goes_on] * 126 + [2], np.int32), np.ones(LENGTH, np.int32))
    starts = set()
    for draw in range(50):  # quota 19: two stretches of eight; the last, of six, fits after one of them
        positions = chosen(masked(row, config("word"), vocabulary, draw))
        stretches = np.unique((positions - 1) // 8)
        assert len(stretches) == 2 and len(positions) == (14 if 15 in stretches else 16)
        starts |= set(stretches.tolist())
    assert starts == set(range(16))


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_masks_depend_on_seed_and_number_alone(unit, max_ngram, rows, vocabulary):
    mask = config(unit, max_ngram)
    first, again = (masked(rows[0], mask, vocabulary, 7, seed=5) for _ in range(2))
    assert_same(first, again)
    for number, seed in ((8, 5), (7, 6)):
        assert chosen(first).tolist() != chosen(masked(rows[0], mask, vocabulary, number, seed)).tolist()


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize(("unit", "max_ngram"), SETTINGS)
def test_a_row_is_masked_the_same_in_any_batch(unit, max_ngram, rows, tokenizer, vocabulary):
    mask = config(unit, max_ngram)
    padding = PackedRow(np.full(LENGTH, tokenizer.pad_id, np.int32), np.zeros(LENGTH, np.int32))
    batch = [padding, *rows[:39], plain_row(LENGTH, vocabulary), *rows[-40:]]
    numbers = np.random.default_rng(0).permutation(1 << 20)[: len(batch)] + (1 << 40)
    together = masked_all(batch, mask, vocabulary, numbers)
    backwards = masked_all(batch[::-1], mask, vocabulary, numbers[::-1])[::-1]
    for row, number, *results in zip(batch, numbers.tolist(), together, backwards, strict=True):
        for result in results:
            assert_same(result, masked(row, mask, vocabulary, number))


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4, 0.95])  # at the last the spans do not reach
@pytest.mark.parametrize(("unit", "max_ngram"), [*SETTINGS, ("token", 2), ("word", 8)])
def test_a_batch_is_masked_as_its_rows_are_one_token_at_a_time(unit, max_ngram, rate, rows, vocabulary):
    mask = config(unit, max_ngram, rate=rate)
    short = plain_row(LENGTH, vocabulary)
    short.documents_l[LENGTH // 2 :] = 0
    some = [*rows[::7], rows[-1], plain_row(LENGTH, vocabulary), short]
    results = masked_all(some, mask, vocabulary, range(len(some)))
    for number, (row, result) in enumerate(zip(some, results, strict=True)):
        expected = slow_positions(row, number, mask, vocabulary)
        assert chosen(result).tolist() == expected
        share, token = (uniform(0, np.array([number]), stream, LENGTH)[0] for stream in (REPLACEMENT, TOKEN))
        for slot, position in enumerate(expected):
            new = row.ids_l[position]
            if share[slot] < 0.8:
                new = vocabulary.mask_id
            elif share[slot] < 0.9:
                new = vocabulary.ordinary_ids[int(token[slot] * len(vocabulary.ordinary_ids))]
            assert result["input_ids"][position] == new


def slow_positions(row: PackedRow, number: int, mask: MaskConfig, vocabulary: Vocabulary) -> list[int]:
    """What is predicted, by the definition, from the same draws: words, then spans on a line, then the greedy fill."""
    words = slow_units(row, mask, vocabulary)
    units = [unit for run in words for unit in run]
    quota = predictions_per_row(np.count_nonzero(row.documents_l), mask.rate)
    margin = mask.max_ngram - 1
    line = [i for run in words for i in [None] * margin + run]
    numbers = np.array([number])
    order = []
    if mask.max_ngram > 1:
        weights = [1 / n for n in range(1, mask.max_ngram + 1)]
        lengths, starts = (uniform(0, numbers, stream, 2 * quota)[0] for stream in (SPAN_LENGTH, SPAN_START))
        for length, start in zip(lengths, starts, strict=True):
            n = 1 + sum(length * sum(weights) >= sum(weights[:i]) for i in range(1, mask.max_ngram))
            first = int(start * len(line))
            order += [unit for unit in line[first : first + n] if unit is not None]
    keys = random_bits(0, numbers, ORDER, len(units))[0]
    order += [unit for _, unit in sorted(zip(keys, units, strict=True))]
    taken: list[list[int]] = []
    for unit in order:
        if unit not in taken and sum(map(len, taken)) + len(unit) <= quota:
            taken.append(unit)
    return sorted(position for unit in taken for position in unit)


def slow_units(row: PackedRow, mask: MaskConfig, vocabulary: Vocabulary) -> list[list[list[int]]]:
    """Runs of units of positions."""
    runs: list[list[list[int]]] = []
    before = 0  # document of a maskable neighbour on the left
    for position, (token, document) in enumerate(zip(row.ids_l.tolist(), row.documents_l.tolist(), strict=True)):
        if not document or vocabulary.is_special[token]:
            before = 0
            continue
        if document != before:
            runs.append([])
        before = document
        in_word = mask.unit == "word" and runs[-1] and not vocabulary.starts_word[token]
        if in_word and len(runs[-1][-1]) < 8:
            runs[-1][-1].append(position)
        else:
            runs[-1].append([position])
    return runs


def test_the_given_rows_are_left_as_they_were(rows, vocabulary):
    ids_bl, documents_bl = map(np.stack, zip(*rows, strict=True))
    before = ids_bl.copy(), documents_bl.copy()
    mask_rows(ids_bl, documents_bl, np.arange(len(rows)), seed=0, mask=config(), vocabulary=vocabulary)
    np.testing.assert_array_equal((ids_bl, documents_bl), before)
