"""What training carries from step to step: arrays only, so that it saves and shards as it is."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh

from deberta_jax.dist.axes import shardings_of, unboxed
from deberta_jax.objectives import Objective
from deberta_jax.objectives.base import of_group, with_group
from deberta_jax.train.optimizer import Optimizer


class TrainState(struct.PyTreeNode):
    step: jax.Array  # updates tried; batch and randomness of the next one follow from it
    skipped: jax.Array  # of those, how many had a non-finite loss or gradient
    params: Any
    opt_state: Any  # of each group of parameters, laid out as they are


def state_init(objective: Objective, optimizers: Mapping[str, Optimizer]) -> Callable[[jax.Array], TrainState]:
    """key -> TrainState whose leaves still carry the names of their axes."""

    def init(key: jax.Array) -> TrainState:
        params, opt_state = objective.init(key), {}
        for group, optimizer in optimizers.items():
            opt_state = with_group(opt_state, group, optimizer.tx.init(of_group(params, group)))
        zero = jnp.zeros((), jnp.int32)
        return TrainState(step=zero, skipped=zero, params=params, opt_state=opt_state)

    return init


def abstract_state(objective: Objective, optimizers: Mapping[str, Optimizer], rules, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; allocates nothing."""
    return abstract(state_init(objective, optimizers), rules, mesh)


def abstract(init: Callable[[jax.Array], Any], rules, mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings of what `init`, key -> boxed tree, makes; allocates nothing."""
    boxed = jax.eval_shape(init, jax.random.key(0))
    shardings = shardings_of(boxed, rules, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unboxed(boxed),
        shardings,
    )


def fresh_state(
    objective: Objective, optimizers: Mapping[str, Optimizer], abstract: TrainState, seed: int
) -> TrainState:
    """A new state, made in place on the devices that hold it."""
    init = state_init(objective, optimizers)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda key: unboxed(init(key)), out_shardings=shardings)(jax.random.key(seed))
