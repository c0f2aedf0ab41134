"""Masked language modelling: cross-entropy of the original tokens at the masked positions."""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import Config
from deberta_jax.dist.axes import constrain, parts_of
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.objectives.base import WHOLE, Batch, Lexicon, Objective, Part
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.scored import Scored
from deberta_jax.objectives.sift import sift
from deberta_jax.objectives.sums import Sums, perplexity, ratios
from deberta_jax.ops.cross_entropy import cross_entropy
from deberta_jax.ops.vocabulary_loss import Chunking, LogitFactors, vocabulary_loss

NOTHING: Mapping[str, Any] = types.MappingProxyType({})
BEST = 10  # candidates of each masked position


def masked_language_model(config: Config, lexicon: Lexicon) -> Objective:
    """The objective "mlm"."""
    model = MaskedLM(config.model, frequent_id=lexicon.mask_id)
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


def logit_factors(
    model: MaskedLM, params: Any, batch: Batch, key: jax.Array | None, variables: Mapping[str, Any] = NOTHING
) -> LogitFactors:
    """Those of the logits [b, p, v] at the masked positions; deterministic without a key."""
    return _apply("logit_factors", model, params, batch, key, variables)


def table_logits(
    model: MaskedLM, params: Any, batch: Batch, key: jax.Array | None, variables: Mapping[str, Any] = NOTHING
) -> jax.Array:
    """Logits [b, p, v] at the masked positions, over all rows of the word table; deterministic without a key."""
    return _apply("table_logits", model, params, batch, key, variables)


def _apply(
    method: str, model: MaskedLM, params: Any, batch: Batch, key: jax.Array | None, variables: Mapping[str, Any]
) -> Any:
    return model.apply(
        {"params": params, **variables},
        batch["input_ids"],
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        masked_positions=batch["masked_positions"],
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
        method=method,
    )


def prediction_sums(factors: LogitFactors, batch: Batch) -> Sums:
    """loss and accuracy of the predictions, a chunk of logits at a time."""
    return named_sums(*vocabulary_loss(factors, batch["labels"], batch["weights"], chunking()), batch)


def chunking() -> Chunking:
    """How the predictions of a batch are taken in turn under the mesh in force."""
    return Chunking(parts=parts_of("batch"), place=constrain)


def named_sums(loss: jax.Array, hits: jax.Array, batch: Batch) -> Sums:
    """loss and accuracy of the predictions, from their weighted sums."""
    count = batch["weights"].sum()
    return {"loss": (loss, count), "accuracy": (hits, count)}


def logit_sums(logits_bpv: jax.Array, batch: Batch) -> Sums:
    """As `prediction_sums`, of all logits at once: what SiFT has to compare."""
    nll_bp, right_bp = cross_entropy(logits_bpv, batch["labels"])
    return named_sums((nll_bp * batch["weights"]).sum(), (right_bp * batch["weights"]).sum(), batch)


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
    if config.sift is None:
        return functools.partial(_plain_loss, model)
    scored = Scored(
        apply=functools.partial(table_logits, model),
        sums=logit_sums,
        compared=lambda logits_bpv, batch: [(logits_bpv, batch["weights"])],
        regression=False,
        perturbed=lambda batch: (batch["rows"], batch["documents"] > 0),
    )
    return sift(scored, config.sift, "mlm", config.model.hidden_size)


def _plain_loss(
    model: MaskedLM, params: Any, batch: Batch, key: jax.Array, weights: Mapping[str, jax.Array]
) -> tuple[jax.Array, tuple[Sums, Batch]]:
    sums = prediction_sums(logit_factors(model, params, batch, key), batch)
    return sums["loss"][0] / weights["mlm"], (sums, {})


def _evaluate(model: MaskedLM, top_id: int, params, batch: Batch) -> Sums:
    return prediction_sums(logit_factors(model, params, batch, None), batch) | baseline_sums(batch, top_id)


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
