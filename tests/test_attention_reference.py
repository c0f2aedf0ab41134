"""The gather form against loops over query and key, in float64, one number at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from attention_cases import LINEAR, RELEASED, SMALL, TERMS, problem
from deberta_jax.ops.attention import reference
from deberta_jax.ops.attention.problem import score_scale
from deberta_jax.ops.dropout import kept


def slow_scores(given, span):
    """[h, b, q, k]."""
    arrays = (given.q_bqhd, given.k_bkhd, given.pos_k_rhd, given.pos_q_rhd)
    q, k, *tables = (None if part is None else np.asarray(part, np.float64) for part in arrays)
    each = [slow_deberta.scores(*qk, *tables, *span, terms=given.terms) for qk in zip(q, k, strict=True)]
    return np.stack(each, axis=1)


def slow_attention(given, span):
    """[b, q, h, d]: a softmax over each query's own document, dropout on it, and the values' mean."""
    s_hbqk, v = slow_scores(given, span), np.asarray(given.v_bkhd, np.float64)
    document = np.asarray(given.document_bk)
    output = np.zeros(v.shape)
    for h, b, i in np.ndindex(s_hbqk.shape[:3]):
        seen = np.flatnonzero((document[b] == document[b, i]) & (document[b] > 0))
        if not len(seen):
            continue
        weight = np.exp(s_hbqk[h, b, i, seen] - s_hbqk[h, b, i, seen].max())
        weight /= weight.sum()
        if given.rate:
            keep = kept(given.seed_bhq[b, h, i], jnp.asarray(seen, jnp.int32), given.rate)
            weight = np.where(keep, weight / (1 - given.rate), 0)
        output[b, i, h] = weight @ v[b, seen, h]
    return output


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_attention_is_that_of_the_formula_below_and_above_the_span(length, terms):
    given = problem(length, SMALL, terms)
    np.testing.assert_allclose(reference.attend(given), slow_attention(given, SMALL), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [7, 40])
def test_attention_is_that_of_the_formula_with_a_row_per_distance(length):
    given = problem(length, LINEAR, "c2p|p2c")
    np.testing.assert_allclose(reference.attend(given), slow_attention(given, LINEAR), rtol=0, atol=1e-5)


def test_dropout_acts_on_the_probabilities_by_the_hash_of_query_and_key():
    given = problem(40, SMALL, "c2p|p2c", rate=0.3)
    np.testing.assert_allclose(reference.attend(given), slow_attention(given, SMALL), rtol=0, atol=1e-5)


def test_scores_are_those_of_the_formula_beyond_the_released_span():
    given = problem(600, RELEASED, "c2p|p2c", heads=1, size=4)
    scores = reference.scores(given)[:, 0, ::97, ::13]
    np.testing.assert_allclose(scores, slow_rows(given, 97, 13), rtol=0, atol=1e-5)


def slow_rows(given, every_query, every_key):
    """[h, q, k] of some queries and keys of the first row."""
    q, k = (np.asarray(x, np.float64)[0] for x in (given.q_bqhd, given.k_bkhd))
    pos_k, pos_q = (np.asarray(x, np.float64) for x in (given.pos_k_rhd, given.pos_q_rhd))
    queries, keys = range(0, len(q), every_query), range(0, len(q), every_key)
    out = np.zeros((q.shape[1], len(queries), len(keys)))
    for h, (a, i), (b, j) in (
        (h, a, b) for h in range(q.shape[1]) for a in enumerate(queries) for b in enumerate(keys)
    ):
        row = slow_deberta.table_row(i, j, *RELEASED)
        total = q[i, h] @ k[j, h] + q[i, h] @ pos_k[row, h] + k[j, h] @ pos_q[row, h]
        out[h, a, b] = total / np.sqrt(3 * q.shape[-1])
    return out


@pytest.mark.parametrize(("terms", "count"), [("c2p|p2c", 3), ("c2p", 2), ("p2p", 2), ("none", 1), ("c2p|p2c|p2p", 4)])
def test_the_scale_counts_the_terms(terms, count):
    assert score_scale(64, TERMS[terms]) == pytest.approx((64 * count) ** -0.5, rel=1e-12)


def test_bfloat16_products_are_summed_in_float32():
    given = problem(40, SMALL, "c2p|p2c", size=64, dtype=jnp.bfloat16)
    rounded = reference.scores(given)
    exact = slow_scores(given, SMALL)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=1e-5)
