"""Attention of a few queries, against the same queries among all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, TERMS, problem
from deberta_jax.ops.attention import chosen, reference
from deberta_jax.ops.attention.problem import Problem

POSITIONS = np.array([[0, 6, 3, 3], [5, 1, 0, 6], [2, 2, 2, 4]])  # a position may be asked for twice
ARRAYS = ("q_bqhd", "k_bkhd", "pos_k_rhd", "pos_q_rhd")


def chosen_scores(given: Problem, position_bp, *, heads=None):
    """[h, b, p, k]."""
    select_bpk = jax.nn.one_hot(position_bp, given.q_bqhd.shape[1])
    of_keys = None
    if "p2c" in given.terms:
        tables = (given.k_bkhd, given.pos_q_rhd, given.row_of_distance)
        of_keys = chosen.position_to_content(*tables, position_bp, select_bpk, heads=heads)
    q_bphd = jnp.take_along_axis(given.q_bqhd, position_bp[..., None, None], axis=1)
    tables = (given.pos_k_rhd, given.pos_q_rhd, given.row_of_distance, given.terms)
    return chosen.scores(q_bphd, given.k_bkhd, *tables, of_keys, position_bp)


def all_scores(given: Problem, position_bp):
    return jnp.take_along_axis(reference.scores(given), position_bp[None, ..., None], axis=2)


def gradients(function, given: Problem, position_bp):
    arrays = {name: getattr(given, name) for name in ARRAYS if getattr(given, name) is not None}
    shape = (2, *position_bp.shape, given.q_bqhd.shape[1])
    weight = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    return jax.jit(jax.grad(lambda arrays: (function(Problem(**(vars(given) | arrays)), position_bp) * weight).sum()))(
        arrays
    )


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("length", [7, 40])
def test_scores_at_chosen_positions_are_those_of_all_positions(length, terms):
    given = problem(length, SPANS["small"], terms)
    np.testing.assert_allclose(chosen_scores(given, POSITIONS), all_scores(given, POSITIONS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("terms", ["c2p|p2c|p2p", "p2p"])
def test_gradients_are_those_of_all_positions_also_where_one_is_asked_for_twice(span, terms):
    given = problem(40, SPANS[span], terms)
    expected = gradients(all_scores, given, POSITIONS)
    for name, found in gradients(chosen_scores, given, POSITIONS).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_one_head_at_a_time_changes_nothing():
    given = problem(40, SPANS["small"], "c2p|p2c")
    by_head = gradients(lambda *arguments: chosen_scores(*arguments, heads=1), given, POSITIONS)
    for name, found in gradients(chosen_scores, given, POSITIONS).items():
        np.testing.assert_allclose(by_head[name], found, rtol=0, atol=1e-5, err_msg=name)


def test_the_gradient_scatters_nothing():
    given = problem(40, SPANS["small"], "c2p|p2c|p2p")

    def loss(arrays):
        q_bphd = given.q_bqhd[:, :4]
        whole = Problem(**(vars(given) | arrays))
        select_bpk = jax.nn.one_hot(POSITIONS, 40)
        tables = (whole.k_bkhd, whole.pos_q_rhd, whole.row_of_distance)
        of_keys = chosen.position_to_content(*tables, POSITIONS, select_bpk, heads=None)
        tables = (whole.pos_k_rhd, whole.pos_q_rhd, whole.row_of_distance, whole.terms)
        return chosen.scores(q_bphd, whole.k_bkhd, *tables, of_keys, POSITIONS).sum()

    arrays = {name: getattr(given, name) for name in ARRAYS[1:]}
    assert "scatter" not in jax.jit(jax.grad(loss)).lower(arrays).as_text()


def picked(e, column):
    """The gather that `window` stands for, with the gradient jax derives for it."""
    return jnp.take_along_axis(e, jnp.broadcast_to(column, (*e.shape[:-1], column.shape[-1])), axis=-1)


def windows(n):
    """(queries' products with all distances, positions, gradient of the window)."""
    rng = np.random.default_rng(n)
    position_bp = np.concatenate([rng.integers(0, n, (3, 5)), np.tile([0, n - 1], (3, 1))], axis=1)
    e, weight = (rng.normal(size=(2, 3, 7, size)).astype(np.float32) for size in (2 * n, n))
    return e, position_bp, weight


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_window_and_its_gradient_are_those_of_a_gather(n):
    e, position_bp, weight = windows(n)
    column = (n - 1 - position_bp[..., None] + np.arange(n)[None, None])[None]
    np.testing.assert_array_equal(chosen.window(e, position_bp), picked(e, column))
    gradient = jax.grad(lambda e: (chosen.window(e, position_bp) * weight).sum())(e)
    np.testing.assert_array_equal(gradient, jax.grad(lambda e: (picked(e, column) * weight).sum())(e))


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_what_tpus_do_instead_of_gathers_gives_the_same_windows(n):
    e, position_bp, weight = windows(n)
    np.testing.assert_array_equal(chosen.window_by_slice(e, position_bp), chosen.window_by_gather(e, position_bp))
    unwindowed = chosen.unwindowed_by_slice(weight, position_bp)
    np.testing.assert_array_equal(unwindowed, chosen.unwindowed_by_gather(weight, position_bp))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("bfloat16", 2**-8)])
def test_what_tpus_do_instead_of_gathers_gives_the_same_products_of_keys(dtype, tolerance):
    f = np.random.default_rng(0).normal(size=(2, 3, 7, 14)).astype(np.float32)
    select_bpk = jax.nn.one_hot(POSITIONS, 7)
    found = chosen.queries_by_product(f, POSITIONS, select_bpk, dtype=jnp.dtype(dtype))
    expected = chosen.queries_by_gather(f, POSITIONS, select_bpk)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=0)


def test_select_picks_rows_exactly():
    x_bke = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    position_bp = np.array([[0, 6, 3, 3], [5, 1, 0, 6]])
    picked_bpe = chosen.select("bke,bpk->bpe", x_bke, jax.nn.one_hot(position_bp, 7))
    np.testing.assert_array_equal(picked_bpe, np.take_along_axis(x_bke, position_bp[..., None], axis=1))
