"""What a model says about a batch, before it is made into a loss: what a loss can be wrapped around."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from deberta_jax.objectives.base import Batch
from deberta_jax.objectives.sums import Sums

Compared = tuple[jax.Array, jax.Array]  # (logits [..., c], weight [...]); of a regression (values [b], weight [b])


@dataclasses.dataclass(frozen=True)
class Scored:
    """An objective's forward pass and what is read off its outputs.

    The weights that `compared` gives with one distribution add up to that of "loss" in `sums`, so that both are divided
    by the same weight of the global batch.
    """

    # (params, batch, key or None = deterministic, further variable collections of model.apply) -> outputs
    apply: Callable[[Any, Batch, jax.Array | None, Mapping[str, Any]], Any]
    sums: Callable[[Any, Batch], Sums]  # of outputs; "loss" is among them
    compared: Callable[[Any, Batch], Sequence[Compared]]  # distributions, or the values of a regression
    regression: bool
    # (global numbers [n] of the sequences that the encoder embeds, whether each of their tokens is real [n, l])
    perturbed: Callable[[Batch], tuple[jax.Array, jax.Array]]


def plain_loss(scored: Scored, weight_name: str) -> Callable[..., tuple[jax.Array, tuple[Sums, Batch]]]:
    """The loss of a Part: the sum of "loss" over the global weight weights[weight_name]."""

    def loss(
        params: Any, batch: Batch, key: jax.Array, weights: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, tuple[Sums, Batch]]:
        sums = scored.sums(scored.apply(params, batch, key, {}), batch)
        return sums["loss"][0] / weights[weight_name], (sums, {})

    return loss
