import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from deberta_jax import config
from deberta_jax.ops.activations import ACTIVATIONS, gelu

POINTS = np.linspace(-6, 6, 241).astype(np.float32)


def test_gelu_is_x_times_the_exact_normal_distribution():
    expected = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in POINTS.astype(np.float64)]
    np.testing.assert_allclose(gelu(POINTS), expected, rtol=0, atol=1e-6)


def test_the_gradient_of_gelu_is_that_of_its_formula():
    expected = jax.vmap(jax.grad(lambda x: jax.nn.gelu(x, approximate=False)))(POINTS)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(POINTS), expected, rtol=0, atol=1e-6)
    tangent = jax.jvp(gelu, (jnp.asarray(POINTS),), (jnp.ones_like(POINTS),))[1]
    np.testing.assert_allclose(tangent, expected, rtol=0, atol=1e-6)


def test_gelu_keeps_its_negative_tail_in_bfloat16():
    points = jnp.asarray([-2.0, -3.0, -3.5, -4.0], jnp.bfloat16)
    exact = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in (-2.0, -3.0, -3.5, -4.0)]
    assert gelu(points).dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(gelu(points), np.float64), exact, rtol=0.02)
    gradient = jax.vmap(jax.grad(gelu))(points)
    assert gradient.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", config.ACTIVATIONS)
def test_every_activation_of_the_config_is_its_formula(name):
    expected = slow_deberta.ACTIVATIONS[name](POINTS.astype(np.float64))
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(POINTS)), expected, rtol=0, atol=1e-6)


def test_the_config_names_every_activation():
    assert set(config.ACTIVATIONS) == set(ACTIVATIONS)
