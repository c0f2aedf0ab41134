import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from builders import COMPILE_FAST
from configs import meshes
from deberta_jax.dist.axes import batch_sharding, constrain, parts_of
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.ops import vocabulary_loss as module
from deberta_jax.ops.vocabulary_loss import (
    Chunking,
    LogitFactors,
    logits_of,
    vocabulary_loss,
    vocabulary_loss_and_picks,
)

ROWS, PREDICTIONS, IDS, WIDTH = 8, 7, 24, 6
NOT_A_TOKEN = 21  # ids from here on are none: their bias forbids them
CHUNKINGS = {
    "at once": Chunking(),
    "one prediction a turn": Chunking(rows=1),
    "2 predictions a turn": Chunking(rows=16),
    "3 predictions a turn": Chunking(rows=31),
    "4 parts, 2 predictions a turn": Chunking(parts=4, rows=4),
    "8 parts at once": Chunking(parts=8),
}


def random_case(dtype=np.float32):
    """(factors, labels, weights); some weights are 0, some labels the best guess."""
    rng = np.random.default_rng(0)
    x_bpe, word_ve = rng.normal(size=(ROWS, PREDICTIONS, WIDTH)), rng.normal(size=(IDS, WIDTH))
    bias_v = np.where(np.arange(IDS) < NOT_A_TOKEN, rng.normal(size=IDS), -1e30)
    factors = LogitFactors(jnp.asarray(x_bpe, dtype), np.float32(word_ve), np.float32(bias_v))
    label_bp = rng.integers(0, NOT_A_TOKEN, (ROWS, PREDICTIONS))
    label_bp[::2] = (np.asarray(factors.x_bpe, np.float64) @ word_ve.T + bias_v).argmax(-1)[::2]
    return factors, label_bp, np.float32(rng.choice([0, 1, 2.5], (ROWS, PREDICTIONS)))


def slow_loss(factors, label_bp, weight_bp):
    """((loss, hits), gradients of the loss) in float64, a prediction at a time."""
    x_bpe, word_ve, bias_v = (np.asarray(each, np.float64) for each in factors)
    loss, hits, of_x, of_word, of_bias = 0.0, 0.0, np.zeros_like(x_bpe), np.zeros_like(word_ve), np.zeros_like(bias_v)
    for b, p in np.ndindex(label_bp.shape):
        logits_v = word_ve @ x_bpe[b, p] + bias_v
        share_v = np.exp(logits_v - logits_v.max()) / np.exp(logits_v - logits_v.max()).sum()
        label, weight = label_bp[b, p], float(weight_bp[b, p])
        loss -= weight * np.log(share_v[label])
        hits += weight * (logits_v.argmax() == label)
        slope_v = weight * (share_v - np.eye(IDS)[label])
        of_x[b, p] = slope_v @ word_ve
        of_word += np.outer(slope_v, x_bpe[b, p])
        of_bias += slope_v
    return (loss, hits), LogitFactors(of_x, of_word, of_bias)


with_gradients = jax.jit(
    jax.value_and_grad(vocabulary_loss, has_aux=True), static_argnums=3, compiler_options=COMPILE_FAST
)
without = jax.jit(vocabulary_loss, static_argnums=3, compiler_options=COMPILE_FAST)


@pytest.mark.parametrize("chunking", CHUNKINGS.values(), ids=CHUNKINGS)
def test_loss_hits_and_gradients_are_those_of_each_prediction_by_itself(chunking):
    (loss, hits), slow = slow_loss(*random_case())
    sums, gradients = with_gradients(*random_case(), chunking)
    np.testing.assert_allclose(sums, (loss, hits), rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), gradients, slow)
    np.testing.assert_allclose(without(*random_case(), chunking), sums, rtol=1e-6)
    weight = random_case()[2].sum()
    assert 0.2 * weight < hits < 0.9 * weight


@pytest.mark.parametrize("chunking", CHUNKINGS.values(), ids=CHUNKINGS)
def test_in_bfloat16_the_sums_are_float32_and_gradients_within_a_hundredth(chunking):
    case = random_case(jnp.bfloat16)
    rounded = case[0]._replace(word_ve=np.asarray(jnp.asarray(case[0].word_ve, jnp.bfloat16), np.float32))
    (loss, hits), slow = slow_loss(rounded, *case[1:])
    sums, gradients = with_gradients(*case, chunking)
    np.testing.assert_allclose(sums, (loss, hits), rtol=1e-5)
    assert [each.dtype for each in gradients] == [jnp.bfloat16, jnp.float32, jnp.float32]
    for got, expected in zip(gradients, slow, strict=True):
        assert np.linalg.norm(np.float64(got) - expected) < 0.01 * np.linalg.norm(expected)


def test_the_bias_is_summed_alike_on_every_platform():
    slope_drv = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7)), jnp.bfloat16)
    expected = np.asarray(slope_drv, np.float32).sum(1)
    for summed in (module._summed, module._summed_by_product):
        np.testing.assert_allclose(summed(slope_drv), expected, rtol=0, atol=1e-5)


def test_gradients_scale_with_what_is_made_of_the_loss_and_hits_have_none():
    factors, *targets = random_case()
    gradient = jax.jit(
        jax.grad(lambda f: jnp.array([3.0, 5.0]) @ jnp.stack(vocabulary_loss(f, *targets, Chunking(rows=16)))),
        compiler_options=COMPILE_FAST,
    )
    (_, expected) = with_gradients(factors, *targets, Chunking(rows=16))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 3 * np.asarray(b), rtol=1e-6, atol=1e-6),
        gradient(factors),
        expected,
    )


