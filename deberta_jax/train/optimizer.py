"""AdamW and its schedule. The learning rate is a function of the step alone and is applied by the train step."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deberta_jax.config import ModelConfig, OptimizerConfig, RunConfig, TaskOptimizerConfig
from deberta_jax.dist.axes import unboxed
from deberta_jax.errors import Refused
from deberta_jax.objectives.embedding_sharing import GENERATOR
from deberta_jax.train.adam import clip_by_global_norm, scale_by_adam


class Optimizer(NamedTuple):
    """Of one group of parameters."""

    tx: optax.GradientTransformationExtraArgs
    schedule: Callable[[jax.Array], jax.Array]  # number of the update, from 0, to its learning rate


def optimizers_of(config: RunConfig, groups: Sequence[str]) -> dict[str, Optimizer]:
    """An optimizer for each group of an objective."""
    optimizers = {}
    for group in groups:
        name, cfg = ("rtd.optimizer", config.rtd.optimizer) if group == GENERATOR else ("optimizer", config.optimizer)
        tx = make_optimizer(cfg, name)
        if isinstance(cfg, TaskOptimizerConfig):
            tx = finetuning(tx, cfg, config.model)
        optimizers[group] = Optimizer(tx, make_schedule(cfg, config.steps))
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


def make_optimizer(cfg: OptimizerConfig, name: str = "optimizer") -> optax.GradientTransformationExtraArgs:
    """Clipping, Adam (bias-corrected, epsilon outside the root), decoupled decay; the step scales by -rate.

    Its `update` takes `finite`: whether the state may change. `name` is the group's place in the config.
    """
    return optax.chain(
        clip_by_global_norm(cfg.clip_norm),
        scale_by_adam(cfg.b1, cfg.b2, cfg.eps),
        optax.add_decayed_weights(cfg.weight_decay, mask=lambda params: decay_mask(params, cfg.no_decay, name)),
    )


def finetuning(
    tx: optax.GradientTransformationExtraArgs, cfg: TaskOptimizerConfig, model: ModelConfig
) -> optax.GradientTransformationExtraArgs:
    """`tx` with layer-wise rates and frozen parameters.

    What is frozen has no gradient, so that it takes no part in clipping, and is not decayed either.
    """

    def scaled(updates: Any, factors: Any) -> Any:
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    def thaw(updates: Any, params: Any) -> Any:
        frozen = frozen_mask(params, cfg.freeze)
        return jax.tree.map(lambda update, is_frozen: jnp.zeros_like(update) if is_frozen else update, updates, frozen)

    def by_layer(updates: Any, params: Any) -> Any:
        return thaw(scaled(updates, layer_rates(params, cfg.layer_decay, model)), params)

    whole = optax.chain(optax.stateless(thaw), tx, optax.stateless(by_layer))

    def init(params: Any) -> Any:
        frozen_mask(params, cfg.freeze)  # a wrong pattern is told before anything is trained
        return whole.init(params)

    return optax.GradientTransformationExtraArgs(init, whole.update)


def frozen_mask(params: Any, patterns: Sequence[str]) -> Any:
    """A tree of booleans: True where a pattern matches the path. Raises Refused for one that matches nothing, and where
    nothing is left to train."""
    paths = [path for path, _ in named_leaves(unboxed(params))]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise Refused(f"optimizer.freeze: {pattern!r} matches no parameter")
    frozen = [any(re.search(pattern, path) for pattern in patterns) for path in paths]
    if all(frozen):
        raise Refused("optimizer.freeze: every parameter is frozen")
    return jax.tree.unflatten(jax.tree.structure(params), frozen)


def layer_rates(params: Any, decay: float, model: ModelConfig) -> Any:
    """A tree of factors on the learning rate: 1 for the head, decay ** n for the n-th layer from the top.

    Embeddings and the relative table lie below the first layer, a convolution beside it. Of stacked layers it is an
    array over them.
    """
    depth = model.num_layers

    def rate(path: str, leaf: jax.Array) -> Any:
        if not path.startswith("encoder/"):
            return 1.0
        name = path.split("/")[1]
        if name == "blocks":
            first = 2 if model.conv_kernel_size else 1
            layers = first + jnp.arange(leaf.shape[0])
            return decay ** (depth + 1.0 - layers).reshape(-1, *(1,) * (leaf.ndim - 1))
        layer = {"last": depth, "first": 1, "convolution": 1, "embeddings": 0, "relative": 0, "relative_norm": 0}[name]
        return decay ** (depth + 1.0 - layer)

    leaves = [rate(path, leaf) for path, leaf in named_leaves(unboxed(params))]
    return jax.tree.unflatten(jax.tree.structure(unboxed(params)), leaves)


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
