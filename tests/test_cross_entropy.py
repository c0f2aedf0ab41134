import math

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.cross_entropy import binary_cross_entropy, cross_entropy


def random_case(spread=3.0):
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 11)).astype(np.float32) * np.float32(spread), rng.integers(0, 11, (3, 4))


def softmax(logits):
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def test_the_loss_is_minus_the_log_of_the_labels_probability():
    logits, label = random_case()
    loss = np.asarray(cross_entropy(logits, label)[0])
    for b, p in np.ndindex(3, 4):
        total = sum(math.exp(float(logit)) for logit in logits[b, p])
        assert abs(loss[b, p] + math.log(math.exp(logits[b, p, label[b, p]]) / total)) < 1e-5


def test_the_gradient_is_softmax_minus_one_hot():
    logits, label = random_case()
    gradient = jax.grad(lambda x: cross_entropy(x, label)[0].sum())(logits)
    np.testing.assert_allclose(gradient, softmax(logits.astype(np.float64)) - np.eye(11)[label], rtol=0, atol=1e-6)


def test_huge_logits_neither_overflow_nor_lose_the_loss():
    logits = jnp.array([[[1e4, 0.0, -1e30], [0.0, 1e4, -1e30]]])
    label = jnp.array([[0, 0]])
    assert cross_entropy(logits, label)[0].tolist() == [[0.0, 1e4]]
    assert jnp.isfinite(jax.grad(lambda x: cross_entropy(x, label)[0].sum())(logits)).all()


def test_bfloat16_logits_are_summed_in_float32():
    logits, label = random_case()
    rounded = jnp.asarray(logits, jnp.bfloat16)
    loss, _ = cross_entropy(rounded, label)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, cross_entropy(rounded.astype(jnp.float32), label)[0])


def test_a_label_is_best_where_no_other_logit_is_greater():
    logits, label = random_case()
    label[0, :2] = logits[0, :2].argmax(-1)
    is_best = np.asarray(cross_entropy(logits, label)[1])
    assert is_best[0, :2].all() and not is_best.all()
    np.testing.assert_array_equal(is_best, logits.argmax(-1) == label)


def binary_case():
    rng = np.random.default_rng(0)
    return np.float32(4 * rng.normal(size=(5, 30))), rng.random((5, 30)) < 0.3


def test_the_binary_loss_is_minus_the_log_of_the_sigmoid():
    logit, is_true = binary_case()
    loss = np.asarray(binary_cross_entropy(logit, is_true))
    for place in np.ndindex(logit.shape):
        probability = 1 / (1 + math.exp(-float(logit[place])))
        expected = -math.log(probability if is_true[place] else 1 - probability)
        assert abs(loss[place] - expected) <= 1e-6 * max(expected, 1)


def test_the_binary_gradient_is_sigmoid_minus_truth():
    logit, is_true = binary_case()
    gradient = jax.grad(lambda x: binary_cross_entropy(x, is_true).sum())(logit)
    np.testing.assert_allclose(gradient, 1 / (1 + np.exp(-np.float64(logit))) - is_true, rtol=0, atol=1e-6)


def test_huge_binary_logits_neither_overflow_nor_lose_the_loss():
    logit, is_true = np.float32([[1e4, -1e4, 1e4, -1e4]]), np.array([[True, True, False, False]])
    assert binary_cross_entropy(logit, is_true).tolist() == [[0.0, 1e4, 1e4, 0.0]]
    gradient = jax.grad(lambda x: binary_cross_entropy(x, is_true).sum())(logit)
    assert gradient.tolist() == [[0.0, -1.0, 1.0, 0.0]]


def test_bfloat16_binary_logits_are_summed_in_float32():
    logit, is_true = binary_case()
    rounded = jnp.asarray(logit, jnp.bfloat16)
    loss = binary_cross_entropy(rounded, is_true)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, binary_cross_entropy(rounded.astype(jnp.float32), is_true))
