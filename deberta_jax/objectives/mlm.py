"""Masked language modelling: cross-entropy of the original tokens at the masked positions."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import Config
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.objectives.base import WHOLE, Batch, Lexicon, Objective, Part
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.scored import Scored, plain_loss
from deberta_jax.objectives.sift import sift
from deberta_jax.objectives.sums import Sums, perplexity, ratios
from deberta_jax.ops.cross_entropy import cross_entropy

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
BEST = 10  # candidates of each masked position


def masked_language_model(config: Config, lexicon: Lexicon) -> Objective:
    """The objective "mlm"."""
    model = MaskedLM(config.model)
    return Objective(
        groups=(WHOLE,),
        parts=(Part(_loss(model, config), reaches=(WHOLE,)),),
        joint=False,
        init=init_of("mlm", config.model),
        weights=lambda batch: {"mlm": prediction_weight(batch)},
        evaluate=functools.partial(_evaluate, model, lexicon.top_id),
        predict=functools.partial(predict, model, best=BEST),
        summary=_summary,
        conclusion=_conclusion,
    )


def prediction_weight(batch: Batch) -> jax.Array:
    """The number of predictions, at least 1."""
    return jnp.maximum(batch["weights"].sum(), 1)


def table_logits(
    model: MaskedLM, params: Any, batch: Batch, key: jax.Array | None, variables: Mapping[str, Any] = NOTHING
) -> jax.Array:
    """Logits [b, p, v] at the masked positions, over all rows of the word table; deterministic without a key."""
    return model.apply(
        {"params": params, **variables},
        batch["input_ids"],
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        masked_positions=batch["masked_positions"],
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
        method="table_logits",
    )


def prediction_sums(logits_bpv: jax.Array, batch: Batch) -> Sums:
    """loss and accuracy of the predictions."""
    weight_bp = batch["weights"]
    count = weight_bp.sum()
    nll_bp, right_bp = cross_entropy(logits_bpv, batch["labels"])
    return {"loss": ((nll_bp * weight_bp).sum(), count), "accuracy": ((right_bp * weight_bp).sum(), count)}


def baseline_sums(batch: Batch, top_id: int) -> Sums:
    """The accuracy of always guessing the most frequent token."""
    right_bp = (batch["labels"] == top_id) * batch["weights"]
    return {"baseline_accuracy": (right_bp.sum(), batch["weights"].sum())}


def predict(model: MaskedLM, params, batch: Batch, best: int) -> tuple[jax.Array, jax.Array]:
    """The `best` most probable ids at the masked positions, and their probabilities, [b, p, k]."""
    probability_bpv = jax.nn.softmax(table_logits(model, params, batch, None), axis=-1)
    probability_bpk, id_bpk = jax.lax.top_k(probability_bpv, best)
    return id_bpk, probability_bpk


def _loss(model: MaskedLM, config: Config) -> Callable:
    scored = Scored(
        apply=functools.partial(table_logits, model),
        sums=prediction_sums,
        compared=lambda logits_bpv, batch: [(logits_bpv, batch["weights"])],
        regression=False,
        perturbed=lambda batch: (batch["rows"], batch["documents"] > 0),
    )
    if config.sift is None:
        return plain_loss(scored, "mlm")
    return sift(scored, config.sift, "mlm", config.model.hidden_size)


def _evaluate(model: MaskedLM, top_id: int, params, batch: Batch) -> Sums:
    return prediction_sums(table_logits(model, params, batch, None), batch) | baseline_sums(batch, top_id)


def _summary(sums: Sums) -> dict[str, float]:
    values = ratios(sums)
    values["predictions"] = float(sums["loss"][1])
    if "loss" in values:  # not in a batch without a prediction
        values["perplexity"] = perplexity(values["loss"])
    return values


def _conclusion(scores: dict[str, float]) -> str:
    accuracy, baseline = scores["accuracy"], scores["baseline_accuracy"]
    times = f"{accuracy / baseline:.1f} times" if baseline else "against"
    return (
        f"loss {scores['loss']:.3f}, perplexity {scores['perplexity']:.1f}, accuracy {accuracy:.1%}, {times} the "
        f"{baseline:.1%} of always guessing the most frequent token ({scores['predictions']:.0f} predictions)"
    )
