import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_heads
from builders import COMPILE_FAST, packed_batch, scrambled, tiny_model
from deberta_jax.config import HeadConfig
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.heads import MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier

LABELS = ("no", "maybe", "yes")
CHOICES = 3
SMALL = {"num_layers": 1, "decoder": "none"}  # what a head does does not depend on what is below it
CALM = {"hidden_dropout": 0.0, "attention_dropout": 0.0}  # so that only the head drops out


def head_config(labels=LABELS, activation="tanh", pooler=0.25, classifier=0.5):
    return HeadConfig(labels, pooler_activation=activation, pooler_dropout=pooler, classifier_dropout=classifier)


ALL_HEADS = [
    (SequenceClassifier, head_config()),
    (TokenClassifier, head_config()),
    (QuestionAnswering, None),
    (MultipleChoice, head_config()),
]


@functools.cache
def model_and_params(kind, head=None, **changes):
    cfg = tiny_model(**SMALL | changes)
    model = kind(cfg) if head is None else kind(cfg, head)
    ids = jnp.ones((1, CHOICES, 4) if kind is MultipleChoice else (1, 4), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, ids, deterministic=True)["params"])
    return model, scrambled(shapes)


def forward(model, params, inputs, key=None, rows=None):
    """Logits, deterministic without a key."""
    rngs = None if key is None else {"dropout": key}
    return model.apply({"params": params}, *inputs, deterministic=key is None, rows=rows, rngs=rngs)


run = jax.jit(forward, static_argnums=0, compiler_options=COMPILE_FAST)


@functools.partial(jax.jit, static_argnums=0, compiler_options=COMPILE_FAST)
def states_and_logits(model, params, inputs):
    """What the encoder gave to the head, and what the head made of it."""
    logits, seen = model.apply(
        {"params": params},
        *inputs,
        deterministic=True,
        capture_intermediates=lambda module, _: isinstance(module, Encoder),
        mutable=["intermediates"],
    )
    return seen["intermediates"]["encoder"]["__call__"][0], logits


def inputs_of(batch):
    return batch["input_ids"], batch["documents"], batch["positions"]


def choices_of(rows=2, length=24):
    """[b, c, l] each."""
    flat = inputs_of(packed_batch(rows=rows * CHOICES, length=length))
    return tuple(each.reshape(rows, CHOICES, length) for each in flat)


def assert_close(logits, slow):
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, slow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_sequence_is_classified_by_its_first_token(activation):
    model, params = model_and_params(SequenceClassifier, head_config(activation=activation))
    states, logits = states_and_logits(model, params, inputs_of(packed_batch()))
    assert_close(logits, slow_heads.sequence_logits(params, activation, states))
    assert logits.shape == (4, 3)


def test_every_token_gets_its_labels():
    model, params = model_and_params(TokenClassifier, head_config())
    states, logits = states_and_logits(model, params, inputs_of(packed_batch()))
    assert_close(logits, slow_heads.token_logits(params, states))
    assert logits.shape == (4, 24, 3)


def test_an_answer_starts_and_ends_where_two_outputs_say():
    model, params = model_and_params(QuestionAnswering)
    states, logits = states_and_logits(model, params, inputs_of(packed_batch()))
    for ours, slow in zip(logits, slow_heads.span_logits(params, states), strict=True):
        assert_close(ours, slow)
        assert ours.shape == (4, 24)


def test_each_choice_gets_a_score():
    model, params = model_and_params(MultipleChoice, head_config())
    states, logits = states_and_logits(model, params, choices_of())
    assert states.shape == (2 * CHOICES, 24, 32)
    assert_close(logits, slow_heads.choice_logits(params, "tanh", states, CHOICES))
    assert logits.shape == (2, CHOICES)


def test_a_choice_is_scored_as_a_sequence_with_one_label_would_be():
    model, params = model_and_params(MultipleChoice, head_config())
    one_label = SequenceClassifier(model.cfg, head_config(labels=("score",)))
    inputs = choices_of()
    flat = tuple(each.reshape(-1, each.shape[-1]) for each in inputs)
    _, scores = states_and_logits(model, params, inputs)
    np.testing.assert_allclose(scores.reshape(-1, 1), run(one_label, params, flat), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "head"), ALL_HEADS)
def test_positions_and_types_reach_the_encoder(kind, head):
    model, params = model_and_params(kind, head, position_biased_input=True, type_vocab_size=2)
    ids, documents, positions = choices_of() if kind is MultipleChoice else inputs_of(packed_batch())
    types = (ids % 2).astype(np.int32)
    logits = run(model, params, (ids, documents, positions, types))
    for other in ((ids, documents, positions, 1 - types), (ids, documents, positions + 1, types)):
        differs = jax.tree.map(lambda one, two: np.abs(one - two).max() > 1e-3, logits, run(model, params, other))
        assert all(jax.tree.leaves(differs))


def passing_states_through(kind, head, **changes):
    """A model whose head hands out states as they are: its layers are unit matrices, its activation does nothing."""
    model, params = model_and_params(kind, head, **CALM | changes)
    params = jax.tree.map(np.copy, params)
    for name in {"pooler", "classifier"} & params.keys():
        layer = params[name].get("dense", params[name])
        layer["kernel"] = np.eye(*layer["kernel"].shape, dtype=np.float32)
        layer["bias"][:] = 0
    return model, params


