import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from builders import COMPILE_FAST, LEXICON, packed_batch, scrambled, tiny_pair_config
from deberta_jax.objectives import OBJECTIVES
from deberta_jax.objectives.embedding_sharing import DISCRIMINATOR, GENERATOR, embeddings_of
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.rtd import Pair, discriminator_loss, sharing_of
from deberta_jax.train.optimizer import named_leaves

MODES = ("none", "shared", "gdes")
TABLES = ("word", "position")
WORD, POSITION = (f"encoder/embeddings/{table}" for table in TABLES)


def config_of(mode, both_know_positions=True):
    """The generator has a table of absolute positions for its decoder; the discriminator may have one for its input."""
    return tiny_pair_config(
        embedding_sharing=mode,
        model={"num_layers": 1, "position_biased_input": both_know_positions},
        generator={"position_biased_input": False},
    )


@functools.cache
def two_models():
    """Whole models, each with parameters of its own."""
    config = config_of("none")
    return tuple(
        scrambled(jax.eval_shape(init_of(head, model), jax.random.key(0)), seed)
        for seed, (head, model) in enumerate([("mlm", config.rtd.generator), ("rtd", config.model)])
    )


def with_tables_of(generator, discriminator):
    tables = {table: embeddings_of(generator)[table] for table in TABLES}
    encoder = discriminator["encoder"]
    return discriminator | {"encoder": encoder | {"embeddings": encoder["embeddings"] | tables}}


@functools.cache
def fresh_shapes(mode, both_know_positions=True):
    """Boxed."""
    return jax.eval_shape(OBJECTIVES["rtd"](config_of(mode, both_know_positions), LEXICON).init, jax.random.key(0))


@functools.cache
def fresh_params(mode):
    init = jax.jit(OBJECTIVES["rtd"](config_of(mode), LEXICON).init, compiler_options=COMPILE_FAST)
    return nn.meta.unbox(jax.device_get(init(jax.random.key(0))))


def batch_with_drawn():
    batch = packed_batch()
    return batch | {"drawn": np.roll(batch["labels"], 1, axis=1)}


@functools.cache
def gradient_of(mode):
    """The discriminator's loss, differentiated for the whole pair."""
    pair = Pair.of(config_of(mode), LEXICON)

    def loss(params):
        return discriminator_loss(pair, params, batch_with_drawn(), jax.random.key(1), {"rtd": 60.0})[0]

    return jax.jit(jax.grad(loss), compiler_options=COMPILE_FAST)


def moved(tree):
    """Paths of the leaves that are not all zero."""
    return {path for path, leaf in named_leaves(tree) if np.any(leaf)}


def paths_of(tree):
    return {path for path, _ in named_leaves(tree)}


@pytest.mark.parametrize("mode", MODES)
def test_the_discriminators_gradient_reaches_the_tables_that_its_mode_says(mode):
    params = scrambled(fresh_shapes(mode))
    gradient = jax.device_get(gradient_of(mode)(params))
    assert moved(gradient[GENERATOR]) == ({WORD, POSITION} if mode == "shared" else set())
    own = {"none": {WORD, POSITION}, "shared": set(), "gdes": {WORD + "_delta", POSITION + "_delta"}}[mode]
    named = {path for path in paths_of(gradient[DISCRIMINATOR]) if path.startswith((WORD, POSITION))}
    assert named == own
    assert own < moved(gradient[DISCRIMINATOR])


def test_whatever_holds_a_table_gets_the_same_gradient():
    generator, discriminator = two_models()
    discriminator = with_tables_of(generator, discriminator)
    gradients = {}
    for mode in MODES:
        pair = sharing_of(config_of(mode)).pair(generator, discriminator)
        gradients[mode] = jax.device_get(gradient_of(mode)(pair))
    own, shared, difference = (
        embeddings_of(gradients[mode][group])
        for mode, group in [("none", DISCRIMINATOR), ("shared", GENERATOR), ("gdes", DISCRIMINATOR)]
    )
    for table in TABLES:
        largest = np.abs(own[table]).max()
        np.testing.assert_allclose(shared[table], own[table], rtol=0, atol=1e-6 * largest)
        np.testing.assert_allclose(difference[table + "_delta"], own[table], rtol=0, atol=1e-6 * largest)


