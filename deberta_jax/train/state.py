"""What training carries from step to step: arrays only, so that it saves and shards as it is."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from deberta_jax.dist.axes import shardings_of, unboxed
from deberta_jax.objectives import Objective


class TrainState(struct.PyTreeNode):
    step: jax.Array  # updates tried; batch and randomness of the next one follow from it
    skipped: jax.Array  # of those, how many had a non-finite loss or gradient
    params: Any
    opt_state: Any


def state_init(objective: Objective, tx: optax.GradientTransformation):
    """key -> TrainState whose leaves still carry the names of their axes."""

    def init(key: jax.Array) -> TrainState:
        params = objective.init(key)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(step=zero, skipped=zero, params=params, opt_state=tx.init(params))

    return init


def abstract_state(objective: Objective, tx: optax.GradientTransformation, rules, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state; allocates nothing."""
    boxed = jax.eval_shape(state_init(objective, tx), jax.random.key(0))
    shardings = shardings_of(boxed, rules, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unboxed(boxed),
        shardings,
    )


def fresh_state(objective: Objective, tx: optax.GradientTransformation, abstract: TrainState, seed: int) -> TrainState:
    """A new state, made in place on the devices that hold it."""
    init = state_init(objective, tx)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(lambda key: unboxed(init(key)), out_shardings=shardings)(jax.random.key(seed))
