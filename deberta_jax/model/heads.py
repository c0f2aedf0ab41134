"""Task heads: what reads the encoder's output in fine-tuning.

All are called like the encoder: (input_ids, attention_mask, position_ids, token_type_ids, *, deterministic, rows) and
return float32 logits.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import HeadConfig, ModelConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.encoder import HEAD_LAYER, Encoder
from deberta_jax.model.layers import dense, output
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.dropout import Noise, dropout

SITE_POOLER, SITE_CLASSIFIER = 0, 1


class ContextPooler(nn.Module):
    """The first token's state through dropout, a square layer and an activation (released code, pooling.py)."""

    cfg: ModelConfig
    head: HeadConfig

    @nn.compact
    def __call__(self, x_ble: jax.Array, noise: Noise | None) -> jax.Array:
        x_be = dropout(x_ble[:, 0], self.head.pooler_dropout, noise and noise.at(SITE_POOLER))
        x_be = dense(self.cfg, self.cfg.hidden_size, ("embed", "mlp"), name="dense")(x_be)
        return ACTIVATIONS[self.head.pooler_activation](constrain(x_be, "batch", "embed"))


class SequenceClassifier(nn.Module):
    """Classification and regression (one label) of a sequence or a pair."""

    cfg: ModelConfig
    head: HeadConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.pooler = ContextPooler(self.cfg, self.head)
        self.classifier = output(self.cfg, len(self.head.labels))

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, *inputs, **options: Any) -> jax.Array:
        """Logits [b, labels]."""
        noise = head_noise(self.encoder, input_ids, options)
        pooled_be = self.pooler(self.encoder(input_ids, attention_mask, *inputs, **options), noise)
        pooled_be = dropout(pooled_be, self.head.classifier_dropout, noise and noise.at(SITE_CLASSIFIER))
        return self.classifier(pooled_be)


class MultipleChoice(nn.Module):
    """One score for each choice; every input has an axis of choices after the batch, [b, c, l]."""

    cfg: ModelConfig
    head: HeadConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.pooler = ContextPooler(self.cfg, self.head)
        self.classifier = output(self.cfg, 1)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        position_ids: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        *,
        deterministic: bool,
        rows: jax.Array | None = None,
    ) -> jax.Array:
        """Logits [b, c]."""
        batch, choices, length = input_ids.shape
        flat = [
            None if each is None else each.reshape(batch * choices, length)
            for each in (input_ids, attention_mask, position_ids, token_type_ids)
        ]
        rows = jnp.arange(batch) if rows is None else rows
        every_row = (rows[:, None] * choices + jnp.arange(choices)[None]).reshape(-1)  # each choice has its own noise
        options = {"deterministic": deterministic, "rows": every_row}
        noise = head_noise(self.encoder, flat[0], options)
        pooled_be = self.pooler(self.encoder(*flat, **options), noise)
        pooled_be = dropout(pooled_be, self.head.classifier_dropout, noise and noise.at(SITE_CLASSIFIER))
        return self.classifier(pooled_be).reshape(batch, choices)


class TokenClassifier(nn.Module):
    """A label for each token: dropout and one linear layer, as in transformers.

    (The released NER task has another square layer between; no such checkpoint was published.)
    """

    cfg: ModelConfig
    head: HeadConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.classifier = output(self.cfg, len(self.head.labels))

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, *inputs, **options: Any) -> jax.Array:
        """Logits [b, l, labels]."""
        noise = head_noise(self.encoder, input_ids, options)
        x_ble = self.encoder(input_ids, attention_mask, *inputs, **options)
        x_ble = dropout(x_ble, self.head.classifier_dropout, noise and noise.at(SITE_CLASSIFIER))
        return self.classifier(x_ble)


class QuestionAnswering(nn.Module):
    """Where an answer starts and ends: one linear layer with two outputs, as in transformers."""

    cfg: ModelConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.outputs = output(self.cfg, 2)

    def __call__(self, *inputs: jax.Array, **options: Any) -> tuple[jax.Array, jax.Array]:
        """(start logits, end logits), [b, l] each; padding is not excluded."""
        logits_bl2 = self.outputs(self.encoder(*inputs, **options))
        return logits_bl2[..., 0], logits_bl2[..., 1]


def head_noise(encoder: Encoder, input_ids: jax.Array, options: dict[str, Any]) -> Noise | None:
    """The source of a head's dropout bits; `options` are those of the encoder's call."""
    noise = encoder.noise(options.get("rows"), input_ids, options["deterministic"])
    return noise and noise.at(HEAD_LAYER)
