"""The cuDNN path without a GPU: what it hands to cuDNN, with jax's own implementation in cuDNN's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, problem, relative_l2, solved
from deberta_jax.ops.attention import gpu, reference
from deberta_jax.ops.attention.problem import allowed_pairs


@pytest.mark.parametrize("terms", ["c2p|p2c", "c2p"])
def test_the_bias_is_what_the_scores_have_beside_queries_times_keys(terms):
    given = problem(40, SPANS["small"], terms, dtype=jnp.bfloat16)
    allowed_bqk = allowed_pairs(given.document_bk, given.document_bk)
    content = jnp.einsum("bqhd,bkhd->bhqk", given.q_bqhd, given.k_bkhd, preferred_element_type=jnp.float32)
    expected = reference.scores(given).swapaxes(0, 1) - content * given.scale
    found = np.asarray(gpu.bias(given, allowed_bqk), np.float32)
    allowed = np.broadcast_to(allowed_bqk[:, None], found.shape)
    np.testing.assert_allclose(found[allowed], np.asarray(expected)[allowed], rtol=0, atol=0.05)  # bfloat16 of up to 8
    assert (found[~allowed] == gpu.MASKED).all()


def test_dropout_and_float32_are_refused():
    for given in (
        problem(8, SPANS["small"], "c2p|p2c"),
        problem(8, SPANS["small"], "c2p", rate=0.1, dtype=jnp.bfloat16),
    ):
        with pytest.raises(ValueError, match="no dropout"):
            gpu.attend(given)


def test_xla_attention_stands_in_for_cudnn_and_gives_what_the_reference_gives(monkeypatch):
    """The same call with jax's own implementation: mask, scale, odd lengths and rows without a key are ours."""
    call = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: call(*a, **(k | {"implementation": "xla"})))
    for length, terms in ((7, "c2p|p2c"), (40, "none")):
        given = problem(length, SPANS["small"], terms, dtype=jnp.bfloat16)
        found, exact = solved(gpu.attend, given), solved(reference.attend, problem(length, SPANS["small"], terms))
        assert relative_l2(found, exact) < 0.01
        nobody = np.asarray(given.document_bk) == 0
        assert not found[0][nobody].any()
        assert not found[1]["q_bqhd"][nobody].any() and not found[1]["k_bkhd"][nobody].any()
