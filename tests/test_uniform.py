"""Random numbers by counter: the published generator, and no trace of seed, number, stream or index in its draws."""

import itertools

import numpy as np
import pytest

from deberta_jax.data.uniform import random_bits, uniform

GAMMA, WORD = 0x9E3779B97F4A7C15, 1 << 64


def splitmix64(state: int) -> int:
    """The output of the published generator at a state, in whole numbers of Python."""
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % WORD
    state = (state ^ state >> 27) * 0x94D049BB133111EB % WORD
    return state ^ state >> 31


def test_the_slow_generator_is_the_published_one():
    """The outputs of Vigna's splitmix64.c for seed 1234567."""
    outputs = [splitmix64((1234567 + i * GAMMA) % WORD) for i in range(1, 4)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_each_number_has_the_published_generator_seeded_by_that_of_the_seed():
    numbers = [0, 1, 5, (1 << 48) + 3]
    key = int(np.random.SeedSequence(11).generate_state(1, np.uint64)[0])
    for stream in (0, 3):
        bits = random_bits(11, np.array(numbers), stream, 7)
        assert bits.dtype == np.uint64
        for number, drawn in zip(numbers, bits.tolist(), strict=True):
            own = splitmix64((key + (number + 1) * GAMMA) % WORD)
            expected = [splitmix64((own + (i + (stream << 32)) * GAMMA) % WORD) for i in range(1, 8)]
            assert drawn == expected


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it():
    together = random_bits(5, np.arange(100), 1, 50)
    np.testing.assert_array_equal(random_bits(5, np.arange(40, 50), 1, 20), together[40:50, :20])
    np.testing.assert_array_equal(random_bits(5, np.array([99]), 1, 50), together[99:])
    assert random_bits(5, np.arange(3), 1, 0).shape == (3, 0)


def test_uniform_numbers_are_the_upper_bits_as_a_fraction():
    numbers = np.arange(200)
    drawn = uniform(2, numbers, 4, 300)
    np.testing.assert_array_equal(drawn, random_bits(2, numbers, 4, 300).astype(object) // 2**11 / 2**53)
    assert 0 <= drawn.min() < 1e-3 and 1 - 1e-3 < drawn.max() < 1


VIEWS = {  # a million draws each, in the order of one coordinate
    "numbers": lambda: random_bits(0, np.arange(1 << 20), 0, 1)[:, 0],
    "far numbers": lambda: random_bits(0, np.arange(1 << 20) * 4096 + (1 << 50), 0, 1)[:, 0],
    "indices": lambda: random_bits(0, np.array([3]), 0, 1 << 20)[0],
    "rows": lambda: random_bits(0, np.arange(1 << 13), 0, 128).reshape(-1),
    "seeds": lambda: np.concatenate([random_bits(s, np.arange(1 << 10), 0, 16).reshape(-1) for s in range(64)]),
    "streams": lambda: np.stack([random_bits(0, np.arange(1 << 18), s, 1)[:, 0] for s in range(4)], 1).reshape(-1),
}


@pytest.mark.parametrize("view", VIEWS)
def test_draws_are_uniform_in_their_upper_and_in_their_lower_bits(view):
    bits = VIEWS[view]()
    assert len(np.unique(bits)) == len(bits)
    for part in (bits >> np.uint64(54), bits & np.uint64(1023)):
        count = np.bincount(part.astype(np.int64), minlength=1024)
        statistic = ((count - count.mean()) ** 2).sum() / count.mean()
        assert abs(statistic - 1023) < 4.5 * np.sqrt(2 * 1023)


@pytest.mark.parametrize("view", VIEWS)
def test_neighbouring_draws_are_independent(view):
    """A two-dimensional chi-square of each draw with the one at some distance, and their correlation."""
    bits = VIEWS[view]()
    for lag in (1, 2, 128):
        first, second = (bits[:-lag] >> np.uint64(59)).astype(int), (bits[lag:] >> np.uint64(59)).astype(int)
        count = np.bincount(32 * first + second, minlength=1024)
        statistic = ((count - count.mean()) ** 2).sum() / count.mean()
        assert abs(statistic - 1023) < 4.5 * np.sqrt(2 * 1023)
        assert abs(np.corrcoef(bits[:-lag], bits[lag:])[0, 1]) < 4.5 / np.sqrt(len(bits))


def test_seeds_numbers_streams_and_indices_share_no_draw():
    draws = [random_bits(seed, np.arange(300), stream, 200) for seed, stream in itertools.product(range(5), range(5))]
    assert len(np.unique(draws)) == 25 * 300 * 200


def test_every_bit_of_the_number_turns_half_of_the_bits_drawn():
    numbers = np.random.default_rng(0).integers(1 << 50, size=2000)
    for bit in range(50):
        turned = random_bits(0, numbers, 0, 1) ^ random_bits(0, numbers ^ (1 << bit), 0, 1)
        share = np.unpackbits(turned.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(2000)