def share_and_scale(logits, states):
    """(share of dropped entries, by how much the others grew); a state is never exactly zero."""
    logits, states = np.asarray(logits), np.asarray(states)
    kept = logits != 0
    ratio = logits[kept] / states[kept]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    return 1 - kept.mean(), ratio[0]


ALL_STATES = tuple(f"state {i}" for i in range(32))  # as many labels as states


@pytest.mark.parametrize(("pooler", "classifier"), [(0.25, 0.0), (0.25, 0.5)])
def test_pooler_and_classifier_drop_out_at_their_own_rates(pooler, classifier):
    head = head_config(ALL_STATES, "linear", pooler, classifier)
    model, params = passing_states_through(SequenceClassifier, head)
    inputs = inputs_of(packed_batch(rows=64))
    states, without = states_and_logits(model, params, inputs)
    np.testing.assert_allclose(without, states[:, 0], rtol=1e-6)
    share, scale = share_and_scale(run(model, params, inputs, jax.random.key(1)), states[:, 0])
    kept = (1 - pooler) * (1 - classifier)  # the two masks are independent
    assert abs(share - (1 - kept)) < 5 * np.sqrt(0.25 / (64 * 32))
    np.testing.assert_allclose(scale, 1 / kept, rtol=1e-4)


def test_tokens_are_dropped_out_before_their_labels():
    head = head_config(ALL_STATES, "linear", pooler=0.9, classifier=0.5)
    model, params = passing_states_through(TokenClassifier, head)
    inputs = inputs_of(packed_batch(rows=8))
    states, _ = states_and_logits(model, params, inputs)
    share, scale = share_and_scale(run(model, params, inputs, jax.random.key(1)), states)
    assert abs(share - 0.5) < 5 * np.sqrt(0.25 / states.size)
    np.testing.assert_allclose(scale, 2, rtol=1e-4)


def test_every_choice_drops_out_on_its_own():
    head = head_config(LABELS, "linear", pooler=0.25, classifier=0.5)
    model, params = passing_states_through(MultipleChoice, head)
    one = inputs_of(packed_batch(rows=1))
    inputs = tuple(np.tile(each[:, None], (400, CHOICES, 1)) for each in one)  # the same row, again and again
    logits = np.asarray(run(model, params, inputs, jax.random.key(1)))
    dropped = logits == 0
    kept = 0.75 * 0.5
    assert abs(dropped.mean() - (1 - kept)) < 5 * np.sqrt(0.25 / logits.size)
    (value,) = np.unique(run(model, params, tuple(each[:1] for each in inputs)))
    np.testing.assert_allclose(logits[~dropped], value / kept, rtol=1e-4)
    assert np.abs(np.corrcoef(dropped.T) - np.eye(CHOICES)).max() < 0.25
    shifted = np.corrcoef(dropped.reshape(-1)[CHOICES - 1 : -1], dropped.reshape(-1)[CHOICES:])
    assert abs(shifted[0, 1]) < 0.25  # nor do the last choice of a row and the first of the next go together


@pytest.mark.parametrize(("kind", "head"), ALL_HEADS)
def test_dropout_bits_follow_the_global_row(kind, head):
    model, params = model_and_params(kind, head)
    inputs = choices_of(rows=4) if kind is MultipleChoice else inputs_of(packed_batch())
    order, rows, key = np.array([2, 0, 3, 1]), np.arange(10, 14, dtype=np.int32), jax.random.key(0)
    logits = run(model, params, inputs, key, rows)
    moved = run(model, params, tuple(each[order] for each in inputs), key, rows[order])
    stayed = run(model, params, tuple(each[order] for each in inputs), key, rows)
    for one, two, other in zip(*map(jax.tree.leaves, (logits, moved, stayed)), strict=True):
        np.testing.assert_allclose(two, one[order], rtol=1e-5, atol=1e-5)
        assert np.abs(other - one[order]).max() > 0.01


def test_an_answer_is_read_from_states_that_are_not_dropped_out():
    model, params = model_and_params(QuestionAnswering, **CALM)
    inputs = inputs_of(packed_batch())
    for one, two in zip(run(model, params, inputs), run(model, params, inputs, jax.random.key(0)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "head"), ALL_HEADS)
def test_in_bfloat16_the_logits_are_float32(kind, head):
    model, params = model_and_params(kind, head, dtype="bfloat16")
    inputs = choices_of() if kind is MultipleChoice else inputs_of(packed_batch())
    logits = jax.eval_shape(lambda: forward(model, params, inputs))
    assert {leaf.dtype for leaf in jax.tree.leaves(logits)} == {jnp.dtype("float32")}


def test_in_bfloat16_the_logits_are_near():
    exact, params = model_and_params(SequenceClassifier, head_config())
    rounded, _ = model_and_params(SequenceClassifier, head_config(), dtype="bfloat16")
    logits, near = (run(model, params, inputs_of(packed_batch())) for model in (exact, rounded))
    assert np.sqrt(np.mean((near - logits) ** 2)) < 0.05 * np.std(logits)
