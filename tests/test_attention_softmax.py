import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.attention.softmax import masked_softmax, mix


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
    p_hbqk = masked_softmax(s_hbqk, allowed_bqk)
    assert p_hbqk.dtype == jnp.float32
    np.testing.assert_allclose(p_hbqk, expected, rtol=0, atol=1e-6)
    assert not np.asarray(p_hbqk)[np.broadcast_to(~allowed_bqk, s_hbqk.shape)].any()


def test_a_query_without_any_key_gets_zeros_and_a_zero_gradient():
    s_hbqk, allowed_bqk = half_masked()
    nobody_bq = ~allowed_bqk.any(-1)
    p_hbqk = np.asarray(masked_softmax(s_hbqk, allowed_bqk))
    gradient = np.asarray(jax.grad(lambda s: (masked_softmax(s, allowed_bqk) ** 2).sum())(s_hbqk))
    assert np.isfinite(p_hbqk).all() and np.isfinite(gradient).all()
    assert not p_hbqk[:, nobody_bq].any() and not gradient[:, nobody_bq].any()
    assert gradient[:, ~nobody_bq].any()


@pytest.mark.parametrize("score", [-1e30, -jnp.inf, 3e38])
def test_no_score_however_extreme_leaks_through_the_mask(score):
    s_hbqk = jnp.zeros((1, 1, 1, 3)).at[..., 2].set(score)
    p_hbqk = masked_softmax(s_hbqk, np.array([[[True, True, False]]]))
    assert p_hbqk.ravel().tolist() == [0.5, 0.5, 0.0]


def test_mix_is_the_sum_of_values_weighted_by_head():
    rng = np.random.default_rng(0)
    p_hbqk, v_bkhd = rng.random((2, 3, 4, 5)).astype(np.float32), rng.normal(size=(3, 5, 2, 6)).astype(np.float32)
    expected = np.zeros((3, 4, 2, 6))
    for h in range(2):
        expected[:, :, h] = p_hbqk[h] @ v_bkhd[:, :, h]
    np.testing.assert_allclose(mix(p_hbqk, v_bkhd), expected, rtol=0, atol=1e-5)
