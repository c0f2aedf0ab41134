import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, WITHOUT_P2P, assert_equal, problem, relative_l2, solved
from deberta_jax.ops.attention import blockwise, reference

HEADS = 4


def attend(heads=None, block=blockwise.BLOCK, tile=blockwise.TILE):
    return lambda given: blockwise.attend(given, heads=heads, block=block, tile=tile)


@pytest.mark.parametrize("terms", WITHOUT_P2P)
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_values_and_gradients_of_several_blocks_are_those_of_the_reference(terms, rate):
    """48 positions in blocks of 16; with 41, the last block is filled up."""
    for length in (48, 41):
        given = problem(length, SPANS["small"], terms, rate=rate)
        assert_equal(solved(attend(block=16), given), solved(reference.attend, given))


@pytest.mark.parametrize("terms", ["c2p", "p2c", "c2p|p2c"])
@pytest.mark.parametrize(("length", "block"), [(40, 64), (48, 16), (85, 32)], ids=["many", "few", "padded"])
def test_tiles_of_a_block_change_nothing(length, block, terms):
    """Of 8 lines: more windows of a tile than steps in a window for keys, fewer for queries, and the same for both."""
    given = problem(length, SPANS["small"], terms, rate=0.1)
    assert_equal(solved(attend(block=block, tile=8), given), solved(reference.attend, given))


def test_heads_over_devices_change_nothing():
    """Several blocks and tiles of four heads, two devices for each."""
    given = problem(48, SPANS["small"], "c2p|p2c", rate=0.1, heads=HEADS)
    mesh = jax.make_mesh((2, 4), ("others", "heads"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def split(x, axis):
        names = [None] * x.ndim
        names[axis] = "heads"
        return jax.device_put(x, jax.NamedSharding(mesh, jax.P(*names)))

    axes = {"q_bqhd": 2, "k_bkhd": 2, "v_bkhd": 2, "pos_k_rhd": 1, "pos_q_rhd": 1, "seed_bhq": 1}
    over = dataclasses.replace(given, **{name: split(getattr(given, name), axis) for name, axis in axes.items()})
    assert_equal(solved(attend(block=16, tile=8), over), solved(attend(block=16, tile=8), given), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(512, (1, 512, 128)), (128, (1, 128, 128)), (129, (1, 144, 72)), (600, (2, 312, 104)), (7, (1, 8, 8))],
)
def test_blocks_and_tiles_are_even_parts(length, expected):
    assert blockwise.sizes(length, 512, 128) == expected


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("length", [1, 7, 96])
def test_values_and_gradients_of_one_block_are_those_of_the_reference(length, span):
    given = problem(length, SPANS[span], "c2p|p2c", rate=0.1)
    assert_equal(solved(attend(), given), solved(reference.attend, given))


@pytest.mark.parametrize("heads", [1, 2])
def test_heads_at_a_time_change_nothing(heads):
    given = problem(48, SPANS["small"], "c2p|p2c", rate=0.1, heads=HEADS)
    assert_equal(solved(attend(heads, 16), given), solved(attend(None, 16), given), atol=1e-6)


def test_bfloat16_is_as_near_to_float32_as_its_digits_allow():
    exact = solved(reference.attend, problem(96, SPANS["released"], "c2p|p2c", size=64))
    given = problem(96, SPANS["released"], "c2p|p2c", size=64, dtype=jnp.bfloat16)
    assert solved(attend(), given)[0].dtype == jnp.bfloat16
    assert relative_l2(solved(attend(block=32), given), exact) < 0.01


def test_memory_grows_with_the_length_not_with_its_square():
    def temporaries(length):
        given = problem(length, SPANS["released"], "c2p|p2c", heads=1, size=16)
        arrays = (given.q_bqhd, given.k_bkhd, given.v_bkhd, given.pos_k_rhd, given.pos_q_rhd)

        def loss(*arrays):
            names = ("q_bqhd", "k_bkhd", "v_bkhd", "pos_k_rhd", "pos_q_rhd")
            return attend(block=128)(type(given)(**(vars(given) | dict(zip(names, arrays, strict=True))))).sum()

        compiled = jax.jit(jax.grad(loss, argnums=tuple(range(5)))).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, middle, long = (temporaries(length) for length in (1024, 2048, 4096))
    assert 1.7 < (long - middle) / (middle - short) < 2.3  # linear: twice the difference


def test_a_query_without_any_key_gets_zeros_and_a_zero_gradient():
    given = problem(48, SPANS["small"], "c2p|p2c")
    output, gradients = solved(attend(block=16), given)
    nobody = np.asarray(given.document_bk) == 0
    assert nobody[1].all() and not output[nobody].any()
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert not gradients["q_bqhd"][nobody].any() and not gradients["k_bkhd"][nobody].any()
