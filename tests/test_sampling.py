import functools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from builders import COMPILE_FAST
from deberta_jax.ops.sampling import CHUNK, sample

LARGEST_DRAW = np.nextafter(np.float32(1), np.float32(0))
drawn = jax.jit(sample, static_argnums=2, compiler_options=COMPILE_FAST)


def slow_sample(logits_bpv, allowed_v, temperature, draw_bp2):
    """The same two steps in float64, an id at a time."""
    ids = np.zeros(logits_bpv.shape[:2], int)
    for b, p in np.ndindex(ids.shape):
        logits = [float(logit) / temperature for logit in logits_bpv[b, p]]
        most = max(logit for logit, allowed in zip(logits, allowed_v, strict=True) if allowed)
        weights = [math.exp(x - most) if allowed else 0.0 for x, allowed in zip(logits, allowed_v, strict=True)]
        chunks = [weights[start : start + CHUNK] for start in range(0, len(weights), CHUNK)]
        chunk = first_beyond([sum(each) for each in chunks], float(draw_bp2[b, p, 0]))
        ids[b, p] = chunk * CHUNK + first_beyond(chunks[chunk], float(draw_bp2[b, p, 1]))
    return ids


def first_beyond(weights, share):
    running = 0.0
    for index, weight in enumerate(weights):
        running += weight
        if weight > 0 and running > share * sum(weights):
            return index
    raise AssertionError("shares are below 1")


