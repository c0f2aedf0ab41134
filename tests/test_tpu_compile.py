"""The TPU kernel through the real compiler, without a TPU: it must compile, fit, and keep its schedule."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ahead_of_time, tpu_schedule
from deberta_jax.ops import buckets
from deberta_jax.ops.attention import tpu
from deberta_jax.ops.attention.problem import Problem

pytestmark = [
    pytest.mark.libtpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: requirements-libtpu.txt"
    ),
]

SCHEDULE = {
    "forward": 4256,
    "backward": 6065,
}  # this kernel, with all of them; requirements-libtpu.txt pins the compiler
MARGIN = 1.03
BATCH, HEADS = 3, 4
slow = functools.partial(pytest.param, marks=pytest.mark.slow)


def lowered_gradient(
    chip: str, length: int, dtype: jnp.dtype, rate: float = 0.1, **options: bool
) -> jax.stages.Lowered:
    """Value and all gradients with heads of 64."""
    row_of_distance = buckets.row_of_distance(np.arange(-length, length), 256, 512, clamp=True)

    def loss(q, k, v, pos_k, pos_q, document_bk, seed):
        given = Problem(q, k, v, pos_k, pos_q, row_of_distance, ("c2p", "p2c"), document_bk, seed, rate)
        return tpu.attend(given, **options).astype(jnp.float32).sum()

    position, table = (jax.ShapeDtypeStruct((*rows, HEADS, 64), dtype) for rows in ((BATCH, length), (512,)))
    document, seed = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((BATCH, length), (BATCH, HEADS, length)))
    gradient = jax.value_and_grad(loss, argnums=range(5))
    return ahead_of_time.lower_for(chip, gradient, *[position] * 3, table, table, document, seed)


@pytest.mark.parametrize("chip", ahead_of_time.CHIPS)
@pytest.mark.parametrize("length", [128, 512, slow(1024), 2048, slow(4096)])
def test_compiles_without_a_gather_over_pairs_of_positions(chip, length):
    hlo = ahead_of_time.compiled_text(lowered_gradient(chip, length, jnp.bfloat16))
    assert hlo.count("tpu_custom_call") >= 2
    for move in ahead_of_time.moves(hlo):  # what is left expands the tables
        for shape in (move.result, *move.operands):
            assert np.prod(shape) < BATCH * HEADS * length**2, move


@pytest.mark.slow
def test_float32_compiles():
    lowered_gradient("v5e", 512, jnp.float32).compile()


@pytest.mark.parametrize("options", [{"hardware_bits": True}, {"rate": 0.0}], ids=["hardware's bits", "no dropout"])
@pytest.mark.parametrize("length", [512, slow(2048)])
def test_other_dropouts_compile(length, options):
    lowered_gradient("v5e", length, jnp.bfloat16, **options).compile()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_schedule_is_as_good_as_it_was_and_better_than_the_bare_prototypes(direction):
    cycles = tpu_schedule.cycles("v5e", tpu_schedule.released_plan(512), KERNELS[direction])
    assert cycles < MARGIN * SCHEDULE[direction]
    assert cycles <= tpu_schedule.BARE[direction]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_masks_documents_and_dropout_cost_less_than_a_quarter_without_windows(direction):
    cycles = tpu_schedule.cycles("v5e", tpu_schedule.released_plan(512, block=512), KERNELS[direction])
    assert cycles <= 1.25 * tpu_schedule.BARE[direction]


KERNELS = {"forward": tpu_schedule.compile_forward, "backward": tpu_schedule.compile_backward}


def test_gathers_and_scatters_are_found_inside_fusions():
    def function(table, index, values):
        return table[index] * 2, jnp.zeros((64, 128)).at[index].add(values)

    shapes = [((512, 128), jnp.float32), ((300,), jnp.int32), ((300, 128), jnp.float32)]
    lowered = ahead_of_time.lower_for("v5e", function, *(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    found = {move.operation: move for move in ahead_of_time.moves(ahead_of_time.compiled_text(lowered))}
    assert found["gather"].operands[0] == (512, 128)
    assert found["scatter"].result == (64, 128)
