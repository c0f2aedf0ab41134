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
    return (x * _normal_cdf(x)).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-jnp.square(x.astype(jnp.float32)) / 2) * (1 / math.sqrt(2 * math.pi))
    return (x * cdf).astype(x.dtype), (cdf + x * density).astype(x.dtype) * dx


def _normal_cdf(x: jax.Array) -> jax.Array:
    """float32, also of a bfloat16 argument: 1 + erf cancels where x is negative."""
    return (jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5)) + 1) / 2


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": jax.nn.gelu,  # the tanh approximation
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda x: x,
}
