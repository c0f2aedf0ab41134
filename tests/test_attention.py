import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from deberta_jax.ops import attention
from deberta_jax.ops.buckets import row_of_distance

SMALL = (8, 16)  # buckets, distance limit
RELEASED = (256, 512)
LINEAR = (0, 16)  # v1: a row per distance
TERMS = {
    "none": (),
    "c2p": ("c2p",),
    "p2c": ("p2c",),
    "p2p": ("p2p",),
    "c2p|p2c": ("c2p", "p2c"),
    "p2c|p2p": ("p2c", "p2p"),
    "c2p|p2c|p2p": ("c2p", "p2c", "p2p"),
}


def rows_for(length, span):
    return row_of_distance(np.arange(-length, length), *span, clamp=True)


def random_parts(length, span, terms, *, batch=2, heads=2, size=8):
    """float32 (queries, keys, table as keys or None, table as queries or None)."""
    rng = np.random.default_rng(length)
    q, k = rng.normal(size=(2, batch, length, heads, size)).astype(np.float32)
    pos_k, pos_q = rng.normal(size=(2, 2 * (span[0] or span[1]), heads, size)).astype(np.float32)
    used = set(TERMS[terms])
    return q, k, pos_k if used & {"c2p", "p2p"} else None, pos_q if used & {"p2c", "p2p"} else None


