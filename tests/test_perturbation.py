import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.perturbation import (
    climbed,
    kl_divergence,
    perturbed,
    random_start,
    squared_distance,
    symmetric_cross_entropy,
)

WIDTH, DEVIATION = 40, 0.01
REAL = np.arange(30)[None] < np.array([30, 12, 1, 0, 25, 7])[:, None]
ROWS = np.array([0, 1, 2, 3, 4, 5])


def start(rows=ROWS, real=REAL, seed=0):
    return np.asarray(random_start(jax.random.key(seed), jnp.asarray(rows), real, WIDTH, DEVIATION))


def test_the_start_is_a_clipped_normal():
    values = start(range(100), np.ones((100, 30), bool)).ravel()
    assert values.dtype == np.float32
    assert np.abs(values).max() == pytest.approx(2 * DEVIATION, rel=1e-6)
    at_the_edge = (np.abs(values) > 1.999999 * DEVIATION).mean()
    assert at_the_edge == pytest.approx(math.erfc(math.sqrt(2)), rel=0.05)  # 4.55% lie beyond two deviations
    inside = np.abs(values) < DEVIATION
    assert inside.mean() == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)
    assert abs(values.mean()) < 0.02 * DEVIATION


def test_the_start_follows_the_key_and_the_rows_number():
    whole, order = start(), np.array([4, 0, 5, 1, 3, 2])
    np.testing.assert_array_equal(start(ROWS[order], REAL[order]), whole[order])
    np.testing.assert_array_equal(start(ROWS[4:], REAL[4:]), whole[4:])
    everywhere = np.ones_like(REAL)
    seen = [start(real=everywhere), start(real=everywhere, seed=1), start(ROWS + 100, everywhere)]
    flat = np.concatenate(seen).reshape(18, -1)
    assert len(np.unique(flat, axis=0)) == 18
    close = np.corrcoef(flat) - np.eye(18)
    assert np.abs(close).max() < 0.15


def test_the_start_is_zero_at_padding_only():
    assert ((start() != 0).any(-1) == REAL).all()


def slow_climb(delta, gradient, rate):
    """Token by token."""
    moved = delta.copy()
    for token in np.ndindex(delta.shape[:2]):
        largest = max(abs(entry) for entry in gradient[token])
        if math.isfinite(largest):
            moved[token] = [d + rate * g / (1e-6 + largest) for d, g in zip(delta[token], gradient[token], strict=True)]
    return moved


def random_step(seed=0):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-8, 3, (3, 5, 1))
    return np.float32(rng.normal(size=(3, 5, WIDTH))), np.float32(scale * rng.normal(size=(3, 5, WIDTH)))


@pytest.mark.parametrize("rate", [1e-4, 0.5])
def test_a_step_is_that_of_the_formula_written_plainly(rate):
    delta, gradient = random_step()
    np.testing.assert_allclose(climbed(delta, gradient, rate), slow_climb(delta, gradient, rate), rtol=1e-5, atol=1e-6)


def test_the_largest_entry_of_a_tokens_step_is_the_learning_rate():
    _, gradient = random_step()
    step = np.asarray(climbed(np.zeros_like(gradient), gradient, 0.25))
    clear = np.abs(gradient).max(-1) > 1e-2
    assert 0 < clear.sum() < clear.size
    np.testing.assert_allclose(np.abs(step).max(-1)[clear], 0.25, rtol=1e-3)
    assert (np.abs(step).max(-1)[~clear] < 0.25).all()
    assert (np.sign(step) == np.sign(gradient)).all()


def test_a_gradient_of_zero_moves_nothing():
    delta, _ = random_step()
    np.testing.assert_array_equal(climbed(delta, np.zeros_like(delta), 1.0), delta)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_token_whose_gradient_is_not_finite_stays_and_the_others_move(bad):
    delta, gradient = random_step()
    gradient = np.where(np.abs(gradient).max(-1, keepdims=True) > 1e-3, gradient, 1)
    gradient[1, 2, 7] = bad
    moved = np.asarray(climbed(delta, gradient, 0.5))
    np.testing.assert_array_equal(moved[1, 2], delta[1, 2])
    stayed = (moved == delta).all(-1)
    assert stayed.sum() == 1 and np.isfinite(moved).all()


