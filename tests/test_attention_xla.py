import dataclasses
import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from attention_cases import SPANS, TERMS, assert_equal, problem, relative_l2, solved
from deberta_jax.ops.attention import reference, xla


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("length", [7, 48])
def test_values_and_gradients_are_those_of_the_reference(length, terms):
    given = problem(length, SPANS["small"], terms, rate=0.2)
    assert_equal(solved(xla.attend, given), solved(reference.attend, given))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("length", [1, 96])
def test_every_kind_of_table_is_gathered_and_summed_right(length, span):
    given = problem(length, SPANS[span], "c2p|p2c")
    assert_equal(solved(xla.attend, given), solved(reference.attend, given))


def test_far_distances_beyond_the_released_span_are_summed_right():
    given = problem(700, SPANS["released"], "c2p|p2c", heads=1, size=4)
    assert_equal(solved(xla.attend, given), solved(reference.attend, given))


def test_bfloat16_is_as_near_to_float32_as_its_digits_allow():
    exact = solved(reference.attend, problem(96, SPANS["released"], "c2p|p2c", size=64))
    given = problem(96, SPANS["released"], "c2p|p2c", size=64, dtype=jnp.bfloat16)
    assert relative_l2(solved(xla.attend, given), exact) < 0.01


@pytest.mark.parametrize("terms", ["c2p|p2c", "c2p|p2c|p2p"])
def test_neither_way_scatters(terms):
    given = problem(48, SPANS["small"], terms, rate=0.1)

    def loss(*arrays):
        names = ("q_bqhd", "k_bkhd", "v_bkhd", "pos_k_rhd", "pos_q_rhd")
        return xla.attend(type(given)(**(vars(given) | dict(zip(names, arrays, strict=True))))).sum()

    arrays = (given.q_bqhd, given.k_bkhd, given.v_bkhd, given.pos_k_rhd, given.pos_q_rhd)
    lowered = jax.jit(jax.grad(loss, argnums=tuple(range(5)))).lower(*arrays).as_text()
    assert "gather" in lowered
    # The table that p2p multiplies is read whole; all that is left of scatters is none.
    assert "scatter" not in lowered


def test_a_scan_over_layers_keeps_one_array_of_pairs_for_each_and_makes_none_ahead():
    """jax computes before the loop what all layers have in common, as whole arrays: masks, the zeros of a `where`."""
    given = problem(48, SPANS["small"], "c2p|p2c", rate=0.1, dtype=jnp.bfloat16)

    def stack(q_bqhd):
        def layer(x, number):
            own = dataclasses.replace(given, q_bqhd=x, k_bkhd=x, v_bkhd=x, seed_bhq=given.seed_bhq + number)
            return xla.attend(own), None

        return jax.lax.scan(layer, q_bqhd, jnp.arange(4))[0].astype(jnp.float32).sum()

    text = jax.jit(jax.grad(stack)).lower(given.q_bqhd).as_text()
    loops = [line for line in text.splitlines() if "stablehlo.while" in line]
    carried = Counter(found for line in loops for found in set(re.findall(r"tensor<([\dx]*48x48x\w+)>", line)))
    assert len(loops) == 2 and carried == {"4x2x3x48x48xf16": 2}  # scores: written by one, read by the other
