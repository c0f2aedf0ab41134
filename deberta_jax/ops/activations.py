"""Activation functions by the names of the released config files."""

import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x) with the exact erf, as the released models compute it.

    Autodiff of the library's formula keeps four arrays of x's size for the backward pass; this keeps one, the
    derivative Phi(x) + x * phi(x), which shares its erf with the value.
    """
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-x * x / 2) * (1 / math.sqrt(2 * math.pi))
    return x * cdf, (cdf + x * density) * dx


def _normal_cdf(x: jax.Array) -> jax.Array:
    return (jax.lax.erf(x * math.sqrt(0.5)) + 1) / 2


ACTIVATIONS = {"gelu": gelu, "relu": jax.nn.relu, "swish": jax.nn.swish, "tanh": jnp.tanh}
