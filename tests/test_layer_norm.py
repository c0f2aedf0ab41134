import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from deberta_jax.ops.layer_norm import layer_norm

SHAPE = (4, 6, 32)
EPSILON = 1e-7


def arguments(shape=SHAPE, dtype="float32", offset=0.0):
    """(x, scale, bias, slope of the output)."""
    rng = np.random.default_rng(0)
    x, slope = (jnp.asarray(rng.normal(size=shape) + each, dtype) for each in (offset, 0))
    scale, bias = (jnp.asarray(rng.normal(size=shape[-1:]), jnp.float32) for _ in range(2))
    return x, scale, bias, slope


def solved(norm, x, scale, bias, slope):
    """(output, gradients of x, scale and bias)."""
    y, pull = jax.vjp(norm, x, scale, bias)
    return y, *pull(slope)


def ours(dtype, epsilon=EPSILON):
    return lambda x, scale, bias: layer_norm(x, scale, bias, epsilon, jnp.dtype(dtype))


def flaxs(x, scale, bias):
    norm = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)
    return norm.apply({"params": {"scale": scale, "bias": bias}}, x)


def exact(x, scale, bias, slope):
    """All four in float64, token by token, the gradient of x by the matrix of derivatives."""
    x, scale, bias, slope = (np.asarray(each, np.float64) for each in (x, scale, bias, slope))
    width, y, dx = x.shape[-1], np.empty(x.shape), np.empty(x.shape)
    of_scale, of_bias = np.zeros(width), np.zeros(width)
    for token in np.ndindex(x.shape[:-1]):
        centred = x[token] - x[token].mean()
        deviation = np.sqrt((centred**2).mean() + EPSILON)
        normal = centred / deviation
        y[token] = normal * scale + bias
        derivatives = (np.eye(width) - 1 / width - np.outer(normal, normal) / width) / deviation
        dx[token] = derivatives @ (slope[token] * scale)
        of_scale += slope[token] * normal
        of_bias += slope[token]
    return y, dx, of_scale, of_bias


@pytest.mark.parametrize("epsilon", [EPSILON, 0.5])
def test_the_mean_is_zero_and_the_variance_one_before_scale_and_bias(epsilon):
    x, *_ = arguments(offset=3.0)
    y = layer_norm(x, jnp.ones(32), jnp.zeros(32), epsilon, jnp.dtype("float32"))
    variance = np.asarray(x, float).var(-1)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), variance / (variance + epsilon), rtol=1e-5)


def test_the_output_and_all_gradients_are_those_of_the_formula():
    values = arguments()
    for found, expected in zip(
        jax.jit(solved, static_argnums=0)(ours("float32"), *values), exact(*values), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_gradients_are_those_that_autodiff_finds_for_flaxs():
    values = arguments()
    for found, expected in zip(solved(ours("float32"), *values), solved(flaxs, *values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_mean_of_a_thousand_costs_no_digits_beyond_those_of_the_input():
    """Mean squares minus squared means would leave a variance of 1 among rounding errors of 0.06."""
    values = arguments(offset=1000.0)
    for found, expected in zip(solved(ours("float32"), *values), exact(*values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("inside", "out"), [("bfloat16", "bfloat16"), ("float32", "bfloat16")])
def test_only_what_is_read_and_written_is_rounded(inside, out):
    x, scale, bias, slope = arguments(dtype=inside)
    values = x, scale, bias, slope.astype(out)
    found = solved(ours(out), *values)
    assert [each.dtype for each in found] == [out, inside, "float32", "float32"]
    for each, expected in zip(found, exact(*values), strict=True):
        digits = 2**-8 if each.dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(np.asarray(each, np.float64), expected, rtol=digits, atol=1e-5)


def test_the_gradients_of_scale_and_bias_are_sums_in_float32():
    """Of one sign over 8,192 tokens, where XLA's sum in bfloat16 comes out a third too small on CPUs."""
    x, scale, bias, slope = arguments((8192, 4), "bfloat16")
    slope = jnp.where(x > 0, 1, -1).astype(slope.dtype) * jnp.abs(slope)
    _, _, of_scale, _ = jax.jit(solved, static_argnums=0)(ours("bfloat16"), x, scale, bias, slope)
    *_, of_bias = jax.jit(solved, static_argnums=0)(ours("bfloat16"), x, scale, bias, jnp.abs(slope))
    _, _, expected, _ = exact(x, scale, bias, slope)
    np.testing.assert_allclose(of_scale, expected, rtol=1e-5)
    np.testing.assert_allclose(of_bias, np.abs(np.asarray(slope, float)).sum(0), rtol=1e-5)


@pytest.mark.parametrize("split", [("x", None, None), (None, None, "x")], ids=["tokens", "width"])
def test_split_over_devices_it_is_the_same(split):
    mesh = jax.make_mesh((8,), ("x",))
    values = arguments((8, 6, 32))
    x, slope = (jax.device_put(each, NamedSharding(mesh, PartitionSpec(*split))) for each in (values[0], values[3]))
    found = jax.jit(solved, static_argnums=0)(ours("float32"), x, *values[1:3], slope)
    for each, expected in zip(found, exact(*values), strict=True):
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-5)


def test_rematerialised_it_is_the_same():
    values = arguments()
    found = jax.jit(solved, static_argnums=0)(jax.checkpoint(ours("float32")), *values)
    for each, expected in zip(found, exact(*values), strict=True):
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-5)