def random_case(rows=4, predictions=50, ids=3 * CHUNK, seed=0):
    rng = np.random.default_rng(seed)
    logits = np.float32(3 * rng.normal(size=(rows, predictions, ids)))
    allowed = rng.random(ids) < 0.7
    return logits, allowed, rng.random((rows, predictions, 2), np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_ids_are_those_of_the_two_steps_written_plainly(temperature):
    logits, allowed, draw = random_case()
    ids = np.asarray(drawn(logits, allowed, temperature, draw))
    assert ids.dtype == np.int32 and len(np.unique(ids // CHUNK)) == 3
    np.testing.assert_array_equal(ids, slow_sample(logits, allowed, temperature, draw))


@functools.partial(jax.jit, static_argnums=2, compiler_options=COMPILE_FAST)
def many(logits_v, allowed_v, temperature, draws_n2):
    """Draws [n] from one distribution."""
    return jax.vmap(lambda draw: sample(logits_v[None, None], allowed_v, temperature, draw[None, None])[0, 0])(draws_n2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax_over_allowed_ids(temperature):
    logits, allowed, _ = random_case(1, 1)
    logits_v, count = logits[0, 0] / 2, 40_000
    draws = np.random.default_rng(1).random((count, 2), np.float32)
    seen = np.bincount(many(logits_v, allowed, temperature, draws), minlength=logits.size)
    weight = np.where(allowed, np.exp(np.float64(logits_v) / temperature), 0)
    expected = count * weight / weight.sum()
    often = expected >= 10
    assert often.sum() > 20 and seen[~allowed].sum() == 0
    pooled = [np.append(values[often], values[~often].sum()) for values in (seen, expected)]
    assert stats.chisquare(*pooled).pvalue > 0.001
    # The test is sharp enough to tell a temperature from one a tenth higher.
    other = np.where(allowed, np.exp(np.float64(logits_v) / (1.1 * temperature)), 0)
    other *= count / other.sum()
    assert stats.chisquare(pooled[0], np.append(other[often], other[~often].sum())).pvalue < 1e-6


@pytest.mark.parametrize("forbidden_logit", [0.0, 1e4, 1e30], ids=str)
def test_an_id_that_is_not_allowed_is_never_drawn(forbidden_logit):
    logits, allowed, draw = random_case()
    draw[0, :, 0], draw[1, :, 1], draw[2], draw[3] = 0, 0, 0, LARGEST_DRAW
    allowed[[0, CHUNK - 1, CHUNK, -1]] = False
    logits[..., ~allowed] = np.float32(forbidden_logit)
    ids = np.asarray(drawn(logits, allowed, 1.0, draw))
    assert allowed[ids].all()
    np.testing.assert_array_equal(ids[:3], slow_sample(logits, allowed, 1.0, draw)[:3])


@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 5, 3 * CHUNK - 1])
@pytest.mark.parametrize("share", [0, 0.5, LARGEST_DRAW], ids=["least", "middle", "largest"])
def test_an_id_that_is_the_only_one_allowed_is_always_drawn(place, share):
    logits, _, draw = random_case()
    ids = drawn(logits, np.arange(3 * CHUNK) == place, 1.0, np.full_like(draw, share))
    assert (np.asarray(ids) == place).all()


def test_an_id_of_probability_zero_is_never_drawn():
    logits, _, draw = random_case()
    possible = np.random.default_rng(2).random(logits.shape) < 0.1
    logits[~possible] = -1e30
    draw[0], draw[1], draw[2, :, 1] = 0, LARGEST_DRAW, LARGEST_DRAW
    ids = np.asarray(drawn(logits, np.ones(3 * CHUNK, bool), 1.0, draw))
    assert np.take_along_axis(possible, ids[..., None], axis=-1).all()


def test_huge_logits_do_not_overflow():
    logits, allowed, draw = random_case()
    best = np.where(allowed, logits, -np.inf).argmax(-1)
    np.testing.assert_array_equal(drawn(1e4 * logits, allowed, 1.0, draw), best)


@pytest.mark.parametrize("seed", range(8))
def test_rounding_of_the_running_sum_never_draws_an_impossible_id(seed):
    """A table of 128,128 ids, some chunks with one possible id, the last with none; each draw lies next to a border."""
    rng, chunks = np.random.default_rng(seed), 1001
    possible, logit = rng.random(chunks) < 0.5, 3 * rng.normal(size=chunks)
    possible[-300:] = False
    logits, allowed = np.zeros((chunks, CHUNK), np.float32), np.zeros((chunks, CHUNK), bool)
    logits[:, 0], allowed[:, 0] = logit, possible
    running = np.cumsum(np.where(possible, np.exp(logit), 0))
    borders = np.repeat(running / running[-1], 9) + np.tile(np.arange(-4, 5), chunks) * 2.0**-24
    draws = np.stack([np.clip(borders, 0, LARGEST_DRAW), np.full_like(borders, 0.5)], axis=1).astype(np.float32)
    ids = np.asarray(many(logits.reshape(-1), allowed.reshape(-1), 1.0, draws))
    assert allowed.reshape(-1)[ids].all()
    assert len(np.unique(ids)) > 0.9 * possible.sum()


@pytest.mark.parametrize("place", [0, 0.5], ids=["at its border", "in its middle"])
def test_every_id_of_every_chunk_can_be_drawn(place):
    """Equal shares: what a draw hits exactly is the share that begins there."""
    chunks, everything = 4, np.arange(4 * CHUNK)[:, None]
    shares = np.concatenate([everything // CHUNK + place, everything % CHUNK + place], axis=1) / [chunks, CHUNK]
    logits, allowed = np.zeros(chunks * CHUNK, np.float32), np.ones(chunks * CHUNK, bool)
    np.testing.assert_array_equal(many(logits, allowed, 1.0, np.float32(shares)), everything[:, 0])


def test_an_id_depends_on_its_own_numbers_only():
    logits, allowed, draw = random_case()
    logits[1, 7] = logits[3, 0] = 0
    before = np.asarray(drawn(logits, allowed, 1.0, draw))
    np.testing.assert_array_equal(drawn(logits, allowed, 1.0, draw), before)
    changed = np.zeros(before.shape, bool)
    changed[1, 7] = changed[3, 0] = True
    draw[changed] = 1 - draw[changed]
    differs = np.asarray(drawn(logits, allowed, 1.0, draw)) != before
    np.testing.assert_array_equal(differs, changed)


def test_bfloat16_logits_are_drawn_from_in_float32():
    logits, allowed, draw = random_case()
    rounded = jax.numpy.asarray(logits, jax.numpy.bfloat16)
    whole = np.asarray(rounded, np.float32)
    np.testing.assert_array_equal(drawn(rounded, allowed, 2.0, draw), drawn(whole, allowed, 2.0, draw))
