"""The objectives of fine-tuning: what a head says about the rows of a task, and what that costs.

A batch of b rows of l tokens (of multiple choice: c sequences a row, [b, c, l]) holds

    input_ids, documents        int32; documents: 1 for tokens, 0 for padding
    weights                     float32 [b]; of tagging [b, l], on the first token of each word. 0 = does not count
    labels                      int32 [b]; of tagging [b, l]; none of regression and spans
    values                      float32 [b], of regression
    starts, ends                int32 [b], of spans: the first and the last token of the answer
    rows, examples              int32 [b]; numbers in the global batch and among the rows of the set, -1 for a filler

Outputs are float32: logits [b, labels], values [b], logits of the options [b, c], logits [b, l, labels], or logits of
starts and ends, two of [b, l].
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import FinetuneConfig, HeadConfig
from deberta_jax.model.by_head import WITH_LABELS, build_model
from deberta_jax.objectives.base import WHOLE, Batch, Objective, Part
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.scored import Compared, Scored, plain_loss
from deberta_jax.objectives.sift import sift
from deberta_jax.objectives.sums import Sums, ratios
from deberta_jax.ops.cross_entropy import cross_entropy

HEADS = {  # kind of task -> head
    "classification": "sequence_classification",
    "regression": "sequence_classification",
    "multiple_choice": "multiple_choice",
    "tagging": "token_classification",
    "span": "question_answering",
}
NOT_OFFERED = -1e9  # logit of padding and of options that are not there
WEIGHT = "task"


def task_objective(config: FinetuneConfig, labels: Sequence[str]) -> Objective:
    """The objective of a kind of task; `labels` in the order of the logits, () for kinds without."""
    kind = _KINDS[config.objective]
    head, head_cfg = head_of_task(config, labels)
    model = build_model(head, config.model, head_cfg)
    scored = Scored(
        apply=functools.partial(_apply, model, kind.outputs),
        sums=kind.sums,
        compared=kind.compared,
        regression=config.objective == "regression",
        perturbed=_embedded,
    )
    return Objective(
        groups=(WHOLE,),
        parts=(Part(_loss(scored, config), reaches=(WHOLE,)),),
        joint=False,
        init=init_of(head, config.model, head_cfg),
        weights=lambda batch: {WEIGHT: jnp.maximum(batch["weights"].sum(), 1)},
        evaluate=lambda params, batch: scored.sums(scored.apply(params, batch, None, {}), batch),
        predict=functools.partial(_predict, scored),
        summary=ratios,
        conclusion=lambda scores: ", ".join(f"{name} {value:.4f}" for name, value in scores.items()),
    )


def head_of_task(config: FinetuneConfig, labels: Sequence[str]) -> tuple[str, HeadConfig | None]:
    """(name of the head, its configuration if it has one)."""
    head = HEADS[config.objective]
    if head not in WITH_LABELS:
        return head, None
    return head, config.head.with_labels(tuple(labels) or ("score",))  # one score for each option


def _loss(scored: Scored, config: FinetuneConfig) -> Callable:
    if config.sift is None:
        return plain_loss(scored, WEIGHT)
    return sift(scored, config.sift, WEIGHT, config.model.hidden_size)


def _predict(scored: Scored, params: Any, batch: Batch) -> tuple[tuple[jax.Array, Any], Sums]:
    """((numbers of the rows, their outputs), sums)."""
    outputs = scored.apply(params, batch, None, {})
    return (batch["examples"], outputs), scored.sums(outputs, batch)


def _apply(
    model: nn.Module, outputs: Callable, params: Any, batch: Batch, key: jax.Array | None, variables: Mapping[str, Any]
) -> Any:
    """Outputs of the head; deterministic without a key."""
    logits = model.apply(
        {"params": params, **variables},
        batch["input_ids"],
        batch["documents"],
        deterministic=key is None,
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
    )
    return outputs(logits, batch)


def _embedded(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(numbers [n] of the sequences that the encoder embeds, whether each of their tokens is real [n, l])."""
    ids = batch["input_ids"]
    if ids.ndim == 2:
        return batch["rows"], batch["documents"] > 0
    batch_size, choices, length = ids.shape
    numbers = batch["rows"][:, None] * choices + jnp.arange(choices)[None]
    return numbers.reshape(-1), batch["documents"].reshape(batch_size * choices, length) > 0


def _one_of(logits_bc: jax.Array, label_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    nll_b1, right_b1 = cross_entropy(logits_bc[:, None], label_b[:, None])
    return nll_b1[:, 0], right_b1[:, 0]


def _class_sums(logits_bc: jax.Array, batch: Batch) -> Sums:
    nll_b, right_b = _one_of(logits_bc, batch["labels"])
    return _weighted({"loss": nll_b, "accuracy": right_b}, batch)


def _value_sums(value_b: jax.Array, batch: Batch) -> Sums:
    return _weighted({"loss": jnp.square(value_b - batch["values"])}, batch)


def _tag_sums(logits_blc: jax.Array, batch: Batch) -> Sums:
    nll_bl, right_bl = cross_entropy(logits_blc, batch["labels"])
    return _weighted({"loss": nll_bl, "accuracy": right_bl}, batch)


def _span_sums(logits: tuple[jax.Array, jax.Array], batch: Batch) -> Sums:
    """The mean of the two cross-entropies (BERT 4.2); right where both are."""
    starts_bl, ends_bl = logits
    start_nll_b, start_right_b = _one_of(starts_bl, batch["starts"])
    end_nll_b, end_right_b = _one_of(ends_bl, batch["ends"])
    return _weighted({"loss": (start_nll_b + end_nll_b) / 2, "accuracy": start_right_b & end_right_b}, batch)


def _weighted(values: Mapping[str, jax.Array], batch: Batch) -> Sums:
    weights = batch["weights"]
    return {name: ((value * weights).sum(), weights.sum()) for name, value in values.items()}


def _offered_choices(logits_bc: jax.Array, batch: Batch) -> jax.Array:
    return jnp.where(batch["documents"][:, :, 0] > 0, logits_bc, NOT_OFFERED)


def _offered_places(logits: tuple[jax.Array, jax.Array], batch: Batch) -> tuple[jax.Array, jax.Array]:
    starts_bl, ends_bl = (jnp.where(batch["documents"] > 0, each, NOT_OFFERED) for each in logits)
    return starts_bl, ends_bl


def _compared(outputs: jax.Array, batch: Batch) -> Sequence[Compared]:
    return [(outputs, batch["weights"])]


class _Kind(NamedTuple):
    outputs: Callable[[Any, Batch], Any]  # of the head's logits
    sums: Callable[[Any, Batch], Sums]
    compared: Callable[[Any, Batch], Sequence[Compared]]


_KINDS = {
    "classification": _Kind(lambda logits_bc, batch: logits_bc, _class_sums, _compared),
    "regression": _Kind(lambda logits_b1, batch: logits_b1[:, 0], _value_sums, _compared),
    "multiple_choice": _Kind(_offered_choices, _class_sums, _compared),
    "tagging": _Kind(lambda logits_blc, batch: logits_blc, _tag_sums, _compared),
    "span": _Kind(_offered_places, _span_sums, lambda both, batch: [(each, batch["weights"]) for each in both]),
}
