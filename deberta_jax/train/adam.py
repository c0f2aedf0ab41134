"""Clipping and Adam, written so that XLA updates parameters and moments where they are, without copies.

The arithmetic is optax's, and the state is optax's own. What differs is the order: a moment is kept or renewed before
anything reads it, and a gradient is scaled by one number. Optax's order makes XLA copy every moment first and write
the clipped gradients out; on two CPU cores an update of 53 million parameters took 1.7 times as long.
"""

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """All gradients times min(1, `limit` / their global norm)."""

    def clip(gradients: optax.Updates, _: optax.Params) -> optax.Updates:
        norm = optax.tree.norm(gradients)
        factor = jnp.where(norm > limit, limit / norm, 1.0)
        return jax.tree.map(lambda gradient: gradient * factor, gradients)

    return optax.stateless(clip)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Gradients to Adam's directions, bias-corrected, `eps` outside the root (Kingma and Ba 2015, algorithm 1).

    `update` takes `finite`, a boolean: where it is false the state stays as it was.
    """

    def update(gradients, state, params=None, *, finite: jax.Array):
        def kept(old, new):
            return jnp.where(finite, new, old)

        count = kept(state.count, optax.safe_increment(state.count))
        mu = jax.tree.map(lambda m, g: kept(m, b1 * m + (1 - b1) * g), state.mu, gradients)
        nu = jax.tree.map(lambda v, g: kept(v, b2 * v + (1 - b2) * g * g), state.nu, gradients)
        of_mu, of_nu = 1 / (1 - b1**count), 1 / (1 - b2**count)
        directions = jax.tree.map(lambda m, v: m * of_mu / (jnp.sqrt(v * of_nu) + eps), mu, nu)
        return directions, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(optax.scale_by_adam().init, update)
