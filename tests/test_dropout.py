import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.dropout import Noise, drop_rows, dropout, keep_mask, shared_dropout


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
    np.testing.assert_allclose(y[y != 0], 3 / (1 - rate), rtol=1e-4)  # rates come in steps of 1 / 65536


def test_both_halves_of_a_random_word_are_independent_draws():
    keep = np.asarray(keep_mask(jax.random.key(0), 0.5, (200_000,))).reshape(-1, 2)
    assert abs(keep.mean(0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(keep.T)[0, 1]) < 0.02


def test_an_odd_number_of_entries_is_drawn_whole():
    assert keep_mask(jax.random.key(0), 0.5, (3, 7)).shape == (3, 7)
    assert keep_mask(jax.random.key(0), 0.5, ()).shape == ()


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


def test_batch_axis_says_which_axis_holds_the_rows():
    x = jnp.ones((5, 3, 40))  # rows are on axis 1
    expected = jnp.moveaxis(dropout(jnp.moveaxis(x, 1, 0), 0.3, noise([7, 8, 9])), 0, 1)
    np.testing.assert_array_equal(dropout(x, 0.3, noise([7, 8, 9]), batch_axis=1), expected)


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
