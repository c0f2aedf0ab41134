import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import tiny_model
from deberta_jax.dist.axes import unboxed
from deberta_jax.model.layers import HeadProjection, MergeProjection, dense, output

TOKENS = (64, 128)
LAYERS = {
    "dense": (lambda cfg: dense(cfg, 24, ("embed", "mlp")), (32,)),
    "heads": (HeadProjection, (32,)),
    "merge": (MergeProjection, (2, 16)),
}


def layer_of(name, **changes):
    """(layer, inputs [64, 128, ...] of its dtype, parameters)."""
    cfg = tiny_model(**changes)
    make, width = LAYERS[name]
    layer, x = make(cfg), jnp.asarray(np.random.default_rng(0).normal(size=(*TOKENS, *width)), cfg.dtype)
    return layer, x, unboxed(layer.init(jax.random.key(0), x)["params"])


@pytest.mark.parametrize("name", LAYERS)
def test_an_output_is_the_product_and_the_bias(name):
    layer, x, params = layer_of(name)
    params["bias"] = jnp.asarray(np.random.default_rng(1).normal(size=params["bias"].shape), jnp.float32)
    inputs = np.prod(params["kernel"].shape[: x.ndim - 2])
    product = np.asarray(x, float).reshape(*TOKENS, inputs) @ np.asarray(params["kernel"], float).reshape(inputs, -1)
    expected = product + np.asarray(params["bias"], float).reshape(-1)
    np.testing.assert_allclose(layer.apply({"params": params}, x).reshape(*TOKENS, -1), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_bias_is_the_sum_over_all_tokens(name, dtype):
    """Of one sign, as with a discriminator that nearly always sees originals."""
    layer, x, params = layer_of(name, dtype=dtype)
    rng = np.random.default_rng(2)
    slope = jnp.asarray(np.abs(rng.normal(size=(*TOKENS, *params["bias"].shape))), dtype)

    def loss(params, slope):
        return (layer.apply({"params": params}, x).astype(jnp.float32) * slope).sum()

    found = jax.jit(jax.grad(loss))(params, slope)["bias"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.asarray(slope, float).sum((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_have_the_dtype_of_activations_and_parameters_are_float32(name):
    layer, x, params = layer_of(name, dtype="bfloat16")
    assert layer.apply({"params": params}, x).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", LAYERS)
def test_on_cpus_products_of_bfloat16_come_out_in_float32_first(name):
    """So that XLA calls the library that knows a CPU's bfloat16 instructions, also for gradients."""
    layer, x, params = layer_of(name, dtype="bfloat16")
    slope = jax.grad(lambda params, x: layer.apply({"params": params}, x).astype(jnp.float32).sum(), argnums=(0, 1))
    lines = jax.jit(slope).lower(params, x).as_text().splitlines()
    results = [line.partition(" -> ")[2] for line in lines if "dot_general" in line]
    assert len(results) >= 2 and all("xf32>" in result for result in results)


def test_a_layer_without_a_bias_has_none():
    cfg = tiny_model()
    layer = dense(cfg, 24, ("embed", "mlp"), use_bias=False)
    assert layer.init(jax.random.key(0), jnp.ones((1, 32)))["params"].keys() == {"kernel"}


def test_logits_are_products_of_rounded_operands_that_are_not_rounded_themselves():
    cfg = tiny_model(dtype="bfloat16")
    layer, x = output(cfg, 3), jnp.asarray(np.random.default_rng(0).normal(size=(*TOKENS, 32)), jnp.bfloat16)
    params = unboxed(layer.init(jax.random.key(0), x)["params"]) | {"bias": jnp.array([8.0, 4.1, -0.3])}
    found = layer.apply({"params": params}, x)
    assert found.dtype == jnp.float32
    kernel = np.asarray(params["kernel"].astype(jnp.bfloat16), float)
    np.testing.assert_allclose(found, np.asarray(x, float) @ kernel + np.asarray(params["bias"], float), atol=1e-5)
