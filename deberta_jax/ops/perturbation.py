"""Adversarial perturbation of word vectors (SiFT, DeBERTa section 4): where it starts, how it climbs, how far it moves.

Distances are of float32 logits [..., c] and come out as [...]; a class whose logit is hugely negative in both (-1e9, as
that of padding) adds nothing and has no gradient.
"""

import jax
import jax.numpy as jnp

SMALLEST = 1e-6  # added to the largest entry of a gradient before it divides; as released


def perturbed(x_ble: jax.Array, delta_ble: jax.Array, epsilon: float) -> jax.Array:
    """`x_ble` with `delta_ble` added in units of each token's own spread, float32; to be normalised by a LayerNorm.

    The paper perturbs normalised vectors, since the spread of raw ones differs between words and models. The LayerNorm
    that follows does not see the scale: LN(x + spread * delta) is LN(LN(x) + delta) with one epsilon less, and a delta
    of zero is exactly nothing. (The released code normalises twice, in the clean pass too, so that what it trains is
    not quite what is used without it.) As released, no gradient passes to the vectors, only to delta.
    """
    x_ble = jax.lax.stop_gradient(x_ble.astype(jnp.float32))
    spread_bl1 = jnp.sqrt(x_ble.var(-1, keepdims=True) + epsilon)
    return x_ble + spread_bl1 * delta_ble


def random_start(key: jax.Array, row_n: jax.Array, real_nl: jax.Array, width: int, deviation: float) -> jax.Array:
    """[n, l, width], float32: normal, clipped at two standard deviations; zero where not `real_nl`.

    What a sequence starts with depends on the key and its global number in `row_n`, not on the sequences beside it.
    """
    shape = (real_nl.shape[1], width)
    normal_nle = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape))(row_n)
    return jnp.where(real_nl[..., None], deviation * jnp.clip(normal_nle, -2, 2), 0)


def climbed(delta_nle: jax.Array, gradient_nle: jax.Array, learning_rate: float) -> jax.Array:
    """`delta_nle` after a step up the gradient, whose largest entry is `learning_rate` for each token.

    A token whose gradient is not finite stays. (The released code then leaves the whole batch where it is, which would
    make a row depend on the rows beside it.)
    """
    largest_nl1 = jnp.abs(gradient_nle).max(-1, keepdims=True)
    step_nle = learning_rate * gradient_nle / (SMALLEST + largest_nl1)
    return jnp.where(jnp.isfinite(largest_nl1), delta_nle + step_nle, delta_nle)


def symmetric_cross_entropy(moved: jax.Array, still: jax.Array) -> jax.Array:
    """-sum p(still) log p(moved) - sum p(moved) log p(still), in nats; the probabilities count as constants.

    What the released code calls symmetric-kl. The entropies are not subtracted, so it is 2 ln c, not 0, where both are
    uniform over c classes; but its gradients are those of KL(p(still) || p(moved)) and KL(p(moved) || p(still)) with
    the first argument held: p(moved) - p(still) and the opposite, zero where the distributions agree.
    """
    log_moved, log_still = (jax.nn.log_softmax(each.astype(jnp.float32)) for each in (moved, still))
    p_moved, p_still = (jax.lax.stop_gradient(jnp.exp(each)) for each in (log_moved, log_still))
    return -(p_still * log_moved).sum(-1) - (p_moved * log_still).sum(-1)


def kl_divergence(moved: jax.Array, still: jax.Array) -> jax.Array:
    """KL(p(still) || p(moved)) in nats, with no gradient to `still`."""
    log_moved, log_still = (jax.nn.log_softmax(each.astype(jnp.float32)) for each in (moved, still))
    log_still = jax.lax.stop_gradient(log_still)
    return (jnp.exp(log_still) * (log_still - log_moved)).sum(-1)


def squared_distance(moved: jax.Array, still: jax.Array) -> jax.Array:
    """Of logits, summed over classes; its gradient reaches both."""
    return jnp.square(moved.astype(jnp.float32) - still.astype(jnp.float32)).sum(-1)