def assert_agrees_with_loops(length, span, terms, **sizes):
    parts = random_parts(length, span, terms, **sizes)
    fast_hbqk = np.asarray(attention.scores(*parts, rows_for(length, span), TERMS[terms]))
    q, k, *tables = (part if part is None else part.astype(np.float64) for part in parts)
    slow_bhqk = np.stack(
        [slow_deberta.scores(*qk, *tables, *span, terms=TERMS[terms]) for qk in zip(q, k, strict=True)]
    )
    np.testing.assert_allclose(fast_hbqk, slow_bhqk.swapaxes(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_scores_are_those_of_the_formula_below_and_above_the_span(length, terms):
    assert_agrees_with_loops(length, SMALL, terms)


@pytest.mark.parametrize("length", [7, 40])
def test_scores_are_those_of_the_formula_with_a_row_per_distance(length):
    assert_agrees_with_loops(length, LINEAR, "c2p|p2c")


def test_scores_are_those_of_the_formula_beyond_the_released_span():
    assert_agrees_with_loops(600, RELEASED, "c2p|p2c", batch=1, heads=1, size=4)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_scores_at_chosen_positions_are_rows_of_the_scores(length, terms):
    q, k, pos_k, pos_q = random_parts(length, SMALL, terms)
    position_bp = np.random.default_rng(1).integers(0, length, (2, 5))  # positions repeat
    one_hot_bpk = jax.nn.one_hot(position_bp, length)
    chosen_bphd = np.take_along_axis(q, position_bp[:, :, None, None], axis=1)
    rows = rows_for(length, SMALL)
    some_hbpk = attention.scores_at(chosen_bphd, k, pos_k, pos_q, rows, TERMS[terms], one_hot_bpk, position_bp)
    all_hbqk = attention.scores(q, k, pos_k, pos_q, rows, TERMS[terms])
    np.testing.assert_allclose(
        some_hbpk, np.take_along_axis(np.asarray(all_hbqk), position_bp[None, ..., None], axis=2), rtol=0, atol=1e-5
    )


def scores_by_gather(q_bqhd, k_bkhd, pos_k_rhd, pos_q_rhd):
    """The formula with [q, k] tables gathered entry by entry; jax derives its gradient."""
    length = q_bqhd.shape[1]
    row_qk = row_of_distance(np.arange(length)[:, None] - np.arange(length), *SMALL, clamp=True)
    s_hbqk = jnp.einsum("bqhd,bkhd->hbqk", q_bqhd, k_bkhd)
    s_hbqk += jnp.einsum("bqhd,qkhd->hbqk", q_bqhd, pos_k_rhd[row_qk])
    s_hbqk += jnp.einsum("bkhd,qkhd->hbqk", k_bkhd, pos_q_rhd[row_qk])
    s_hbqk += jnp.einsum("qkhd,qkhd->hqk", pos_q_rhd[row_qk], pos_k_rhd[row_qk])[:, None]
    return s_hbqk / np.sqrt(4 * q_bqhd.shape[-1])


@pytest.mark.parametrize("length", [9, 40])
def test_both_ways_of_scoring_have_the_gradients_of_the_formula(length):
    parts = tuple(map(jnp.asarray, random_parts(length, SMALL, "c2p|p2c|p2p")))
    terms = TERMS["c2p|p2c|p2p"]
    position_bp = np.tile(np.arange(length), (2, 1))
    one_hot_bpk = jax.nn.one_hot(position_bp, length)
    weight = np.random.default_rng(2).normal(size=(2, 2, length, length)).astype(np.float32)
    rows = rows_for(length, SMALL)

    def gradients(scores):
        return jax.jit(jax.grad(lambda parts: (scores(*parts) * weight).sum()))(parts)

    expected = gradients(scores_by_gather)
    every = gradients(lambda *parts: attention.scores(*parts, rows, terms))
    chosen = gradients(lambda *parts: attention.scores_at(*parts, rows, terms, one_hot_bpk, position_bp))
    for right, one, other in zip(expected, every, chosen, strict=True):
        assert one.shape == right.shape
        np.testing.assert_allclose(one, right, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("terms", "count"), [("c2p|p2c", 3), ("c2p", 2), ("p2p", 2), ("none", 1), ("c2p|p2c|p2p", 4)])
def test_the_scale_counts_the_terms(terms, count):
    assert attention.score_scale(64, TERMS[terms]) == pytest.approx((64 * count) ** -0.5, rel=1e-12)


def test_bfloat16_products_are_summed_in_float32():
    parts = [jnp.asarray(part, jnp.bfloat16) for part in random_parts(40, SMALL, "c2p|p2c", size=64)]
    rows = rows_for(40, SMALL)
    rounded = attention.scores(*parts, rows, TERMS["c2p|p2c"])
    exact = attention.scores(*(part.astype(jnp.float32) for part in parts), rows, TERMS["c2p|p2c"])
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.05)


def picked(e, column):
    """The gather that `shift` and `window` stand for, with the gradient jax derives for it."""
    return jnp.take_along_axis(e, jnp.broadcast_to(column, (*e.shape[:-1], column.shape[-1])), axis=-1)


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_shift_and_its_gradient_are_those_of_a_gather(n):
    rng = np.random.default_rng(n)
    e = rng.normal(size=(2, 3, n, 2 * n)).astype(np.float32)
    weight = rng.normal(size=(2, 3, n, n)).astype(np.float32)
    column = (n - 1 - np.arange(n)[:, None] + np.arange(n))[None, None]
    np.testing.assert_array_equal(attention.shift(e), picked(e, column))
    gradient = jax.grad(lambda e: (attention.shift(e) * weight).sum())(e)
    np.testing.assert_array_equal(gradient, jax.grad(lambda e: (picked(e, column) * weight).sum())(e))


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_window_and_its_gradient_are_those_of_a_gather(n):
    rng = np.random.default_rng(n)
    position_bp = np.concatenate([rng.integers(0, n, (3, 5)), np.tile([0, n - 1], (3, 1))], axis=1)
    e = rng.normal(size=(2, 3, 7, 2 * n)).astype(np.float32)
    weight = rng.normal(size=(2, 3, 7, n)).astype(np.float32)
    column = (n - 1 - position_bp[..., None] + np.arange(n)[None, None])[None]
    np.testing.assert_array_equal(attention.window(e, position_bp), picked(e, column))
    gradient = jax.grad(lambda e: (attention.window(e, position_bp) * weight).sum())(e)
    np.testing.assert_array_equal(gradient, jax.grad(lambda e: (picked(e, column) * weight).sum())(e))


def half_masked():
    """Scores [h, b, q, k] and a mask in which query 1 of row 0 and all of row 1 see no key."""
    rng = np.random.default_rng(0)
    s_hbqk = rng.normal(size=(2, 3, 4, 4)).astype(np.float32) * 10
    allowed_bqk = rng.random((3, 4, 4)) < 0.6
    allowed_bqk[:, :, 0] = True
    allowed_bqk[0, 1] = allowed_bqk[1] = False
    return s_hbqk, allowed_bqk


def test_masked_softmax_is_a_softmax_over_the_allowed_keys():
    s_hbqk, allowed_bqk = half_masked()
    weight = np.where(allowed_bqk, np.exp(s_hbqk.astype(np.float64)), 0)
    total = weight.sum(-1, keepdims=True)
    expected = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    p_hbqk = attention.masked_softmax(s_hbqk, allowed_bqk)
    assert p_hbqk.dtype == jnp.float32
    np.testing.assert_allclose(p_hbqk, expected, rtol=0, atol=1e-6)
    assert not np.asarray(p_hbqk)[np.broadcast_to(~allowed_bqk, s_hbqk.shape)].any()


def test_a_query_without_any_key_gets_zeros_and_a_zero_gradient():
    s_hbqk, allowed_bqk = half_masked()
    nobody_bq = ~allowed_bqk.any(-1)
    p_hbqk = np.asarray(attention.masked_softmax(s_hbqk, allowed_bqk))
    gradient = np.asarray(jax.grad(lambda s: (attention.masked_softmax(s, allowed_bqk) ** 2).sum())(s_hbqk))
    assert np.isfinite(p_hbqk).all() and np.isfinite(gradient).all()
    assert not p_hbqk[:, nobody_bq].any() and not gradient[:, nobody_bq].any()
    assert gradient[:, ~nobody_bq].any()


@pytest.mark.parametrize("score", [-1e30, -jnp.inf, 3e38])
def test_no_score_however_extreme_leaks_through_the_mask(score):
    s_hbqk = jnp.zeros((1, 1, 1, 3)).at[..., 2].set(score)
    p_hbqk = attention.masked_softmax(s_hbqk, np.array([[[True, True, False]]]))
    assert p_hbqk.ravel().tolist() == [0.5, 0.5, 0.0]


def test_mix_is_the_sum_of_values_weighted_by_head():
    rng = np.random.default_rng(0)
    p_hbqk, v_bkhd = rng.random((2, 3, 4, 5)).astype(np.float32), rng.normal(size=(3, 5, 2, 6)).astype(np.float32)
    expected = np.zeros((3, 4, 2, 6))
    for h in range(2):
        expected[:, :, h] = p_hbqk[h] @ v_bkhd[:, :, h]
    np.testing.assert_allclose(attention.mix(p_hbqk, v_bkhd), expected, rtol=0, atol=1e-5)


def test_select_picks_rows_exactly():
    x_bke = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    position_bp = np.array([[0, 6, 3, 3], [5, 1, 0, 6]])
    picked_bpe = attention.select("bke,bpk->bpe", x_bke, jax.nn.one_hot(position_bp, 7))
    np.testing.assert_array_equal(picked_bpe, np.take_along_axis(x_bke, position_bp[..., None], axis=1))
