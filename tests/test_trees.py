import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import scrambled, tiny_model
from deberta_jax.convert.trees import flattened, place_of, stacked, unstacked
from deberta_jax.model.masked_lm import MaskedLM

SIZES = [(layers, 0) for layers in (1, 2, 3, 4)] + [(layers, 3) for layers in (2, 3, 4)]


def config_of(layers, convolution):
    decoder = "none" if layers == 1 else "emd"
    return tiny_model(num_layers=layers, conv_kernel_size=convolution, decoder=decoder)


@functools.cache
def parameters(layers, convolution):
    model = MaskedLM(config_of(layers, convolution))
    ids = jnp.ones((1, 4), jnp.int32)
    return scrambled(jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"]))


def flat_of(params, layers, convolution):
    """Every layer on its own, by the layers' order alone: first, the stack, last."""
    flat = {}
    for path, leaf in flattened(params).items():
        if "/blocks/" in path:
            before = int(convolution > 0)
            assert len(leaf) == layers - 1 - before
            flat |= {path.replace("blocks", f"layers/{before + n}"): leaf[n] for n in range(len(leaf))}
        else:
            number = {"first": 0, "last": layers - 1}.get(path.split("/")[1])
            flat[path if number is None else path.replace(path.split("/")[1], f"layers/{number}", 1)] = leaf
    return flat


@pytest.mark.parametrize(("layers", "convolution"), SIZES)
def test_the_flat_form_has_the_same_values(layers, convolution):
    cfg, params = config_of(layers, convolution), parameters(layers, convolution)
    leaves = flattened(params)
    flat = flat_of(params, layers, convolution)
    assert sum(np.size(leaf) for leaf in flat.values()) == sum(np.size(leaf) for leaf in leaves.values())
    for name, values in flat.items():
        np.testing.assert_array_equal(unstacked(leaves, cfg, name), values)


@pytest.mark.parametrize(("layers", "convolution"), SIZES)
def test_stacking_gives_the_tree_back_bit_for_bit(layers, convolution):
    cfg, params = config_of(layers, convolution), parameters(layers, convolution)
    shapes = {path: leaf.shape for path, leaf in flattened(params).items()}
    again = stacked(flat_of(params, layers, convolution), shapes, cfg)
    jax.tree.map(np.testing.assert_array_equal, again, params)  # refuses another structure too
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(again))


def test_half_precision_values_become_float32():
    cfg, params = config_of(3, 0), parameters(3, 0)
    shapes = {path: leaf.shape for path, leaf in flattened(params).items()}
    halves = {name: values.astype(np.float16) for name, values in flat_of(params, 3, 0).items()}
    again = flattened(stacked(halves, shapes, cfg))
    for path, leaf in flattened(params).items():
        assert again[path].dtype == jnp.float32
        np.testing.assert_array_equal(again[path], leaf.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("layers", "convolution", "places"),
    [
        (1, 0, [("last", None)]),
        (2, 0, [("blocks", 0), ("last", None)]),
        (4, 0, [("blocks", 0), ("blocks", 1), ("blocks", 2), ("last", None)]),
        (2, 3, [("first", None), ("last", None)]),
        (4, 3, [("first", None), ("blocks", 0), ("blocks", 1), ("last", None)]),
    ],
)
def test_where_each_layer_stands(layers, convolution, places):
    cfg = config_of(layers, convolution)
    for number, (room, index) in enumerate(places):
        assert place_of(f"encoder/layers/{number}/mlp_in/bias", cfg) == (f"encoder/{room}/mlp_in/bias", index)
        assert place_of(f"layers/{number}/mlp_in/bias", cfg) == (f"{room}/mlp_in/bias", index)
    assert place_of("head/bias", cfg) == ("head/bias", None)


def test_a_name_that_the_tree_lacks_is_a_key_error():
    leaves = flattened(parameters(3, 0))
    for name in ("encoder/layers/0/attention/query/scale", "head/scale"):
        with pytest.raises(KeyError):
            unstacked(leaves, config_of(3, 0), name)
