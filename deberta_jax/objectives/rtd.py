"""Replaced token detection (DeBERTaV3 3.1): a generator fills masked positions, a discriminator finds what is replaced.

The generator is a masked language model. At each masked position one token is drawn from its distribution, without a
gradient; the discriminator sees the filled row and judges every real token of it. A draw that hits the original token
is no replacement.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.config import Config
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token import ReplacedTokenDetector
from deberta_jax.objectives import mlm
from deberta_jax.objectives.base import Batch, Lexicon, Objective, Part
from deberta_jax.objectives.embedding_sharing import DISCRIMINATOR, GENERATOR, TableSharing
from deberta_jax.objectives.models import init_of
from deberta_jax.objectives.sums import Sums, perplexity, ratios
from deberta_jax.ops.cross_entropy import binary_cross_entropy
from deberta_jax.ops.replacement import replaced
from deberta_jax.ops.sampling import sample
from deberta_jax.ops.vocabulary_loss import LogitFactors, vocabulary_loss_and_picks

PREDICTING, DRAWING, JUDGING = 0, 1, 2  # what the randomness of a step is for


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Both models and how they hang together."""

    generator: MaskedLM
    discriminator: ReplacedTokenDetector
    sharing: TableSharing
    weight: float  # of the discriminator's loss
    temperature: float
    drawn_v: np.ndarray  # bool: ids that may be drawn, of all rows of the word table
    top_id: int
    seed: int  # of the draws in evaluation

    @classmethod
    def of(cls, config: Config, lexicon: Lexicon) -> "Pair":
        drawn_v = np.arange(config.rtd.generator.vocab_rows) < lexicon.size
        drawn_v[list(lexicon.special_ids)] = False
        return cls(
            generator=MaskedLM(config.rtd.generator, frequent_id=lexicon.mask_id),
            discriminator=ReplacedTokenDetector(config.model),
            sharing=sharing_of(config),
            weight=config.rtd.loss_weight,
            temperature=config.rtd.temperature,
            drawn_v=drawn_v,
            top_id=lexicon.top_id,
            seed=config.eval.seed,
        )


def sharing_of(config: Config) -> TableSharing:
    """How the models of an "rtd" run share their tables."""
    return TableSharing.of(config.rtd.embedding_sharing, config.rtd.generator, config.model)


def replaced_token_detection(config: Config, lexicon: Lexicon) -> Objective:
    """The objective "rtd".

    Decoupled, the discriminator takes its step with the generator's updated tables, as in the released code. Where the
    table is one ("shared"), it waits for both gradients, and the schemes are the same.
    """
    pair = Pair.of(config, lexicon)
    judged = (GENERATOR, DISCRIMINATOR) if pair.sharing.mode == "shared" else (DISCRIMINATOR,)
    return Objective(
        groups=(GENERATOR, DISCRIMINATOR),
        parts=(
            Part(functools.partial(generator_loss, pair), reaches=(GENERATOR,)),
            Part(functools.partial(discriminator_loss, pair), reaches=judged),
        ),
        joint=config.rtd.scheme == "joint",
        init=init_of_pair(config),
        weights=_weights,
        evaluate=functools.partial(_evaluate, pair),
        predict=functools.partial(_predict, pair),
        summary=functools.partial(_summary, pair.weight),
        conclusion=_conclusion,
    )


def generator_loss(
    pair: Pair, params: Any, batch: Batch, key: jax.Array, weights: dict
) -> tuple[jax.Array, tuple[Sums, Batch]]:
    """(mean cross-entropy at the masked positions, (sums, {"drawn": the ids put there [b, p]}))."""
    factors = mlm.logit_factors(pair.generator, params[GENERATOR], batch, jax.random.fold_in(key, PREDICTING))
    sums, drawn_bp = _predicted(pair, factors, batch, jax.random.fold_in(key, DRAWING), batch["rows"])
    return sums["generator/loss"][0] / weights["mlm"], (sums, {"drawn": drawn_bp})


def discriminator_loss(
    pair: Pair, params: Any, batch: Batch, key: jax.Array, weights: dict
) -> tuple[jax.Array, tuple[Sums, Batch]]:
    """(weight x mean binary cross-entropy over real positions, (sums, nothing)); reads the batch's "drawn"."""
    sums = _judgement(pair, params, batch, jax.random.fold_in(key, JUDGING))
    return pair.weight * sums["discriminator/loss"][0] / weights["rtd"], (sums, {})


