"""Masked language model: backbone, enhanced mask decoder (paper section 3.2) and the tied head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain, named
from deberta_jax.model.encoder import Encoder, positions_of
from deberta_jax.model.layers import LayerNorm, dense
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.attention.chosen import select
from deberta_jax.ops.dropout import Noise
from deberta_jax.ops.vocabulary_loss import LogitFactors, logits_of

DECODER_PASSES = 2  # a constant of the released code: its last layer, applied twice
SITE_PASS = 8  # noise of the decoder's passes; follows the sites within a layer
NEVER = -1e30  # logit of table rows that are no token


class MaskedLMHead(nn.Module):
    """dense, activation, LayerNorm, then the word table transposed, plus a bias per word."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.dense = dense(cfg, cfg.embedding_width, ("embed", "mlp"))
        self.norm = LayerNorm(cfg)
        self.bias = self.param("bias", named(nn.initializers.zeros, "vocab"), (cfg.vocab_rows,))

    def __call__(self, x_bpe: jax.Array, word_ve: jax.Array) -> LogitFactors:
        """What logits [b, p, v] are the product of; rows of the table that are no token can never be produced."""
        cfg = self.cfg
        # Placed by name: left open, the partitioner of jaxlib 0.10.2 paired rows with those of another device in the
        # gradient when a batch had as many rows as the mesh devices (2 x 2 x 2), without a word.
        x_bpe = constrain(self.dense(x_bpe), "batch", "prediction", "embed")
        x_bpe = constrain(self.norm(ACTIVATIONS[cfg.activation](x_bpe)), "batch", "prediction", "embed")
        # Added, not selected: one pass less over the largest array of the step.
        return LogitFactors(x_bpe, word_ve, jnp.where(jnp.arange(cfg.vocab_rows) < cfg.vocab_size, self.bias, NEVER))


class MaskedLM(nn.Module):
    """Encoder, decoder and head; `cfg.decoder` decides whether the head sees the decoder's or the encoder's output."""

    cfg: ModelConfig
    origin: str = ""  # see Encoder
    frequent_id: int | None = None  # see Embeddings

    def setup(self):
        self.encoder = Encoder(self.cfg, frequent_id=self.frequent_id)
        self.head = MaskedLMHead(self.cfg)

    def __call__(self, *inputs: jax.Array, **options: Any) -> jax.Array:
        """float32 logits [b, p, vocab_size] at `masked_positions`, or everywhere; arguments as `logit_factors`."""
        return self.table_logits(*inputs, **options)[..., : self.cfg.vocab_size]

    def table_logits(self, *inputs: jax.Array, **options: Any) -> jax.Array:
        """float32 logits [b, p, v], where v counts the table's unused rows too; arguments as `logit_factors`."""
        return constrain(logits_of(self.logit_factors(*inputs, **options)), "batch", "prediction", "vocab")

    def logit_factors(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        position_ids: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        *,
        deterministic: bool,
        masked_positions: jax.Array | None = None,
        rows: jax.Array | None = None,
    ) -> LogitFactors:
        """Those of logits [b, p, v] at `masked_positions` [b, p], or of [b, l, v].

        Only those positions are decoded: in both passes keys and values come from the same hidden states, so a query's
        result does not depend on the other queries. The last layer is not run on its own: its output is never used.
        See Encoder for the other arguments.
        """
        noise = self.encoder.noise(rows, input_ids, deterministic)
        if position_ids is None:
            position_ids = positions_of(input_ids, self.cfg, used=self.cfg.has_absolute_positions)
        x_ble, _ = self.encoder.below_last(input_ids, attention_mask, position_ids, token_type_ids, noise)
        y_bpe = self._decode(x_ble, attention_mask, masked_positions, position_ids, noise)
        return self.head(y_bpe, self.encoder.embeddings.word)

    def _decode(self, x_ble, attention_mask, masked_positions, position_ids, noise: Noise | None) -> jax.Array:
        """[b, p, e]: the last layer at the masked positions; once, or twice on a stream that knows where it stands."""
        encoder, layer = self.encoder, self.cfg.num_layers - 1
        noise = noise and noise.at(layer)
        memory = encoder.last.memory(x_ble, encoder.table(), noise)
        chosen, x_bpe, position_bp = None, x_ble, position_ids
        if masked_positions is not None:
            select_bpk = jax.nn.one_hot(masked_positions, x_ble.shape[1], dtype=x_ble.dtype)
            x_bpe = select("bke,bpk->bpe", x_ble, select_bpk)
            document_bp, position_bp = (
                jnp.take_along_axis(each, masked_positions, axis=1) for each in (attention_mask, position_ids)
            )
            chosen = encoder.last.choose(memory, masked_positions, select_bpk, document_bp)
        if self.cfg.decoder == "none":
            return encoder.last.ask(x_bpe, layer, memory, attention_mask, noise, chosen)
        x_bpe += encoder.embeddings.positions(position_bp)
        for index in range(DECODER_PASSES):
            x_bpe = encoder.last.ask(
                x_bpe, layer, memory, attention_mask, noise and noise.at(SITE_PASS + index), chosen
            )
        return constrain(x_bpe, "batch", "prediction", "embed")