def vectors(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    each = scale * 10.0 ** rng.integers(-1, 2, (2, 4, 1))
    x = each * rng.normal(size=(2, 4, WIDTH)) + rng.normal(size=(2, 4, 1))
    return np.float32(x), np.float32(0.3 * rng.normal(size=(2, 4, WIDTH)))


def normalised(x, epsilon):
    x = np.float64(x)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


@pytest.mark.parametrize("epsilon", [1e-12, 1e-7])
def test_normalised_again_they_are_normalised_vectors_with_delta_added(epsilon):
    """As the released code computes it, whatever the scale of the vectors."""
    x, delta = vectors()
    expected = normalised(normalised(x, epsilon) + delta, epsilon)
    np.testing.assert_allclose(normalised(perturbed(x, delta, epsilon), epsilon), expected, rtol=0, atol=1e-5)


def test_epsilon_counts_as_part_of_the_spread():
    x, delta = vectors()
    expected = x + delta * np.sqrt(np.float64(x).var(-1, keepdims=True) + 2.5)
    np.testing.assert_allclose(perturbed(x, delta, 2.5), expected, rtol=1e-5)


def test_no_delta_is_no_change_at_all():
    x, delta = vectors()
    np.testing.assert_array_equal(perturbed(x, np.zeros_like(delta), 1e-7), x)


def test_a_gradient_reaches_delta_and_not_the_vectors():
    x, delta = vectors()
    of_x, of_delta = jax.grad(lambda x, delta: perturbed(x, delta, 1e-7).sum(), argnums=(0, 1))(x, delta)
    assert not of_x.any()
    np.testing.assert_allclose(of_delta[..., 0], np.float64(x).std(-1), rtol=1e-5)


def test_half_precision_vectors_are_perturbed_in_float32():
    """A step of 1e-4 would be lost beside a bfloat16 of size 1."""
    x, delta = vectors()
    half = jnp.asarray(x, jnp.bfloat16)
    moved = perturbed(half, delta, 1e-7)
    assert moved.dtype == jnp.float32
    np.testing.assert_array_equal(moved, perturbed(half.astype(jnp.float32), delta, 1e-7))


def softmax(logits):
    shifted = np.exp(np.float64(logits) - np.float64(logits).max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def logits_pair(shape=(5, 6), seed=0):
    rng = np.random.default_rng(seed)
    return (np.float32(2 * rng.normal(size=shape)) for _ in range(2))


def slow_symmetric(moved, still):
    p, q = softmax(moved), softmax(still)
    return -(q * np.log(p)).sum(-1) - (p * np.log(q)).sum(-1)


def slow_kl(moved, still):
    p, q = softmax(moved), softmax(still)
    return (q * np.log(q / p)).sum(-1)


def slow_squares(moved, still):
    return ((np.float64(moved) - still) ** 2).sum(-1)


DISTANCES = [
    (symmetric_cross_entropy, slow_symmetric),
    (kl_divergence, slow_kl),
    (squared_distance, slow_squares),
]


@pytest.mark.parametrize(("distance", "slow"), DISTANCES)
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4), (7,)], ids=str)
def test_distances_are_those_written_plainly(distance, slow, shape):
    moved, still = logits_pair(shape)
    found = distance(moved, still)
    assert found.shape == shape[:-1] and found.dtype == jnp.float32
    np.testing.assert_allclose(found, slow(moved, still), rtol=1e-5)
    assert (np.abs(slow(moved, still) - slow(still, moved)) < 1e-9).all() == (distance is not kl_divergence)


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_equal_uniform_distributions_cost_two_entropies_and_diverge_by_nothing(classes):
    uniform = np.full((2, classes), 4, np.float32)
    np.testing.assert_allclose(symmetric_cross_entropy(uniform, uniform), 2 * math.log(classes), rtol=1e-6)
    np.testing.assert_allclose(kl_divergence(uniform, uniform), 0, atol=1e-6)


def gradients(distance, moved, still):
    return jax.grad(lambda *pair: distance(*pair).sum(), argnums=(0, 1))(moved, still)


def test_the_symmetric_distance_pulls_both_distributions_together():
    moved, still = logits_pair()
    of_moved, of_still = gradients(symmetric_cross_entropy, moved, still)
    apart = softmax(moved) - softmax(still)
    np.testing.assert_allclose(of_moved, apart, atol=1e-6)
    np.testing.assert_allclose(of_still, -apart, atol=1e-6)


def test_the_divergence_pulls_only_the_one_that_moved():
    moved, still = logits_pair()
    of_moved, of_still = gradients(kl_divergence, moved, still)
    np.testing.assert_allclose(of_moved, softmax(moved) - softmax(still), atol=1e-6)
    assert not of_still.any()


def test_the_squared_distance_pulls_both():
    moved, still = logits_pair()
    of_moved, of_still = gradients(squared_distance, moved, still)
    np.testing.assert_allclose(of_moved, 2 * (moved - still), rtol=1e-6)
    np.testing.assert_allclose(of_still, -2 * (moved - still), rtol=1e-6)


@pytest.mark.parametrize(("distance", "slow"), DISTANCES)
@pytest.mark.parametrize("never", [-1e9, -1e30])
def test_classes_that_are_masked_in_both_count_for_nothing(distance, slow, never):
    moved, still = logits_pair()
    full = [np.concatenate([each, np.full((5, 2), never, np.float32)], -1) for each in (moved, still)]
    np.testing.assert_allclose(distance(*full), slow(moved, still), rtol=1e-5)
    for masked, alone in zip(gradients(distance, *full), gradients(distance, moved, still), strict=True):
        np.testing.assert_allclose(masked[:, :6], alone, rtol=1e-5, atol=1e-7)
        assert not masked[:, 6:].any()


@pytest.mark.parametrize("distance", [symmetric_cross_entropy, kl_divergence])
def test_a_row_of_masked_classes_is_finite(distance):
    nothing = np.full((1, 4), -1e9, np.float32)
    values = (distance(nothing, nothing), *gradients(distance, nothing, nothing))
    assert all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize("distance", [symmetric_cross_entropy, kl_divergence])
def test_distances_of_half_precision_logits_are_float32(distance):
    halves = [jnp.asarray(each, jnp.bfloat16) for each in logits_pair()]
    wide = [each.astype(jnp.float32) for each in halves]
    np.testing.assert_array_equal(distance(*halves), distance(*wide))
