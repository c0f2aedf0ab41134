import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_heads
from builders import COMPILE_FAST, packed_batch, scrambled, tiny_model
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.replaced_token import ReplacedTokenDetector, ReplacedTokenHead, first_of_document

ONE_DOCUMENT = np.ones((3, 10), np.int32)


@functools.cache
def head_and_params(**changes):
    head = ReplacedTokenHead(tiny_model(**changes))
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), jnp.ones((1, 4, 32)), ONE_DOCUMENT[:1, :4])["params"])
    return head, scrambled(shapes)


def states(rows=3, length=10):
    return np.random.default_rng(0).normal(size=(rows, length, 32)).astype(np.float32)


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_logits_are_those_of_the_formula(activation):
    head, params = head_and_params(activation=activation)
    logits = head.apply({"params": params}, states(), ONE_DOCUMENT)
    assert logits.dtype == jnp.float32
    slow = slow_heads.replaced_token_logits(params, activation, 1e-7, states(), ONE_DOCUMENT)
    np.testing.assert_allclose(logits, slow, rtol=1e-6, atol=1e-6)


def test_a_token_is_judged_by_itself_and_the_first_one():
    head, params = head_and_params()
    before = np.asarray(head.apply({"params": params}, states(), ONE_DOCUMENT))
    for changed in (0, 4):
        x_ble = states()
        x_ble[:, changed] += 1 + states()[:, 1]
        differs = before != np.asarray(head.apply({"params": params}, x_ble, ONE_DOCUMENT))
        assert differs.all() if changed == 0 else (differs == (np.arange(10) == changed)[None]).all()


# Three documents of four tokens each: one after another, padding before and between them, holes in them, interleaved.
ARRANGEMENTS = np.array(
    [
        [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 2, 2, 2, 2, 3, 3, 3, 3],
        [0, 2, 0, 2, 2, 2, 1, 1, 0, 1, 1, 3, 3, 3, 3],
        [3, 1, 2, 1, 3, 0, 2, 2, 1, 3, 1, 0, 3, 2, 0],
    ],
    np.int32,
)


def test_each_document_of_a_row_is_judged_as_if_it_were_a_row_of_its_own():
    head, params = head_and_params()
    x_ble = states(*ARRANGEMENTS.shape)
    packed = np.asarray(head.apply({"params": params}, x_ble, ARRANGEMENTS))
    places = [(row, number) for row in range(len(ARRANGEMENTS)) for number in (1, 2, 3)]
    documents = np.stack([x_ble[row][ARRANGEMENTS[row] == number] for row, number in places])
    alone = head.apply({"params": params}, documents, np.ones((len(places), 4), np.int32))
    for (row, number), logits in zip(places, alone, strict=True):
        np.testing.assert_allclose(packed[row][ARRANGEMENTS[row] == number], logits, rtol=1e-6, atol=1e-6)
    slow = slow_heads.replaced_token_logits(params, "gelu", 1e-7, x_ble, ARRANGEMENTS)
    np.testing.assert_allclose(packed[ARRANGEMENTS > 0], slow[ARRANGEMENTS > 0], rtol=1e-6, atol=1e-6)


def slow_first_of_document(document_bl):
    is_first = np.zeros((*document_bl.shape, document_bl.shape[1]), bool)
    for b, row in enumerate(document_bl.tolist()):
        for q, document in enumerate(row):
            if document > 0:
                is_first[b, q, row.index(document)] = True
    return is_first


def test_the_first_of_a_document_is_its_first_real_position():
    masks = np.random.default_rng(0).random((30, 15)) < 0.6  # with holes, padding on either side
    anywhere = np.random.default_rng(1).integers(0, 4, (30, 15))
    for document_bl in (ARRANGEMENTS, masks.astype(np.int32), anywhere, np.zeros((2, 15), np.int32)):
        np.testing.assert_array_equal(first_of_document(document_bl), slow_first_of_document(document_bl))


@functools.cache
def detector_and_params():
    model = ReplacedTokenDetector(tiny_model(num_layers=1, decoder="none"))
    ids = jnp.ones((1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"])
    return model, scrambled(shapes)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def states_and_logits(model, params, batch, key=None):
    """Deterministic without a key."""
    logits, seen = model.apply(
        {"params": params},
        batch["input_ids"],
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
        capture_intermediates=lambda module, _: isinstance(module, Encoder),
        mutable=["intermediates"],
    )
    return seen["intermediates"]["encoder"]["__call__"][0], logits


@pytest.mark.parametrize("key", [None, 0], ids=["deterministic", "training"])
def test_the_head_reads_the_encoders_output_and_drops_nothing_out(key):
    model, params = detector_and_params()
    key = None if key is None else jax.random.key(key)
    seen, logits = states_and_logits(model, params, packed_batch(), key)
    real = packed_batch()["documents"] > 0
    slow = slow_heads.replaced_token_logits(params["head"], "gelu", 1e-7, seen, packed_batch()["documents"])
    np.testing.assert_allclose(logits[real], slow[real], rtol=1e-6, atol=1e-6)


def test_dropout_bits_follow_the_global_row():
    model, params = detector_and_params()
    batch, key, order = packed_batch(), jax.random.key(0), np.array([2, 0, 3, 1])
    _, logits = states_and_logits(model, params, batch, key)
    _, moved = states_and_logits(model, params, {name: values[order] for name, values in batch.items()}, key)
    np.testing.assert_allclose(moved, logits[order], rtol=1e-5, atol=1e-5)
    _, without = states_and_logits(model, params, batch)
    assert np.abs(logits - without).max() > 0.1


def test_in_bfloat16_the_logits_are_float32_and_near():
    head, params = head_and_params()
    rounded, _ = head_and_params(dtype="bfloat16")
    near = rounded.apply({"params": params}, jnp.asarray(states(), jnp.bfloat16), ONE_DOCUMENT)
    exact = np.asarray(head.apply({"params": params}, states(), ONE_DOCUMENT))
    assert near.dtype == jnp.float32
    assert np.sqrt(np.mean((near - exact) ** 2)) < 0.05 * exact.std()