def test_the_discriminators_table_is_the_generators_plus_the_difference():
    params = scrambled(fresh_shapes("gdes"))
    base, own = embeddings_of(params[GENERATOR]), embeddings_of(params[DISCRIMINATOR])
    whole = sharing_of(config_of("gdes")).discriminator(params)
    assert paths_of(whole) == paths_of(two_models()[1])
    for table in TABLES:
        np.testing.assert_array_equal(embeddings_of(whole)[table], base[table] + own[table + "_delta"])
    np.testing.assert_array_equal(embeddings_of(whole)["norm"]["scale"], own["norm"]["scale"])


def test_a_shared_table_is_the_generators_and_a_separate_one_the_discriminators():
    for mode, owner in (("shared", GENERATOR), ("none", DISCRIMINATOR)):
        params = scrambled(fresh_shapes(mode))
        whole = sharing_of(config_of(mode)).discriminator(params)
        for table in TABLES:
            np.testing.assert_array_equal(embeddings_of(whole)[table], embeddings_of(params[owner])[table])


def test_a_new_pair_starts_with_equal_tables_where_it_shares_them():
    fresh = fresh_params("gdes")
    for table in TABLES:
        assert (embeddings_of(fresh[DISCRIMINATOR])[table + "_delta"] == 0).all()
    for mode in MODES:
        fresh = fresh_params(mode)
        whole = sharing_of(config_of(mode)).discriminator(fresh)
        for table in TABLES:
            equal = embeddings_of(fresh[GENERATOR])[table] == embeddings_of(whole)[table]
            assert equal.all() if mode != "none" else not equal.any()


def test_positions_are_shared_only_where_both_models_have_them():
    for mode in MODES:
        generator, own = (embeddings_of(fresh_shapes(mode, False)[group]) for group in (GENERATOR, DISCRIMINATOR))
        assert "position" in generator and not any(name.startswith("position") for name in own)
        words = {name for name in own if name.startswith("word")}
        assert words == {"none": {"word"}, "shared": set(), "gdes": {"word_delta"}}[mode]
        whole = sharing_of(config_of(mode, False)).discriminator(scrambled(fresh_shapes(mode, False)))
        assert "word" in embeddings_of(whole) and "position" not in embeddings_of(whole)


@pytest.mark.parametrize("mode", MODES)
def test_two_whole_models_put_together_are_still_those_models(mode):
    generator, discriminator = two_models()
    if mode == "shared":
        discriminator = with_tables_of(generator, discriminator)
    sharing = sharing_of(config_of(mode))
    pair = sharing.pair(generator, discriminator)
    assert jax.tree.map(jnp.shape, pair) == jax.tree.map(jnp.shape, nn.meta.unbox(fresh_shapes(mode)))
    jax.tree.map(np.testing.assert_array_equal, pair[GENERATOR], generator)
    again = sharing.discriminator(pair)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), again, discriminator)


@pytest.mark.parametrize("mode", MODES)
def test_a_new_pair_keeps_the_names_of_all_axes(mode):
    shapes = fresh_shapes(mode)
    is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
    assert all(is_box(leaf) for leaf in jax.tree.leaves(shapes, is_leaf=is_box))
    own = embeddings_of(shapes[DISCRIMINATOR])
    for table, names in (("word", ("vocab", "embed")), ("position", ("position", "embed"))):
        assert embeddings_of(shapes[GENERATOR])[table].names == names
        held = {"none": table, "gdes": table + "_delta"}.get(mode)
        assert held is None or own[held].names == names
