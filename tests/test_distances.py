import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, rows_for
from deberta_jax.ops.attention.distances import (
    Runs,
    expand,
    pick,
    skew,
    unskew,
    unskewed_by_gather,
    unskewed_by_reshape,
)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("backwards", [False, True])
def test_expanding_and_its_gradient_are_those_of_indexing(length, span, backwards):
    rows = rows_for(length, SPANS[span])[:: -1 if backwards else 1]
    rng = np.random.default_rng(0)
    table = rng.normal(size=(2 * (SPANS[span][0] or SPANS[span][1]), 2, 3)).astype(np.float32)
    weight = rng.normal(size=(len(rows), 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(expand(table, rows), table[rows])
    gradient = jax.grad(lambda table: (expand(table, rows) * weight).sum())(table)
    expected = np.zeros_like(table)
    np.add.at(expected, rows, weight)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)


def test_the_gradient_of_expanding_scatters_nothing():
    rows, table = rows_for(600, SPANS["released"]), jnp.zeros((512, 2, 3))
    lowered = jax.jit(jax.grad(lambda table: (expand(table, rows) ** 2).sum())).lower(table).as_text()
    assert "scatter" not in lowered


def test_bfloat16_tables_get_sums_made_in_float32():
    rows = np.zeros(1000, int)
    gradient = jax.grad(lambda table: expand(table, rows).astype(jnp.float32).sum())(jnp.zeros((2, 1, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16 and gradient.ravel().tolist() == [1000, 0]


def test_rows_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order"):
        Runs(np.array([0, 2, 1]), 3)


@pytest.mark.parametrize(("t", "k", "first"), [(1, 1, 0), (4, 4, 3), (4, 4, 4), (3, 9, 2), (5, 2, 5)])
def test_skewing_and_its_transpose_are_those_of_a_gather(t, k, first):
    rng = np.random.default_rng(t)
    e, s = rng.normal(size=(2, 3, t, k + t)), rng.normal(size=(2, 3, t, k))
    e, s = e.astype(np.float32), s.astype(np.float32)
    expected = np.stack([e[..., i, first - i : first - i + k] for i in range(t)], axis=-2)
    np.testing.assert_array_equal(skew(e, first), expected)
    gradient = jax.grad(lambda e: (skew(e, first) * s).sum())(e)
    for transpose in (unskew, unskewed_by_gather, unskewed_by_reshape):
        np.testing.assert_array_equal(transpose(s, first), gradient)


def test_picking_counts_two_axes_as_one_and_leaves_out_what_is_not_inside():
    x = np.arange(24.0).reshape(2, 3, 4)
    place, inside = np.array([[0, 5], [11, 2]]), np.array([[True, True], [False, True]])
    np.testing.assert_array_equal(pick(x, place), x.reshape(2, 12)[:, place])
    np.testing.assert_array_equal(pick(x, place, inside), x.reshape(2, 12)[:, place] * inside)
