"""LayerNorm (Ba et al. 2016) whose gradient is written out, so that it passes the memory as seldom as it can.

Autodiff of the formula writes float32 arrays as large as the activations and reads them once for each sum over tokens.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(x: jax.Array, scale_e: jax.Array, bias_e: jax.Array, epsilon: float, dtype: jnp.dtype) -> jax.Array:
    """`x` [..., e] with mean 0 and variance 1 along its last axis, times `scale_e` plus `bias_e`; of `dtype`.

    Statistics and sums are float32, the variance that of `x` minus its mean (mean squares minus squared means lose
    digits). The gradient of `x` has its dtype; those of scale and bias are summed in float32.
    """
    return _forward(x, scale_e, bias_e, epsilon, dtype)[0]


def _forward(x, scale_e, bias_e, epsilon, dtype):
    mean = x.astype(jnp.float32).mean(-1, keepdims=True)
    centred = x.astype(jnp.float32) - mean
    factor = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    y = centred * (factor * _of_each(scale_e, x)) + _of_each(bias_e, x)
    return y.astype(dtype), (x, scale_e, mean, factor)


def _backward(epsilon, dtype, residuals, slope):
    """With n the normalised `x` and s the slope times the scale: (s - mean(s) - n mean(s n)) / deviation.

    The barriers keep the means, one number a token: XLA's fusions for GPUs would find them anew for each result, by
    kernels that then cannot sum over tokens as well. As it is, one reads `x` and the slope for the means, another reads
    them for all three gradients.
    """
    x, scale_e, *statistics = residuals
    mean, factor = jax.lax.optimization_barrier(statistics)
    slope, tokens = slope.astype(jnp.float32), tuple(range(x.ndim - 1))
    normal = (x.astype(jnp.float32) - mean) * factor
    scaled = slope * _of_each(scale_e, x)
    means = [scaled.mean(-1, keepdims=True), (scaled * normal).mean(-1, keepdims=True)]
    constant, along = jax.lax.optimization_barrier(means)
    dx = (scaled - constant - normal * along) * factor
    return dx.astype(x.dtype), (slope * normal).sum(tokens), slope.sum(tokens)


def _of_each(parameter_e: jax.Array, x: jax.Array) -> jax.Array:
    """[1, ..., e], to go with every token of `x`."""
    return parameter_e.reshape((1,) * (x.ndim - 1) + parameter_e.shape)


layer_norm.defvjp(_forward, _backward)