def corrupted(batch: Batch, drawn_bp: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the row with the drawn tokens, whether each token is another than the original), [b, l]."""
    places = batch["masked_positions"], batch["weights"] > 0
    original_bl, filled_bl = (
        replaced(batch["input_ids"], places[0], tokens_bp, places[1]) for tokens_bp in (batch["labels"], drawn_bp)
    )
    return filled_bl, filled_bl != original_bl


def init_of_pair(config: Config) -> Callable[[jax.Array], Any]:
    """key -> boxed params of both models."""
    return functools.partial(_init, config, sharing_of(config))


def _init(config: Config, sharing: TableSharing, key: jax.Array) -> Any:
    keys = jax.random.split(key)
    generator, discriminator = init_of("mlm", config.rtd.generator)(keys[0]), init_of("rtd", config.model)(keys[1])
    return sharing.fresh_pair(generator, discriminator)


def _weights(batch: Batch) -> dict[str, jax.Array]:
    real = (batch["documents"] > 0).sum().astype(jnp.float32)
    return {"mlm": mlm.prediction_weight(batch), "rtd": jnp.maximum(real, 1)}


def _predicted(
    pair: Pair, factors: LogitFactors, batch: Batch, key: jax.Array, row_b: jax.Array
) -> tuple[Sums, jax.Array]:
    """(the generator's sums, an id drawn for each prediction [b, p]).

    What a row draws depends on the key and its number in `row_b`, not on the rows beside it.
    """
    shape = (factors.x_bpe.shape[1], 2)
    draw_bp2 = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row), shape))(row_b)
    pick = functools.partial(_drawn, pair)
    targets = batch["labels"], batch["weights"]
    loss, hits, drawn_bp = vocabulary_loss_and_picks(factors, *targets, mlm.chunking(), pick, draw_bp2)
    return _of(GENERATOR, mlm.named_sums(loss, hits, batch)), drawn_bp


def _drawn(pair: Pair, logits_bpv: jax.Array, draw_bp2: jax.Array) -> jax.Array:
    return sample(logits_bpv, pair.drawn_v, pair.temperature, draw_bp2)


def _judgement(pair: Pair, params: Any, batch: Batch, key: jax.Array | None) -> Sums:
    """Sums over real positions; deterministic without a key."""
    filled_bl, is_replaced_bl = corrupted(batch, batch["drawn"])
    logit_bl = pair.discriminator.apply(
        {"params": pair.sharing.discriminator(params)},
        filled_bl,
        batch["documents"],
        batch["positions"],
        deterministic=key is None,
        rows=batch["rows"],
        rngs=None if key is None else {"dropout": key},
    )
    return judgement_sums(logit_bl, is_replaced_bl, batch["documents"] > 0)


def judgement_sums(logit_bl: jax.Array, is_replaced_bl: jax.Array, real_bl: jax.Array) -> Sums:
    """Loss and scores of calling a token replaced where its logit is positive, and those of two judges without eyes."""
    count = lambda which_bl: (which_bl & real_bl).sum().astype(jnp.float32)  # noqa: E731
    loss = (binary_cross_entropy(logit_bl, is_replaced_bl) * real_bl).sum()
    called_bl = logit_bl > 0
    called, replacements, found = count(called_bl), count(is_replaced_bl), count(called_bl & is_replaced_bl)
    real = real_bl.sum().astype(jnp.float32)
    return {
        "discriminator/loss": (loss, real),
        "discriminator/accuracy": (count(called_bl == is_replaced_bl), real),
        "discriminator/precision": (found, called),
        "discriminator/recall": (found, replacements),
        "discriminator/f1": (2 * found, called + replacements),
        "replaced": (replacements, real),
        "always_original/accuracy": (real - replacements, real),  # its F1 is 0
        "always_replaced/accuracy": (replacements, real),
        "always_replaced/f1": (2 * replacements, real + replacements),
    }


def _evaluate(pair: Pair, params, batch: Batch) -> Sums:
    """A row is filled the same way in every evaluation of the same generator, whatever batch it is in."""
    factors = mlm.logit_factors(pair.generator, params[GENERATOR], batch, None)
    predicted, drawn_bp = _predicted(pair, factors, batch, jax.random.key(pair.seed), batch["examples"])
    predicted |= _of(GENERATOR, mlm.baseline_sums(batch, pair.top_id))
    return predicted | _judgement(pair, params, batch | {"drawn": drawn_bp}, None)


def _predict(pair: Pair, params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    return mlm.predict(pair.generator, params[GENERATOR], batch, mlm.BEST)


def _of(model: str, sums: Sums) -> Sums:
    return {f"{model}/{name}": pair for name, pair in sums.items()}


def _summary(weight: float, sums: Sums) -> dict[str, float]:
    values = ratios(sums)
    values["predictions"] = float(sums["generator/loss"][1])
    values["judgements"] = float(sums["discriminator/loss"][1])
    values["discriminator/weighted_loss"] = weight * values["discriminator/loss"]
    if "generator/loss" in values:  # not in a batch without a prediction
        values["generator/perplexity"] = perplexity(values["generator/loss"])
        values["loss"] = values["generator/loss"] + values["discriminator/weighted_loss"]
    return values


def _conclusion(scores: dict[str, float]) -> str:
    if not scores["replaced"]:
        return f"the generator replaced none of {scores['judgements']:.0f} tokens: there was nothing to find"
    f1, baseline = scores["discriminator/f1"], scores["always_replaced/f1"]
    return (
        f"generator loss {scores['generator/loss']:.3f}, accuracy {scores['generator/accuracy']:.1%}; "
        f"discriminator loss {scores['discriminator/loss']:.3f}, accuracy {scores['discriminator/accuracy']:.1%} "
        f"(always original: {scores['always_original/accuracy']:.1%}), F1 {f1:.3f}, {f1 / baseline:.2f} times the "
        f"{baseline:.3f} of always saying replaced ({scores['judgements']:.0f} tokens)"
    )
