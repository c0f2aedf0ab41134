"""The contract between an objective and the training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

Batch = dict[str, jax.Array]
Sums = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight); they add over micro-batches, devices and batches


@dataclasses.dataclass(frozen=True)
class Objective:
    """Pure functions over (params, batch).

    Every loss is a sum over items and a weight that the batch alone determines. So the weights of the whole global
    batch are known before any micro-batch runs, each part is divided by them once, and gradients of micro-batches add.
    """

    init: Callable[[jax.Array], Any]  # key -> boxed params
    weights: Callable[[Batch], dict[str, jax.Array]]  # of the whole global batch
    loss: Callable[..., tuple[jax.Array, Sums]]  # (params, batch, key, weights) -> (scalar, sums)
    evaluate: Callable[[Any, Batch], Sums]  # (params, batch), deterministic
    predict: Callable[[Any, Batch, int], tuple[jax.Array, jax.Array]]  # the k best (ids, probabilities) [b, p, k]