def test_what_is_no_token_is_not_learnt():
    _, gradients = with_gradients(*random_case(), Chunking(rows=16))
    assert not np.asarray(gradients.word_ve)[NOT_A_TOKEN:].any()
    assert not np.asarray(gradients.bias_v)[NOT_A_TOKEN:].any()


def test_a_weight_that_is_no_number_shows_in_the_loss_and_in_every_gradient():
    factors, label_bp, weight_bp = random_case()
    weight_bp[2, 3] = np.nan
    sums, gradients = with_gradients(factors, label_bp, weight_bp, Chunking(rows=16))
    assert np.isnan(sums[0]) and all(np.isnan(leaf).any() for leaf in gradients)


def nth_best(logits_drv, place_dr1):
    """Ids in order of their logits, one for each prediction."""
    return jnp.take_along_axis(jnp.argsort(-logits_drv, axis=-1), place_dr1, axis=-1)[..., 0].astype(jnp.int32)


@pytest.mark.parametrize("chunking", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_picks_are_made_by_the_logits_of_their_own_prediction(chunking, gradient):
    factors, *targets = random_case()
    place_bp1 = np.random.default_rng(1).integers(0, NOT_A_TOKEN, (ROWS, PREDICTIONS, 1))

    def loss(factors):
        loss, *others = vocabulary_loss_and_picks(factors, *targets, chunking, nth_best, place_bp1)
        return loss, others

    function = jax.value_and_grad(loss, has_aux=True) if gradient else lambda factors: (loss(factors), None)
    (total, (hits, picked_bp)), slopes = jax.jit(function, compiler_options=COMPILE_FAST)(factors)
    np.testing.assert_array_equal(picked_bp, nth_best(logits_of(factors), place_bp1))
    sums, expected = with_gradients(factors, *targets, chunking)
    np.testing.assert_allclose((total, hits), sums, rtol=1e-6)
    if gradient:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), slopes, expected)


def large_case():
    shapes = (8, 64, 16), (4096, 16), (4096,)
    factors = LogitFactors(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return factors, jax.ShapeDtypeStruct((8, 64), jnp.int32), jax.ShapeDtypeStruct((8, 64), jnp.float32)


def test_logits_of_all_predictions_are_never_there_together():
    """Bytes that the compiled program needs beside its inputs and outputs."""
    every = 8 * 64 * 4096 * 4
    for function in (without, with_gradients):
        in_turn, at_once = (
            function.lower(*large_case(), Chunking(rows=rows)).compile().memory_analysis().temp_size_in_bytes
            for rows in (32, 512)
        )
        assert at_once > every
        assert in_turn < every / 3


def test_a_gradient_takes_three_products_and_a_loss_alone_one():
    for chunking in (Chunking(rows=32), Chunking()):
        case = (*large_case(), chunking)
        assert str(jax.make_jaxpr(vocabulary_loss, static_argnums=3)(*case)).count("dot_general") == 1
        gradient = jax.grad(vocabulary_loss, has_aux=True)
        assert str(jax.make_jaxpr(gradient, static_argnums=3)(*case)).count("dot_general") == 3 + 1  # and the bias' sum


LAYOUTS = {"data": ((8, 1, 1), meshes.dp), "fsdp": ((4, 2, 1), meshes.fsdp), "all": ((2, 2, 2), meshes.fsdp_tp)}


def in_force(factors, label_bp, weight_bp):
    return vocabulary_loss(factors, label_bp, weight_bp, Chunking(parts_of("batch"), 2, constrain))


@functools.cache
def compiled_on(layout):
    """(the loss and its gradients over 8 devices, 2 predictions of each at a time; where the arguments belong)."""
    sizes, rules = LAYOUTS[layout]
    mesh, split = make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True))), dict(rules)
    rows = batch_sharding(rules, mesh)
    words = NamedSharding(mesh, PartitionSpec(split["vocab"], split["embed"]))
    factors = LogitFactors(rows, words, NamedSharding(mesh, PartitionSpec(split["vocab"])))
    function = jax.jit(
        jax.value_and_grad(in_force, has_aux=True),
        in_shardings=(factors, rows, rows),
        out_shardings=(None, factors),
        compiler_options=COMPILE_FAST,
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        return function.lower(*jax.tree.map(np.asarray, random_case())).compile(), (factors, rows, rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_does_not_matter(layout):
    program, places = compiled_on(layout)
    sums, gradients = program(*jax.device_put(random_case(), places))
    expected_sums, expected = with_gradients(*random_case(), Chunking())
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), gradients, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_devices_exchange_what_is_of_the_tables_size_after_the_last_turn_or_before_the_first(layout):
    text = compiled_on(layout)[0].as_text()
    computations = {part.split()[0].lstrip("%"): part for part in re.split(r"\n(?=[%\w])", text)}
    (loop,) = set(re.findall(r"body=%?([\w.\-]+)", text))
    exchanged = re.findall(r"= (.*) (?:all-reduce|all-gather|reduce-scatter)\(", computations[loop])
    ids = IDS // LAYOUTS[layout][0][2]
    assert not [shape for shape in exchanged if re.search(rf"[\[,]{ids}[\],]", shape)]
    assert bool(exchanged) == (layout == "all")  # of split logits the maximum, for one
