import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops import dropout as ops_dropout
from deberta_jax.ops.dropout import Noise, drop_rows, dropout, kept, kept_share, shared_dropout


def noise(rows, key=0):
    return Noise(jax.random.key(key), jnp.asarray(rows))


def dropped(x):
    return np.asarray(x) == 0


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_dropped_entries_is_the_rate(rate):
    draws = 400_000
    share = dropped(dropout(jnp.ones((8, draws // 8)), rate, noise(range(8)))).mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / draws)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_kept_entries_are_scaled_so_that_the_mean_stays(rate):
    y = np.asarray(dropout(jnp.full((4, 1000), 3.0), rate, noise(range(4))))
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-6)


def murmur(seed: int, column: int) -> int:
    """The hash of one entry in Python's own integers, as an int32."""
    x = (seed ^ (column * 0x9E3779B1)) & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x - (1 << 32) if x >> 31 else x


def test_of_bfloat16_the_nearest_number_is_kept():
    """Rounded 1 / 0.9 times what is there would be 0.2 % too much of all entries."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 500)), jnp.bfloat16)
    y = np.asarray(dropout(x, 0.1, noise(range(2))))
    exact = (np.asarray(x, np.float64) / kept_share(0.1)).astype(y.dtype)
    np.testing.assert_array_equal(y[y != 0], exact[y != 0])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bits_are_the_hash_of_seed_and_column(rate):
    seeds = np.array([0, 1, -1, 2**31 - 1, -(2**31), 123456789], np.int32)
    expected = [[murmur(int(s), c) >= round(rate * 2**32) - 2**31 for c in range(40)] for s in seeds]
    np.testing.assert_array_equal(kept(seeds[:, None], jnp.arange(40, dtype=jnp.int32)[None], rate), expected)


@pytest.mark.parametrize("distance", [1, 2, 3, 8, 64])
def test_entries_of_a_line_and_of_neighbouring_lines_are_independent(distance):
    """Correlations of 1.6 million pairs: five standard deviations are 0.004."""
    mask = dropped(dropout(jnp.ones((2, 100, 65, 128)), 0.1, noise([0, 1])))
    score = (mask - mask.mean()) / mask.std()
    for axis in (1, 2, 3):
        ahead = np.take(score, range(min(distance, score.shape[axis] - 1), score.shape[axis]), axis)
        behind = np.take(score, range(ahead.shape[axis]), axis)
        assert abs((ahead * behind).mean()) < 5 / np.sqrt(ahead.size)


def test_hardware_bits_have_the_rate_and_differ_by_site():
    source = Noise(jax.random.key(0), jnp.arange(8), hardware=True)
    one, other = (dropped(dropout(jnp.ones((8, 50_000)), 0.1, source.at(site))) for site in (0, 1))
    for mask in (one, other):
        assert abs(mask.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / mask.size)
    assert abs((one & other).mean() - 0.01) < 0.001
    assert abs(dropped(shared_dropout(jnp.ones((800, 500)), 0.1, source)).mean() - 0.1) < 0.003


def test_the_kept_share_is_exact():
    assert kept_share(0.25) == 0.75
    assert kept_share(0.1) == pytest.approx(0.9, abs=2**-32)


def test_bits_depend_on_the_global_row_not_on_its_place_in_the_batch():
    x = jnp.ones((6, 50))
    whole = np.asarray(dropout(x, 0.4, noise(range(6))))
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_array_equal(dropout(x, 0.4, noise(order)), whole[order])
    np.testing.assert_array_equal(dropout(x[:2], 0.4, noise([4, 5])), whole[4:])


def test_rows_and_keys_and_sites_have_bits_of_their_own():
    x, source = jnp.ones((2, 1000)), noise([0, 1])
    masks = [dropped(row) for row in dropout(x, 0.5, source)]
    masks += [dropped(dropout(x, 0.5, n))[0] for n in (noise([0, 1], key=1), source.at(0), source.at(1))]
    masks += [dropped(dropout(x, 0.5, n))[0] for n in (source.at(0).at(1), source.at(1).at(0))]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs((one == other).mean() - 0.5) < 0.1


def test_a_shared_array_is_dropped_out_the_same_for_any_rows():
    x = jnp.ones((40, 10))
    one, other = shared_dropout(x, 0.3, noise([0, 1])), shared_dropout(x, 0.3, noise([9]))
    np.testing.assert_array_equal(one, other)
    assert abs(dropped(one).mean() - 0.3) < 0.1


@pytest.mark.parametrize("function", [dropout, shared_dropout])
def test_without_noise_or_rate_the_array_comes_back_itself(function):
    x = jnp.ones((2, 3))
    assert function(x, 0.1, None) is x
    assert function(x, 0.0, noise([0, 1])) is x


def test_the_gradient_passes_through_kept_entries_only():
    x = jnp.ones((2, 100))
    y = dropout(x, 0.5, noise([0, 1]))
    np.testing.assert_array_equal(jax.grad(lambda x: dropout(x, 0.5, noise([0, 1])).sum())(x), y)


def test_nothing_as_large_as_the_array_is_kept_for_the_gradient():
    x, seed = jnp.ones((3, 5, 40)), jnp.arange(15, dtype=jnp.int32).reshape(3, 5)
    _, pull = jax.vjp(lambda x: ops_dropout.dropped(x, seed, 0.5), x)
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) == seed.size


def test_the_dtype_stays():
    x = jnp.ones((2, 8), jnp.bfloat16)
    assert dropout(x, 0.5, noise([0, 1])).dtype == shared_dropout(x, 0.5, noise([0, 1])).dtype == jnp.bfloat16


def test_dropped_rows_are_whole_and_the_others_are_scaled_up():
    noise = Noise(jax.random.key(0), jnp.arange(4000))
    x = jnp.ones((4000, 3, 2))
    dropped = np.asarray(drop_rows(x, jnp.float32(0.25), noise))
    per_row = dropped.reshape(4000, -1)
    assert set(np.unique(per_row)) == {0, np.float32(1 / 0.75)}
    assert (per_row == per_row[:, :1]).all()
    assert abs((per_row[:, 0] == 0).mean() - 0.25) < 0.03
    assert abs(dropped.mean() - 1) < 0.03


def test_which_rows_drop_follows_the_global_row():
    x = jnp.ones((8, 2))
    whole = drop_rows(x, 0.5, Noise(jax.random.key(3), jnp.arange(8)))
    half = drop_rows(x[:4], 0.5, Noise(jax.random.key(3), jnp.arange(4, 8)))
    np.testing.assert_array_equal(whole[4:], half)
    assert drop_rows(x, 0.5, None) is x
