"""The parts of the scores against loops over query and key, in float64, one number at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from attention_cases import LINEAR, SMALL, TERMS, problem
from deberta_jax.ops.attention import reference, xla
from deberta_jax.ops.attention.parts import mean_by_distance, score_parts, without_query_mean
from deberta_jax.ops.attention.softmax import mix

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def slow_parts(given, span):
    """{term: [h, b, q, k]}"""
    arrays = (given.q_bqhd, given.k_bkhd, given.pos_k_rhd, given.pos_q_rhd)
    q, k, far, near = (None if part is None else np.asarray(part, np.float64) for part in arrays)
    rows, length, heads, size = q.shape
    parts = {term: np.zeros((heads, rows, length, length)) for term in ("c2c", *given.terms)}
    for h, b, i, j in np.ndindex(heads, rows, length, length):
        row = slow_deberta.table_row(i, j, *span)
        products = {
            "c2c": lambda h, b, i, j, row: q[b, i, h] @ k[b, j, h],
            "c2p": lambda h, b, i, j, row: q[b, i, h] @ far[row, h],
            "p2c": lambda h, b, i, j, row: k[b, j, h] @ near[row, h],
            "p2p": lambda h, b, i, j, row: near[row, h] @ far[row, h],
        }
        for term, part in parts.items():
            part[h, b, i, j] = products[term](h, b, i, j, row) / np.sqrt(size * len(parts))
    return parts


@pytest.mark.parametrize("terms", TERMS)
def test_each_part_is_its_term_of_the_formula(terms):
    given = problem(20, SMALL, terms)
    found, expected = score_parts(given), slow_parts(given, SMALL)
    assert list(found) == ["c2c", *TERMS[terms]]
    for term, part_hbqk in expected.items():
        np.testing.assert_allclose(found[term], part_hbqk, rtol=0, atol=1e-5, err_msg=term)


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_are_float32_and_their_sum_are_the_scores(dtype):
    given = problem(20, LINEAR, "c2p|p2c|p2p", dtype=DTYPES[dtype])
    parts = score_parts(given)
    for term, part_hbqk in slow_parts(given, LINEAR).items():
        assert parts[term].dtype == jnp.float32
        np.testing.assert_allclose(parts[term], part_hbqk, rtol=0, atol=1e-5)
    total_hbqk = np.sum([np.asarray(part, np.float64) for part in parts.values()], axis=0)
    np.testing.assert_allclose(reference.scores(given), total_hbqk, rtol=0, atol=1e-6)


@pytest.mark.parametrize("terms", ["none", "c2p|p2c"])
def test_values_mixed_by_the_probabilities_are_what_attention_gives(terms):
    given = problem(20, SMALL, terms)
    p_hbqk = reference.probabilities(given)
    np.testing.assert_allclose(mix(p_hbqk, given.v_bkhd), xla.attend(given), rtol=0, atol=1e-5)
    seen = np.asarray(given.document_bk) > 0
    np.testing.assert_allclose(p_hbqk.sum(-1), np.broadcast_to(seen, p_hbqk.shape[:-1]), atol=1e-6)


def test_a_softmax_does_not_see_the_mean_that_is_taken_off():
    part_hqk = np.random.default_rng(0).normal(2, 3, (2, 7, 7))
    less_hqk = without_query_mean(part_hqk)
    np.testing.assert_allclose(less_hqk.sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(less_hqk), np.diff(part_hqk), atol=1e-12)
    np.testing.assert_allclose(jax.nn.softmax(less_hqk), jax.nn.softmax(part_hqk), atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_means_by_distance_are_those_of_loops_over_query_and_key(length):
    values_hqk = np.random.default_rng(0).normal(size=(3, length, length))
    expected = []
    for distance in range(-length + 1, length):
        pairs = [(i, j) for i in range(length) for j in range(length) if i - j == distance]
        expected.append(sum(values_hqk[:, i, j] for i, j in pairs) / len(pairs))
    np.testing.assert_allclose(mean_by_distance(values_hqk), np.stack(expected, -1), rtol=0, atol=1e-12)
