"""The TPU kernel in the interpreter. One head that fills a register is the least to compile; others are tried too."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, assert_equal, problem, relative_l2, solved
from deberta_jax.ops.attention import reference, tpu
from deberta_jax.ops.attention.problem import Problem

ONE = {"heads": 1, "size": 128}
TILED = {"whole": 256, "tile": 256}  # what otherwise happens beyond 1024 positions


def attend(**sizes):
    settings = {"hardware_bits": False, "interpret": True} | sizes
    return lambda given: tpu.run(tpu.plan_for(given, **settings), given)


def assert_is_reference(given, **sizes):
    assert_equal(solved(attend(**sizes), given), solved(reference.attend, given))


def test_three_blocks():
    assert_is_reference(problem(300, SPANS["released"], "c2p|p2c", rate=0.1, **ONE))


def test_tiles_near_the_diagonal_and_far_from_it():
    assert_is_reference(problem(700, SPANS["small"], "c2p|p2c", rate=0.1, **ONE), **TILED)


@pytest.mark.parametrize("terms", ["c2p", "p2c", "none"])
def test_terms_one_by_one(terms):
    assert_is_reference(problem(600, SPANS["gaps"], terms, rate=0.3, **ONE), **TILED)


@pytest.mark.parametrize(("heads", "size"), [(4, 64), (8, 16)])
def test_heads_that_share_a_register(heads, size):
    assert_is_reference(problem(100, SPANS["linear"], "c2p|p2c", heads=heads, size=size))


def test_short_sequences_that_share_a_step():
    given = four_rows(problem(100, SPANS["small"], "c2p|p2c", rate=0.1, **ONE))
    assert tpu.plan_for(given, hardware_bits=False, interpret=True).sequences == 4
    assert_is_reference(given)


def four_rows(given: Problem) -> Problem:
    """The rows of `given`, and the first of them again with its positions turned around."""

    def more(rows, axis):
        return jnp.concatenate([rows, jnp.flip(rows[:1], axis)])

    names = {"q_bqhd": 1, "k_bkhd": 1, "v_bkhd": 1, "document_bk": 1, "seed_bhq": 2}
    return dataclasses.replace(given, **{name: more(getattr(given, name), axis) for name, axis in names.items()})


def test_one_position_by_the_public_function():
    given = problem(1, SPANS["small"], "c2p|p2c", **ONE)
    assert_equal(solved(lambda given: tpu.attend(given, interpret=True), given), solved(reference.attend, given))


@pytest.mark.parametrize(("length", "sizes"), [(200, {}), (700, TILED)])
def test_bfloat16_is_as_near_to_float32_as_its_digits_allow(length, sizes):
    case = functools.partial(problem, length, SPANS["small"], "c2p|p2c", rate=0.1, **ONE)
    given = case(dtype=jnp.bfloat16)
    found = solved(attend(**sizes), given)
    assert found[0].dtype == jnp.bfloat16
    assert relative_l2(found, solved(reference.attend, case())) < 0.01


def test_a_query_without_any_key_gives_zeros_and_takes_no_gradient():
    given = problem(64, SPANS["small"], "c2p|p2c", **ONE)
    output, gradients = solved(attend(), given)
    nowhere = np.asarray(given.document_bk) == 0
    assert nowhere.any(axis=1).sum() == 2 and nowhere.all(axis=1).sum() == 1
    for values in (output, gradients["q_bqhd"], gradients["k_bkhd"], gradients["v_bkhd"]):
        assert (values[nowhere] == 0).all()
        assert (values[~nowhere] != 0).any()


@pytest.mark.parametrize(
    ("terms", "heads", "size", "why"),
    [
        ("c2p|p2c|p2p", 2, 64, "term p2p"),
        ("c2p", 3, 64, "3 heads of 64: 128 lanes"),
        ("c2p", 2, 48, "2 heads of 48"),
        ("c2p", 16, 8, "16 heads of 8"),
    ],
)
def test_what_the_kernel_is_not_made_for_is_refused(terms, heads, size, why):
    with pytest.raises(ValueError, match=why):
        tpu.attend(problem(8, SPANS["small"], terms, heads=heads, size=size))


@pytest.mark.parametrize(("heads", "size"), [(12, 64), (16, 64), (2, 64), (4, 32), (5, 128)])
def test_released_sizes_fit(heads, size):
    assert tpu.unfit(heads, size, ("c2p", "p2c")) is None
