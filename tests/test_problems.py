"""What is captured of a model is what it computes: its values, mixed by these probabilities, give its layers' outputs.

All but the mixing is done by the model's own modules.
"""

import functools

import jax
import numpy as np
import pytest

from builders import COMPILE_FAST, packed_batch, scrambled, tiny_model
from deberta_jax.model.encoder import Block, Convolution, Encoder, scanned_layers
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.problems import decoder_problems, encoder_problems
from deberta_jax.objectives.models import init_of
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.attention import reference
from deberta_jax.ops.attention.softmax import mix
from deberta_jax.ops.vocabulary_loss import logits_of

BATCH = packed_batch(rows=2, length=20)
ROWS = BATCH["input_ids"], BATCH["documents"]
PLACES = np.broadcast_to(np.arange(20), (2, 20))
KINDS = {
    "v3, recomputed in training": {"remat": "full"},
    "v2 with its convolution and every term": {"conv_kernel_size": 3, "pos_att_type": ("c2p", "p2c", "p2p")},
    "v1, layers written out": {
        **{"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none"},
        **{"position_buckets": 0, "scan_layers": False},
    },
    "plain, one layer": {"pos_att_type": (), "position_biased_input": True, "decoder": "none", "num_layers": 1},
}


def params_of(head, cfg):
    return scrambled(jax.eval_shape(init_of(head, cfg), jax.random.key(0)))


def layers_of(params, cfg):
    """Each layer's parameters."""
    first = [params["first"]] if cfg.conv_kernel_size else []
    scanned = [jax.tree.map(lambda leaf, n=n: leaf[n], params["blocks"]) for n in range(scanned_layers(cfg))]
    return [*first, *scanned, params["last"]]


def finished(cfg, params, x_ble, problem):
    """A layer's output from its input and values mixed by probabilities."""
    mixed_blhd = mix(reference.probabilities(problem), problem.v_bkhd)
    return finish_of(cfg)({"params": params}, x_ble, mixed_blhd)


@functools.cache
def finish_of(cfg):
    def finish(block, x_ble, mixed_blhd):
        x_ble = block.attention_norm(x_ble + block.attention.output(mixed_blhd))
        return block.mlp_norm(x_ble + block.mlp_out(ACTIVATIONS[cfg.activation](block.mlp_in(x_ble))))

    return jax.jit(functools.partial(Block(cfg).apply, method=finish), compiler_options=COMPILE_FAST)


def states_of(cfg, params):
    """[layers + 1, b, l, e]"""
    apply = functools.partial(Encoder(cfg).apply, deterministic=True, all_hidden_states=True)
    return jax.jit(apply, compiler_options=COMPILE_FAST)({"params": params}, *ROWS)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_probabilities_of_each_layer_give_its_output(kind):
    cfg = tiny_model(**KINDS[kind])
    params = params_of("encoder", cfg)
    problems, states = encoder_problems(Encoder(cfg), params, *ROWS), states_of(cfg, params)
    assert len(problems) == cfg.num_layers and problems[0].terms == cfg.pos_att_type
    for number, (problem, of_layer) in enumerate(zip(problems, layers_of(params, cfg), strict=True)):
        y_ble = finished(cfg, of_layer, states[number], problem)
        if cfg.conv_kernel_size and number == 0:
            convolved = Convolution(cfg).apply
            y_ble = convolved({"params": params["convolution"]}, states[0], y_ble, BATCH["documents"], None)
        real = BATCH["documents"] > 0
        np.testing.assert_allclose(y_ble[real], states[number + 1][real], rtol=0, atol=1e-5)


def test_in_bfloat16_as_near_as_its_digits_allow():
    cfg = tiny_model(dtype="bfloat16", num_layers=1, decoder="none")
    params = params_of("encoder", cfg)
    problems, states = encoder_problems(Encoder(cfg), params, *ROWS), states_of(cfg, params)
    assert {str(problem.q_bqhd.dtype) for problem in problems} == {"bfloat16"}
    for number, (problem, of_layer) in enumerate(zip(problems, layers_of(params, cfg), strict=True)):
        both = finished(cfg, of_layer, states[number], problem), states[number + 1]
        found, expected = (np.asarray(x, np.float32) for x in both)
        assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_the_decoders_passes_give_the_masked_language_models_logits():
    cfg = tiny_model(num_layers=2)
    model, params = MaskedLM(cfg), params_of("mlm", cfg)
    passes = decoder_problems(model, params, *ROWS)
    assert len(passes) == 2

    encoder = params["encoder"]

    def apply(method, x):
        return model.apply({"params": params}, x, method=method)

    x_ble = states_of(cfg, encoder)[-2] + apply(lambda module, p: module.encoder.embeddings.positions(p), PLACES)
    for problem in passes:
        x_ble = finished(cfg, encoder["last"], x_ble, problem)
    factors = apply(lambda module, x: module.head(x, module.encoder.embeddings.word), x_ble)
    whole = functools.partial(model.apply, deterministic=True)
    expected = jax.jit(whole, compiler_options=COMPILE_FAST)({"params": params}, *ROWS)
    found, real = logits_of(factors)[..., : cfg.vocab_size], BATCH["documents"] > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)


def test_a_model_leaves_nothing_that_is_not_asked_for():
    cfg = tiny_model(num_layers=2)
    variables = jax.eval_shape(lambda: Encoder(cfg).init(jax.random.key(0), *ROWS, deterministic=True))
    assert variables.keys() == {"params"}
    params = params_of("encoder", cfg)
    _, left = jax.eval_shape(
        lambda: Encoder(cfg).apply({"params": params}, *ROWS, deterministic=True, mutable=["other"])
    )
    assert left == {}
