"""Scale-invariant fine-tuning (SiFT; DeBERTa section 4 and the released sift.py), around any objective with outputs.

Outputs should not change where the word vectors are pushed a little in the worst direction. Each step runs the model
clean, then with a small random perturbation of the normalised word vectors, moves that up the gradient of the distance
between the two outputs (`steps` times), and runs it once more with what came out. That last distance is added to the
loss. With one step that is three passes forward and back, where plain training takes one.

As released: `sift.loss` chooses what the perturbation climbs, but the distance that is added is always the symmetric
cross-entropy, and each pass drops out afresh. (symmetric-kl and kl have the same slope to climb: with the clean output
and the probabilities held, one of the two cross-entropies has none.) The exception is regression, which has one number
a row and no distribution (the released code takes a softmax over the batch there): both are the squared difference.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import SiFTConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.encoder import PERTURBATION
from deberta_jax.objectives.base import Batch
from deberta_jax.objectives.scored import Compared, Scored, plain_loss
from deberta_jax.objectives.sums import Sums
from deberta_jax.ops.perturbation import (
    climbed,
    kl_divergence,
    random_start,
    squared_distance,
    symmetric_cross_entropy,
)

START, FIRST_PASS = 0, 1  # what a step's key is folded with: the random start, and the passes that are perturbed
CLIMBED = {"symmetric-kl": symmetric_cross_entropy, "kl": kl_divergence, "mse": squared_distance}


def sift(
    scored: Scored, cfg: SiFTConfig, weight_name: str, width: int
) -> Callable[..., tuple[jax.Array, tuple[Sums, Batch]]]:
    """The loss of a Part: that of the task, plus `cfg.weight` times the adversarial one, over weights[weight_name].

    `width` is that of the perturbed vectors (hidden_size). Sums gain "adversarial_loss". With weight 0 it is the plain
    loss, bit for bit; else the clean pass is: it has the plain loss's key and no perturbation.
    """
    if cfg.weight == 0:
        return plain_loss(scored, weight_name)
    added = _squared if scored.regression else symmetric_cross_entropy

    def loss(
        params: Any, batch: Batch, key: jax.Array, weights: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, tuple[Sums, Batch]]:
        outputs = scored.apply(params, batch, key, {})
        sums, still = scored.sums(outputs, batch), scored.compared(outputs, batch)
        delta_nle = adversary(scored, cfg, width, params, batch, key, still)
        moved = _moved(scored, params, batch, jax.random.fold_in(key, FIRST_PASS + cfg.steps), delta_nle)
        adversarial = _distance(added, moved, still)
        total = (sums["loss"][0] + cfg.weight * adversarial) / weights[weight_name]
        return total, (sums | {"adversarial_loss": (adversarial, sums["loss"][1])}, {})

    return loss


def adversary(
    scored: Scored,
    cfg: SiFTConfig,
    width: int,
    params: Any,
    batch: Batch,
    key: jax.Array,
    still: Sequence[Compared],
) -> jax.Array:
    """The perturbation [n, l, width] that outputs are compared under, with `still` as outputs of the clean pass.

    A constant: nothing is differentiated through it.
    """
    params, still = jax.lax.stop_gradient((params, still))
    climb = _squared if scored.regression else CLIMBED[cfg.loss]

    def height(delta_nle: jax.Array, pass_key: jax.Array) -> jax.Array:
        return _distance(climb, _moved(scored, params, batch, pass_key, delta_nle), still)

    delta_nle = random_start(jax.random.fold_in(key, START), *scored.perturbed(batch), width, cfg.initial)
    for index in range(cfg.steps):
        delta_nle = constrain(delta_nle, "batch", "length", "embed")
        gradient_nle = jax.grad(height)(delta_nle, jax.random.fold_in(key, FIRST_PASS + index))
        delta_nle = climbed(delta_nle, gradient_nle, cfg.learning_rate)
    return constrain(delta_nle, "batch", "length", "embed")


def _moved(scored: Scored, params: Any, batch: Batch, key: jax.Array, delta_nle: jax.Array) -> Sequence[Compared]:
    """What the model says under a perturbation."""
    variables = {PERTURBATION: {"encoder": {"embeddings": {"words": delta_nle}}}}
    return scored.compared(scored.apply(params, batch, key, variables), batch)


def _distance(distance: Callable, moved: Sequence[Compared], still: Sequence[Compared]) -> jax.Array:
    """Over all items, each by its weight; distributions of one item (start and end of a span) add."""
    pairs = zip(moved, still, strict=True)
    return sum((distance(outputs, before) * weight).sum() for (outputs, weight), (before, _) in pairs)


def _squared(moved_b: jax.Array, still_b: jax.Array) -> jax.Array:
    """Of values, not of logits: there is no axis of classes."""
    return jnp.square(moved_b - still_b)
