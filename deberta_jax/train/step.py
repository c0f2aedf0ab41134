"""One training step, as a pure function of (state, batch)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from deberta_jax.objectives import Objective
from deberta_jax.objectives.base import Batch, Part, of_group, with_group
from deberta_jax.objectives.sums import Sums
from deberta_jax.train.optimizer import Optimizer
from deberta_jax.train.state import TrainState

Gradients = dict[str, Any]  # of each group of parameters


def make_train_step(
    objective: Objective, optimizers: Mapping[str, Optimizer], *, seed: int, micro_batches: int
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """(state, global batch) -> (next state, sums).

    A non-finite loss or gradient leaves the parameters that it would have changed as they were.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key, weights = step_key(seed, state.step), objective.weights(batch)
        params, opt_state = state.params, state.opt_state
        gathered, sums, finite = {}, {}, jnp.array(True)
        for number, part in enumerate(objective.parts):
            gradients, loss, part_sums, found = part_gradients(part, params, batch, key, weights, micro_batches)
            gathered, batch, sums = _added(gathered, gradients), batch | found, sums | part_sums
            due = {group: gathered.pop(group) for group in _groups_after(objective, number)}
            norms = {group: optax.tree.norm(gradients) for group, gradients in due.items()}
            finite &= jnp.isfinite(loss) & jnp.isfinite(jnp.array([0.0, *norms.values()])).all()
            for group, gradients in due.items():
                old = of_group(params, group), of_group(opt_state, group)
                new, report = _updated(optimizers[group], gradients, *old, state.step, finite)
                params, opt_state = with_group(params, group, new[0]), with_group(opt_state, group, new[1])
                sums |= _reported(group, report | {"gradient_norm": norms[group]})
        skipped = state.skipped + jnp.where(finite, 0, 1)
        sums |= _reported("", {"skipped_steps": skipped})
        return TrainState(state.step + 1, skipped, params, opt_state), sums

    return train_step


def _groups_after(objective: Objective, number: int) -> list[str]:
    """The groups that are updated after the part of this number."""
    last = len(objective.parts) - 1
    ends = {group: last for group in objective.groups}
    if not objective.joint:
        ends |= {group: index for index, part in enumerate(objective.parts) for group in part.reaches}
    return [group for group in objective.groups if ends[group] == number]


def _added(gathered: Gradients, gradients: Gradients) -> Gradients:
    both = {group: jax.tree.map(jnp.add, gathered[group], gradients[group]) for group in gathered.keys() & gradients}
    return gathered | gradients | both


def _updated(
    optimizer: Optimizer, gradients: Any, params: Any, opt_state: Any, step: jax.Array, finite: jax.Array
) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
    """((params, optimizer state), what to report) after one update; as they were unless `finite`."""
    rate = optimizer.schedule(step)
    updates, opt_state = optimizer.tx.update(gradients, opt_state, params, finite=finite)
    updates = jax.tree.map(lambda u: jnp.where(finite, -rate * u, 0), updates)
    params = optax.apply_updates(params, updates)
    report = {
        "learning_rate": rate,
        "update_norm": optax.tree.norm(updates),
        "parameter_norm": optax.tree.norm(params),
    }
    return (params, opt_state), report


def _reported(group: str, report: dict[str, jax.Array]) -> Sums:
    prefix = f"{group}/" if group else ""
    return {prefix + name: (value.astype(jnp.float32), jnp.ones(())) for name, value in report.items()}


def step_key(seed: int, step: jax.Array) -> jax.Array:
    """All randomness of the update number `step` (from 0)."""
    return jax.random.fold_in(jax.random.key(seed), step)


def batch_gradients(
    objective: Objective, params: Any, batch: Batch, key: jax.Array, micro_batches: int
) -> tuple[Any, jax.Array, Sums]:
    """(gradients, loss, sums) of the global batch: of all parts together, none of the parameters updated between."""
    weights = objective.weights(batch)
    gathered, total, sums = {}, jnp.zeros(()), {}
    for part in objective.parts:
        gradients, loss, part_sums, found = part_gradients(part, params, batch, key, weights, micro_batches)
        gathered, batch, sums, total = _added(gathered, gradients), batch | found, sums | part_sums, total + loss
    tree = {}
    for group, gradients in gathered.items():
        tree = with_group(tree, group, gradients)
    return tree, total, sums


def part_gradients(
    part: Part, params: Any, batch: Batch, key: jax.Array, weights: dict, micro_batches: int
) -> tuple[Gradients, jax.Array, Sums, Batch]:
    """(gradients of the groups that the part reaches, its loss, its sums, what it found) of the global batch.

    The gradients of micro-batches add to the batch's: each is divided by the weights of the whole batch, so ragged mask
    counts make no difference (a mean of means would be another loss).
    """

    def loss_of(reached: Gradients, rows: Batch):
        whole = params
        for group, values in reached.items():
            whole = with_group(whole, group, values)
        return part.loss(whole, rows, key, weights)

    reached = {group: of_group(params, group) for group in part.reaches}
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    if micro_batches == 1:
        (loss, (sums, found)), gradients = gradient(reached, batch)
        return gradients, loss, sums, found

    def add_rows(total, rows):
        (loss, (sums, found)), gradients = gradient(reached, rows)
        return jax.tree.map(jnp.add, total, (gradients, loss, sums)), found

    parts = jax.tree.map(lambda x: split_rows(x, micro_batches), batch)
    (loss, (sums, _)), gradients = jax.eval_shape(gradient, reached, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (gradients, loss, sums))
    (gradients, loss, sums), found = jax.lax.scan(add_rows, zeros, parts)
    return gradients, loss, sums, jax.tree.map(merge_rows, found)


def split_rows(x: jax.Array, parts: int) -> jax.Array:
    """[b, ...] to [parts, b / parts, ...], dealt like cards: each device's rows stay on it."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def merge_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
