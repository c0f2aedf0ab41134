"""Random numbers by counter: each is a function of (seed, number, stream, index), whatever is drawn beside it.

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"): the i-th output of the
generator with seed s is mix(s + i * GAMMA). Here the seed's generator gives each number a generator of its own, whose
outputs are drawn at any place, so a whole batch of rows is drawn at once.
"""

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)
STREAM_BITS = 32  # draws of one stream


def random_bits(seed: int, numbers_b: np.ndarray, stream: int, count: int) -> np.ndarray:
    """uint64 [b, count]: the first `count` draws of a stream for each number, both not negative."""
    key = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    state_b = _mix(key + (numbers_b.astype(np.uint64) + np.uint64(1)) * GAMMA)
    index_i = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(stream << STREAM_BITS)
    return _mix(state_b[:, None] + index_i * GAMMA)


def uniform(seed: int, numbers_b: np.ndarray, stream: int, count: int) -> np.ndarray:
    """float64 [b, count] in [0, 1): the upper 53 of the `random_bits`."""
    return (random_bits(seed, numbers_b, stream, count) >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's output function, a bijection of 64 bits; Stafford's variant 13. Arithmetic wraps around."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
