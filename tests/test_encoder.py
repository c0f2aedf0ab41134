import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from builders import COMPILE_FAST, packed_batch, scrambled, tiny_model
from deberta_jax.model import attention
from deberta_jax.model.encoder import SITE_MLP_PATH, Block, Embeddings, Encoder
from deberta_jax.ops.dropout import Noise, drop_rows


@functools.cache
def encoder_and_params(**changes):
    model = Encoder(tiny_model(**changes))
    ids = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"])
    return model, scrambled(shapes)


def forward(model, params, ids, documents, positions=None, types=None, *, rows=None, key=None, all_hidden_states=False):
    """Deterministic without a key."""
    rngs = None if key is None else {"dropout": key}
    return model.apply(
        {"params": params},
        ids,
        documents,
        positions,
        types,
        deterministic=key is None,
        rows=rows,
        all_hidden_states=all_hidden_states,
        rngs=rngs,
    )


optimized = functools.partial(jax.jit, static_argnums=0, static_argnames="all_hidden_states")
encode = optimized(forward, compiler_options=COMPILE_FAST)


def inputs_of(batch):
    return batch["input_ids"], batch["documents"], batch["positions"]


ARCHITECTURES = {
    "DeBERTa": {},
    "content to position alone": {"pos_att_type": ("c2p",)},
    "position to content alone": {"pos_att_type": ("p2c",)},
    "position to position alone": {"pos_att_type": ("p2p",)},
    "all three terms": {"pos_att_type": ("c2p", "p2c", "p2p")},
    "BERT": {"pos_att_type": (), "position_biased_input": True, "decoder": "none", "type_vocab_size": 2},
    "v1": {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0},
    "v1 with position to position": {
        **{"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0},
        "pos_att_type": ("p2p",),
    },
    "v2": {"conv_kernel_size": 3},
    "v2 of two layers, wide groups, tanh": {
        **{"conv_kernel_size": 5, "conv_groups": 4, "conv_act": "tanh", "num_layers": 2, "share_att_key": False}
    },
    "distances that are not clamped": {"clamp_distance": False},
    "a narrow word table": {"embedding_size": 20, "type_vocab_size": 3},
    "large heads": {"attention_head_size": 24, "activation": "swish"},
}


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_hidden_state_is_that_of_the_loops(changes):
    model, params = encoder_and_params(**changes)
    batch = packed_batch(rows=2, length=40)  # longer than the 8 buckets and the distance limit of 16
    types = batch["input_ids"] % max(model.cfg.type_vocab_size, 1)
    output, states = encode(model, params, *inputs_of(batch), types, all_hidden_states=True)
    expected = slow_deberta.encoder_states(model.cfg, params, *inputs_of(batch), types)
    assert len(states) == len(expected) == model.cfg.num_layers + 1
    for state, slow in zip(states, expected, strict=True):
        np.testing.assert_allclose(state, slow, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(output, states[-1])


def test_hidden_states_on_request_change_no_number():
    model, params = encoder_and_params()
    batch = packed_batch()
    output, _ = encode(model, params, *inputs_of(batch), all_hidden_states=True)
    np.testing.assert_allclose(encode(model, params, *inputs_of(batch)), output, rtol=0, atol=1e-6)


def test_the_scan_is_the_blocks_one_by_one():
    model, params = encoder_and_params()
    batch = packed_batch()
    _, states = encode(model, params, *inputs_of(batch), all_hidden_states=True)
    table = model.apply({"params": params}, method="table")
    block = jax.jit(Block(model.cfg).apply, compiler_options=COMPILE_FAST)
    x = states[0]
    for layer in range(model.cfg.num_layers - 1):
        sliced = {"params": jax.tree.map(lambda leaf, n=layer: leaf[n], params["blocks"])}
        x, _ = block(sliced, x, layer, table, batch["documents"], None)
        np.testing.assert_allclose(x, states[layer + 1], rtol=0, atol=1e-5)
    x, _ = block({"params": params["last"]}, x, model.cfg.num_layers - 1, table, batch["documents"], None)
    np.testing.assert_allclose(x, states[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 7, 64])
def test_padding_leaves_real_tokens_unchanged(padding):
    model, params = encoder_and_params()
    ids = np.random.default_rng(0).integers(5, 100, (2, 20))
    bare = encode(model, params, ids, np.ones_like(ids))
    end = ((0, 0), (0, padding))
    padded_ids = np.pad(ids, end, constant_values=9)  # whatever stands there
    padded = encode(model, params, padded_ids, np.pad(np.ones_like(ids), end))
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded[:, :20], bare, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position_biased_input", [False, True])
def test_embeddings_are_zero_at_padding(position_biased_input):
    decoder = "none" if position_biased_input else "emd"
    model, params = encoder_and_params(position_biased_input=position_biased_input, decoder=decoder)
    batch = packed_batch()
    real = batch["documents"] > 0
    embeddings = Embeddings(model.cfg)
    x = np.asarray(
        embeddings.apply({"params": params["embeddings"]}, batch["input_ids"], real, batch["positions"], None, None)
    )
    assert not x[~real].any()
    assert (x[real] != 0).all()


@pytest.mark.parametrize("key", [None, 0])
def test_permuting_the_batch_permutes_the_outputs_dropout_included(key):
    model, params = encoder_and_params()
    batch = packed_batch()
    order = np.array([2, 0, 3, 1])
    key = None if key is None else jax.random.key(key)
    output = encode(model, params, *inputs_of(batch), rows=batch["rows"], key=key)
    moved = {name: values[order] for name, values in batch.items()}
    again = encode(model, params, *inputs_of(moved), rows=moved["rows"], key=key)
    np.testing.assert_allclose(again, output[order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("conv_kernel_size", [0, 3])
def test_a_document_never_sees_the_other_document_of_its_row(conv_kernel_size):
    model, params = encoder_and_params(conv_kernel_size=conv_kernel_size)
    batch = packed_batch()
    first = batch["documents"] == 1
    changed = np.where(first, (batch["input_ids"] + 7) % 100, batch["input_ids"])
    as_users_run_it = optimized(forward)
    before = np.asarray(as_users_run_it(model, params, *inputs_of(batch)))
    after = np.asarray(as_users_run_it(model, params, changed, batch["documents"], batch["positions"]))
    assert (before[batch["documents"] == 2] == after[batch["documents"] == 2]).all()
    assert (before[first] != after[first]).any()


def test_positions_count_from_zero_unless_given():
    model, params = encoder_and_params(position_biased_input=True, decoder="none")
    batch = packed_batch()
    counted = np.tile(np.arange(24), (4, 1))
    given = encode(model, params, batch["input_ids"], batch["documents"], counted)
    np.testing.assert_array_equal(encode(model, params, batch["input_ids"], batch["documents"]), given)


def test_dropout_is_a_function_of_the_key_and_off_without_one():
    model, params = encoder_and_params()
    batch = packed_batch()
    drop = functools.partial(encode, model, params, *inputs_of(batch))
    one = drop(key=jax.random.key(1))
    np.testing.assert_array_equal(one, drop(key=jax.random.key(1)))
    assert (np.asarray(one) != np.asarray(drop(key=jax.random.key(2)))).any()
    assert (np.asarray(one) != np.asarray(drop())).any()


def test_every_layer_draws_dropout_bits_of_its_own():
    model, params = encoder_and_params(attention_dropout=0.0, hidden_dropout=0.5)
    block = jax.jit(Block(model.cfg).apply, compiler_options=COMPILE_FAST)
    source = Noise(jax.random.key(0), jnp.arange(2))
    x, documents = jnp.ones((2, 4, 32)), jnp.ones((2, 4), jnp.int32)
    first, second, again = (
        block({"params": params["last"]}, x, n, params["relative"], documents, source)[0] for n in (0, 1, 0)
    )
    assert (np.asarray(first) != np.asarray(second)).any()
    np.testing.assert_array_equal(first, again)


def test_stochastic_depth_drops_the_branches_of_rows_and_more_of_them_higher_up():
    model, params = encoder_and_params(stochastic_depth=0.8, hidden_dropout=0.0, attention_dropout=0.0, num_layers=4)
    ids = np.tile(np.random.default_rng(0).integers(5, 100, (1, 3)), (2000, 1))  # one row, many times
    _, states = encode(model, params, ids, np.ones_like(ids), key=jax.random.key(0), all_hidden_states=True)
    kinds = [len(np.unique(np.round(np.asarray(state)[:, 0, 0], 4))) for state in states]
    assert kinds[0] == 1 and kinds[1] == 4  # each of the layer's two branches is there or not
    for layer in range(4):
        branch = drop_rows(jnp.ones((2000, 1)), 0.8 * (layer + 1) / 4, layer_noise(layer).at(SITE_MLP_PATH))
        assert abs((np.asarray(branch) == 0).mean() - 0.2 * (layer + 1)) < 0.04
    off = encode(model, params, ids[:2], np.ones_like(ids[:2]))
    plain, _ = encoder_and_params(num_layers=4)
    np.testing.assert_array_equal(off, encode(plain, params, ids[:2], np.ones_like(ids[:2])))


def layer_noise(layer):
    return Noise(jax.random.key(0), jnp.arange(2000)).at(layer)


def test_remat_policies_change_memory_and_not_gradients():
    batch = packed_batch()

    @functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
    @functools.partial(jax.grad, argnums=1)
    def gradient(model, params):
        output = forward(model, params, *inputs_of(batch), rows=batch["rows"], key=jax.random.key(0))
        return (output[..., 0] ** 3).sum()

    gradients = {policy: gradient(*encoder_and_params(remat=policy)) for policy in ("none", "dots", "full")}
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients["none"]))
    for policy in ("dots", "full"):
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * largest),
            gradients[policy],
            gradients["none"],
        )


