import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deberta_jax.train.adam import clip_by_global_norm, scale_by_adam

B1, B2, EPS = 0.9, 0.99, 1e-3
TRUE = jnp.array(True)


def gradients(seed: int, size: float = 1.0):
    rng = np.random.default_rng(seed)
    return {"kernel": jnp.float32(size * rng.normal(size=(3, 4))), "bias": jnp.float32(size * rng.normal(size=4))}


def assert_close(found, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=0), found, expected)


def test_directions_and_state_are_those_of_optax():
    ours, theirs = scale_by_adam(B1, B2, EPS), optax.scale_by_adam(B1, B2, EPS)
    state, expected_state = ours.init(gradients(0)), theirs.init(gradients(0))
    for seed in range(5):
        found, state = ours.update(gradients(seed), state, finite=TRUE)
        expected, expected_state = theirs.update(gradients(seed), expected_state)
        assert_close(found, expected, rtol=1e-5)
        assert_close(state, expected_state)
    assert jax.tree.structure(state) == jax.tree.structure(expected_state)


def test_what_is_not_finite_leaves_the_state_bit_for_bit():
    tx = scale_by_adam(B1, B2, EPS)
    _, before = tx.update(gradients(0), tx.init(gradients(0)), finite=TRUE)
    broken = gradients(1) | {"bias": jnp.full(4, jnp.nan)}
    _, after = tx.update(broken, before, finite=jnp.array(False))
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("limit", [0.5, float("inf")])
def test_clipping_is_that_of_optax(size, limit):
    ours, theirs = clip_by_global_norm(limit), optax.clip_by_global_norm(limit)
    given = gradients(0, size)
    assert_close(ours.update(given, ours.init(given))[0], theirs.update(given, theirs.init(given))[0])


def test_nothing_to_clip_changes_no_bit():
    given = gradients(0, 1e-3)
    found, _ = clip_by_global_norm(1.0).update(given, optax.EmptyState())
    jax.tree.map(np.testing.assert_array_equal, found, given)
