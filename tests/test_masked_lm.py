import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from builders import COMPILE_FAST, packed_batch, scrambled, tiny_model
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.ops.vocabulary_loss import logits_of

BERT = {"pos_att_type": (), "position_biased_input": True, "decoder": "none"}


@functools.cache
def model_and_params(**changes):
    model = MaskedLM(tiny_model(**changes))
    ids = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"])
    return model, scrambled(shapes)


def forward(model, params, batch, key=None):
    """Logits, deterministic without a key."""
    return model.apply(
        {"params": params},
        batch["input_ids"],
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        masked_positions=batch["masked_positions"],
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
        method="table_logits",
    )


run = jax.jit(forward, static_argnums=0, compiler_options=COMPILE_FAST)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
@functools.partial(jax.grad, argnums=1)
def gradient_of_logsumexp(model, params, batch):
    return jax.nn.logsumexp(forward(model, params, batch), axis=-1).sum()


def at_masked(every_blv, batch):
    return np.take_along_axis(np.asarray(every_blv), batch["masked_positions"][..., None], axis=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pos_att_type": ("c2p",)},
        {"pos_att_type": ("p2c",)},
        {"pos_att_type": ()},
        {"decoder": "none"},
        BERT,
        {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0},
        {"conv_kernel_size": 3, "num_layers": 2},
        {"embedding_size": 20, "activation": "relu"},
        {"pos_att_type": ("c2p", "p2c", "p2p")},
    ],
    ids=["emd", "emd c2p", "emd p2c", "emd without relative positions", "no decoder", "BERT"]
    + ["v1", "v2", "a narrow word table", "p2p"],
)
def test_logits_are_those_of_the_slow_model_that_decodes_every_position(changes):
    model, params = model_and_params(**changes)
    batch = packed_batch(rows=3, length=40)
    logits = run(model, params, batch)
    assert logits.dtype == jnp.float32
    slow = slow_deberta.masked_lm_logits(model.cfg, params, batch["input_ids"], batch["documents"], batch["positions"])
    np.testing.assert_allclose(logits[..., :100], at_masked(slow, batch), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("changes", [{}, {"decoder": "none"}], ids=["emd", "none"])
def test_without_masked_positions_every_position_is_predicted(changes):
    model, params = model_and_params(**changes)
    batch = packed_batch(rows=3, length=40)
    inputs = (batch["input_ids"], batch["documents"], batch["positions"])
    every = jax.jit(functools.partial(model.apply, deterministic=True), compiler_options=COMPILE_FAST)(
        {"params": params}, *inputs
    )
    assert every.shape == (3, 40, 100)
    np.testing.assert_allclose(run(model, params, batch)[..., :100], at_masked(every, batch), rtol=1e-5, atol=2e-5)


def test_without_a_decoder_the_head_reads_the_output_of_the_last_layer():
    model, params = model_and_params(decoder="none")
    batch = packed_batch()

    def through_the_encoder(module):
        inputs = (batch["input_ids"], batch["documents"], batch["positions"])
        output = module.encoder(*inputs, deterministic=True)
        return logits_of(module.head(output, module.encoder.embeddings.word))

    every = jax.jit(functools.partial(model.apply, method=through_the_encoder), compiler_options=COMPILE_FAST)(
        {"params": params}
    )
    np.testing.assert_allclose(run(model, params, batch), at_masked(every, batch), rtol=1e-5, atol=2e-5)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def encoded(model, params, batch):
    return model.apply(
        {"params": params},
        method=lambda m: m.encoder(batch["input_ids"], batch["documents"], batch["positions"], deterministic=True),
    )


def test_absolute_positions_reach_the_predictions_and_not_the_encoder():
    model, params = model_and_params()
    batch = packed_batch()
    moved = jax.tree.map(np.copy, params)
    moved["encoder"]["embeddings"]["position"] = params["encoder"]["embeddings"]["position"][::-1]
    assert (np.asarray(run(model, moved, batch)) != np.asarray(run(model, params, batch))).any()
    np.testing.assert_array_equal(encoded(model, moved, batch), encoded(model, params, batch))


def test_predictions_do_not_depend_on_which_other_positions_are_predicted():
    model, params = model_and_params()
    batch = packed_batch()
    fewer = batch | {"masked_positions": batch["masked_positions"][:, ::-1][:, :3]}
    np.testing.assert_allclose(
        run(model, params, fewer), run(model, params, batch)[:, ::-1][:, :3], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("changes", [{}, {"decoder": "none"}, BERT], ids=["emd", "none", "BERT"])
def test_a_document_is_predicted_bit_for_bit_whatever_the_other_one_says(changes):
    model, params = model_and_params(**changes)
    batch = packed_batch(rows=6, predictions=24)
    batch["masked_positions"] = np.tile(np.arange(24, dtype=np.int32), (6, 1))  # every position, padding too
    first, second = batch["documents"] == 1, batch["documents"] == 2
    changed = np.where(first, (batch["input_ids"] + 7) % 100, batch["input_ids"]).astype(np.int32)
    as_users_run_it = jax.jit(forward, static_argnums=0)
    before = np.asarray(as_users_run_it(model, params, batch))
    after = np.asarray(as_users_run_it(model, params, batch | {"input_ids": changed}))
    assert (before[second] == after[second]).all()
    assert (before[first] != after[first]).any(-1).all()


@pytest.mark.parametrize("changes", [{}, BERT], ids=["emd", "BERT"])
def test_a_packed_document_is_predicted_as_if_it_stood_alone(changes):
    model, params = model_and_params(**changes)
    packed = packed_batch(rows=1)
    of_second = np.flatnonzero(packed["documents"][0] == 2)
    alone = {
        "input_ids": packed["input_ids"][:, of_second],
        "documents": np.ones((1, len(of_second)), np.int32),
        "positions": np.arange(len(of_second), dtype=np.int32)[None],
        "masked_positions": np.arange(len(of_second), dtype=np.int32)[None],
        "rows": packed["rows"],
    }
    packed["masked_positions"] = of_second[None].astype(np.int32)
    np.testing.assert_allclose(run(model, params, packed), run(model, params, alone), rtol=1e-5, atol=2e-5)


def test_ids_beyond_the_vocabulary_are_never_produced():
    model, params = model_and_params()
    params = jax.tree.map(np.copy, params)
    params["head"]["bias"][100:] = 1e4
    logits = run(model, params, packed_batch())
    assert logits.shape[-1] == 128
    assert logits.argmax(-1).max() < 100
    assert not np.asarray(jax.nn.softmax(logits))[..., 100:].any()
    gradient = gradient_of_logsumexp(model, params, packed_batch())
    assert not np.asarray(gradient["encoder"]["embeddings"]["word"])[100:].any()
    assert not np.asarray(gradient["head"]["bias"])[100:].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_position_of_padding_may_fill_an_unused_slot():
    model, params = model_and_params()
    batch = packed_batch()
    batch["documents"][0] = 0  # a row that only fills up a batch
    assert np.isfinite(run(model, params, batch)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient_of_logsumexp(model, params, batch)))


def test_dropout_bits_follow_the_global_row():
    model, params = model_and_params()
    batch = packed_batch()
    order = np.array([2, 0, 3, 1])
    key = jax.random.key(0)
    logits = run(model, params, batch, key)
    moved = run(model, params, {name: values[order] for name, values in batch.items()}, key)
    np.testing.assert_allclose(moved, logits[order], rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(logits - run(model, params, batch)))[..., :100].max() > 0.1


def test_the_head_is_tied_to_the_word_table():
    model, params = model_and_params()
    assert set(params["head"]) == {"dense", "norm", "bias"}
    batch = packed_batch()
    unused = next(i for i in range(5, 100) if i not in batch["input_ids"])
    changed = jax.tree.map(np.copy, params)
    changed["encoder"]["embeddings"]["word"][unused] += 1
    differs = np.asarray(run(model, changed, batch)) != np.asarray(run(model, params, batch))
    assert differs[..., unused].all()
    assert not np.delete(differs, unused, axis=-1).any()


def test_bfloat16_logits_are_finite_float32_and_near_float32():
    model, params = model_and_params()
    rounded, _ = model_and_params(dtype="bfloat16")
    batch = packed_batch()
    exact = np.asarray(run(model, params, batch))[..., :100]
    near = run(rounded, params, batch)
    assert near.dtype == jnp.float32
    error = np.asarray(near)[..., :100] - exact
    assert np.sqrt(np.mean(error**2)) < 0.05 * exact.std()