def test_bfloat16_is_finite_and_near_float32():
    model, params = encoder_and_params()
    rounded, _ = encoder_and_params(dtype="bfloat16")
    batch = packed_batch()
    exact = np.asarray(encode(model, params, *inputs_of(batch)))
    near = encode(rounded, params, *inputs_of(batch))
    assert near.dtype == jnp.bfloat16
    near = np.asarray(near, np.float32)
    assert np.isfinite(near).all()
    assert np.sqrt(np.mean((near - exact) ** 2)) < 0.03 * exact.std()


def test_a_length_above_the_position_table_is_fine_without_absolute_positions():
    model, params = encoder_and_params(max_position_embeddings=8, decoder="none")
    ids = np.random.default_rng(0).integers(5, 100, (1, 30))
    assert "position" not in params["embeddings"]
    assert np.isfinite(encode(model, params, ids, np.ones_like(ids))).all()


@pytest.mark.parametrize("buckets", [256, 7, 0])
@pytest.mark.parametrize("length", [1, 13, 128, 512])
def test_the_part_of_the_table_that_is_projected_holds_all_distances_in_lines_of_eight(length, buckets):
    cfg = tiny_model(position_buckets=buckets, max_relative_positions=512)
    seen, row_n = attention._rows_seen(cfg, length), attention._rows(cfg, length)
    assert seen.start >= 0 and seen.stop <= cfg.relative_rows
    assert row_n.min() >= 0 and row_n.max() < seen.stop - seen.start
    assert (seen.stop - seen.start) % 8 == 0 or seen.stop == cfg.relative_rows
    assert seen.stop - seen.start < row_n.max() - row_n.min() + 1 + 2 * 8
