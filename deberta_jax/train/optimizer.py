"""AdamW and its schedule. The learning rate is a function of the step alone and is applied by the train step."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deberta_jax.config import Config, OptimizerConfig
from deberta_jax.dist.axes import unboxed
from deberta_jax.errors import Refused
from deberta_jax.objectives.embedding_sharing import GENERATOR


class Optimizer(NamedTuple):
    """Of one group of parameters."""

    tx: optax.GradientTransformation
    schedule: Callable[[jax.Array], jax.Array]  # number of the update, from 0, to its learning rate


def optimizers_of(config: Config, groups: Sequence[str]) -> dict[str, Optimizer]:
    """An optimizer for each group of an objective."""
    optimizers = {}
    for group in groups:
        name, cfg = ("rtd.optimizer", config.rtd.optimizer) if group == GENERATOR else ("optimizer", config.optimizer)
        optimizers[group] = Optimizer(make_optimizer(cfg, name), make_schedule(cfg, config.steps))
    return optimizers


def make_schedule(cfg: OptimizerConfig, steps: int) -> Callable[[jax.Array], jax.Array]:
    """Learning rate of the update number `step` (from 0), float32.

    Warm-up rises linearly and reaches the peak with its last update, so that no update is spent at rate 0; the decay
    starts from the peak. (The released schedule starts at 0 and drops by a tenth where warm-up ends.)
    """
    decay_steps = max(steps - cfg.warmup_steps, 1)
    end = cfg.end_fraction

    def schedule(step: jax.Array) -> jax.Array:
        warm = jnp.minimum((step + 1) / max(cfg.warmup_steps, 1), 1)
        progress = jnp.clip((step - cfg.warmup_steps) / decay_steps, 0, 1)
        shape = {
            "constant": jnp.ones_like(progress),
            "linear": 1 - progress,
            "cosine": (1 + jnp.cos(jnp.pi * progress)) / 2,
        }[cfg.schedule]
        return (cfg.learning_rate * warm * (end + (1 - end) * shape)).astype(jnp.float32)

    return schedule


def make_optimizer(cfg: OptimizerConfig, name: str = "optimizer") -> optax.GradientTransformation:
    """Clipping, Adam (bias-corrected, epsilon outside the root), decoupled decay; the step scales by -rate.

    `name` is the group's place in the config.
    """
    return optax.chain(
        optax.clip_by_global_norm(cfg.clip_norm),
        optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, mask=lambda params: decay_mask(params, cfg.no_decay, name)),
    )


def decay_mask(params: Any, no_decay: tuple[str, ...], name: str = "optimizer") -> Any:
    """A tree of booleans: True where the parameter is decayed. Raises Refused for a pattern that matches nothing."""
    paths = [path for path, _ in named_leaves(unboxed(params))]  # a box would add its own name to the path
    for pattern in no_decay:
        if not any(re.search(pattern, path) for path in paths):
            raise Refused(f"{name}.no_decay: {pattern!r} matches no parameter")
    decayed = [not any(re.search(pattern, path) for pattern in no_decay) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(params), decayed)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """("encoder/last/mlp_in/kernel", leaf) for each leaf, in tree order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]
