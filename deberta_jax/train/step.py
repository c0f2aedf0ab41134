"""One training step, as a pure function of (state, batch)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from deberta_jax.objectives import Objective
from deberta_jax.objectives.base import Batch, Sums
from deberta_jax.train.state import TrainState


def make_train_step(
    objective: Objective,
    tx: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    seed: int,
    micro_batches: int,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """(state, global batch) -> (next state, sums). A non-finite loss or gradient leaves parameters as they were."""

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = step_key(seed, state.step)
        gradients, loss, sums = batch_gradients(objective, state.params, batch, key, micro_batches)
        gradient_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
        rate = schedule(state.step)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: jnp.where(finite, -rate * u, 0), updates)
        params = optax.apply_updates(state.params, updates)
        opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), opt_state, state.opt_state)
        skipped = state.skipped + jnp.where(finite, 0, 1)
        report = {
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "update_norm": optax.tree.norm(updates),
            "parameter_norm": optax.tree.norm(params),
            "skipped_steps": skipped,
        }
        sums = sums | {name: (value.astype(jnp.float32), jnp.ones(())) for name, value in report.items()}
        return TrainState(state.step + 1, skipped, params, opt_state), sums

    return train_step


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """All randomness of the update number `step` (from 0)."""
    return jax.random.fold_in(jax.random.key(seed), step)


def batch_gradients(
    objective: Objective, params: Any, batch: Batch, key: jax.Array, micro_batches: int
) -> tuple[Any, jax.Array, Sums]:
    """(gradients, loss, sums) of the global batch, computed in `micro_batches` equal parts.

    The parts' gradients add to the batch's: each part is divided by the weights of the whole batch, so ragged mask
    counts make no difference (a mean of means would be another loss).
    """
    weights = objective.weights(batch)
    gradient = jax.value_and_grad(objective.loss, has_aux=True)
    if micro_batches == 1:
        (loss, sums), gradients = gradient(params, batch, key, weights)
        return gradients, loss, sums

    def add_part(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, part, key, weights)), None

    parts = jax.tree.map(lambda x: split_rows(x, micro_batches), batch)
    first = jax.tree.map(lambda x: x[0], parts)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(gradient, params, first, key, weights))
    ((loss, sums), gradients), _ = jax.lax.scan(add_part, zeros, parts)
    return gradients, loss, sums


def split_rows(x: jax.Array, parts: int) -> jax.Array:
    """[b, ...] to [parts, b / parts, ...], dealt like cards: each device's rows stay on it."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
