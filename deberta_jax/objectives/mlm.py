"""Masked language modelling: cross-entropy of the original tokens at the masked positions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import ModelConfig
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.objectives.base import Batch, Objective, Sums
from deberta_jax.ops.cross_entropy import cross_entropy


def masked_language_model(cfg: ModelConfig, top_id: int) -> Objective:
    """The objective "mlm". `top_id` is the most frequent training token: always guessing it is the baseline."""
    model = MaskedLM(cfg)
    return Objective(
        init=functools.partial(_init, model),
        weights=lambda batch: {"mlm": jnp.maximum(batch["weights"].sum(), 1)},
        loss=functools.partial(_loss, model),
        evaluate=functools.partial(_evaluate, model, top_id),
        predict=functools.partial(_predict, model),
    )


def _init(model: MaskedLM, key: jax.Array) -> Any:
    ids = jnp.zeros((1, 8), jnp.int32)
    return model.init({"params": key}, ids, jnp.ones_like(ids), deterministic=True)["params"]


def _logits(model: MaskedLM, params: Any, batch: Batch, key: jax.Array | None) -> jax.Array:
    return model.apply(
        {"params": params},
        batch["input_ids"],
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        masked_positions=batch["masked_positions"],
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
        method="table_logits",
    )


def _sums(logits_bpv: jax.Array, batch: Batch) -> Sums:
    weight_bp = batch["weights"]
    count = weight_bp.sum()
    nll_bp, right_bp = cross_entropy(logits_bpv, batch["labels"])
    return {"loss": ((nll_bp * weight_bp).sum(), count), "accuracy": ((right_bp * weight_bp).sum(), count)}


def _loss(model: MaskedLM, params, batch: Batch, key: jax.Array, weights) -> tuple[jax.Array, Sums]:
    sums = _sums(_logits(model, params, batch, key), batch)
    return sums["loss"][0] / weights["mlm"], sums


def _evaluate(model: MaskedLM, top_id: int, params, batch: Batch) -> Sums:
    sums = _sums(_logits(model, params, batch, None), batch)
    baseline_bp = (batch["labels"] == top_id) * batch["weights"]
    return sums | {"baseline_accuracy": (baseline_bp.sum(), batch["weights"].sum())}


def _predict(model: MaskedLM, params, batch: Batch, best: int) -> tuple[jax.Array, jax.Array]:
    probability_bpv = jax.nn.softmax(_logits(model, params, batch, None), axis=-1)
    probability_bpk, id_bpk = jax.lax.top_k(probability_bpv, best)
    return id_bpk, probability_bpk
