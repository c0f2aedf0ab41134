"""Published sizes: their parameters are counted from the shapes of the tree, no array is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from builders import tiny_model
from configs import base, sizes
from deberta_jax import config
from deberta_jax.dist.axes import unboxed
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.masked_lm import MaskedLM

# Millions: word table; everything else but absolute positions and heads; both. From the architecture, one decimal.
PUBLISHED = {
    "v1_base": (38.6, 100.0, 138.6),
    "v1_large": (51.5, 353.7, 405.2),
    "v1_xlarge": (51.5, 706.3, 757.8),
    "v2_xlarge": (196.8, 687.8, 884.6),
    "v2_xxlarge": (196.8, 1367.8, 1564.6),
    "v3_xsmall": (49.2, 21.5, 70.7),
    "v3_small": (98.4, 42.9, 141.3),
    "v3_base": (98.4, 85.5, 183.8),
    "v3_large": (131.2, 302.8, 434.0),
    "mdeberta_base": (192.8, 85.5, 278.2),
}
LAYERS_OF_GENERATORS = {"v3_xsmall": 6, "v3_small": 3, "v3_base": 6, "v3_large": 12, "mdeberta_base": 6}


def shapes(model):
    ids = jnp.ones((1, 8), jnp.int32)
    return unboxed(jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"]))


def size_of(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def model_of(size, **changes):
    return tiny_model(**sizes.architecture(size) | {"vocab_size": sizes.vocabulary(size)} | changes)


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_those_of_the_published_table(size):
    cfg = model_of(size, decoder="none")
    tree = shapes(Encoder(cfg))
    padding = (cfg.vocab_rows - cfg.vocab_size) * cfg.hidden_size  # our rows beyond the vocabulary
    word = tree["embeddings"]["word"].size - padding
    backbone = size_of(tree) - tree["embeddings"]["word"].size
    figures = np.array([word, backbone, word + backbone]) / 1e6
    # The table's total is the sum of its rounded columns.
    assert (np.abs(figures - PUBLISHED[size]) <= (0.0501, 0.0501, 0.1)).all(), figures


@pytest.mark.parametrize("size", sizes.SIZES)
def test_every_size_is_a_run_and_a_model(size):
    run = config.build(base.get_config(size))
    assert run.model.head_size == 64
    tree = shapes(MaskedLM(model_of(size)))
    assert size_of(tree["encoder"]["embeddings"]["position"]) == 512 * run.model.hidden_size


@pytest.mark.parametrize("size", LAYERS_OF_GENERATORS)
def test_a_generator_has_half_the_layers_and_the_same_width(size):
    whole, half = sizes.architecture(size), sizes.architecture(size + "_generator")
    assert half == whole | {"num_layers": LAYERS_OF_GENERATORS[size]}


def test_only_v2_has_a_convolution_and_only_v1_linear_distances():
    for size in sizes.SIZES:
        cfg = model_of(size)
        assert (cfg.conv_kernel_size == 3) == size.startswith("v2_")
        assert (cfg.position_buckets == 0) == size.startswith("v1_") == (not cfg.key_bias)


def test_an_unknown_size_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no size 'v3_bas'; sizes are v1_base"):
        sizes.architecture("v3_bas")
