"""Masked language model: backbone, enhanced mask decoder (paper section 3.2) and the tied head."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain, named
from deberta_jax.model.attention import Chosen
from deberta_jax.model.encoder import Encoder, allowed_pairs
from deberta_jax.model.layers import dense, layer_norm
from deberta_jax.ops import attention
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.dropout import Noise

DECODER_PASSES = 2  # a constant of the released code: its last layer, applied twice
SITE_PASS = 8  # noise of the decoder's passes; follows the sites within a layer
NEVER = -1e30  # logit of table rows that are no token


class MaskedLMHead(nn.Module):
    """dense, activation, LayerNorm, then the word table transposed, plus a bias per word."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.dense = dense(cfg, cfg.hidden_size, ("embed", "mlp"))
        self.norm = layer_norm(cfg)
        self.bias = self.param("bias", named(nn.initializers.zeros, "vocab"), (cfg.vocab_rows,))

    def __call__(self, x_bpe: jax.Array, word_ve: jax.Array) -> jax.Array:
        """float32 logits [b, p, v]; rows of the table that are no token can never be produced."""
        cfg = self.cfg
        x_bpe = self.norm(ACTIVATIONS[cfg.activation](self.dense(x_bpe)))
        logits_bpv = jnp.einsum("bpe,ve->bpv", x_bpe, word_ve.astype(cfg.dtype), preferred_element_type=jnp.float32)
        # Added, not selected: one pass less over the largest array of the step.
        bias_v = jnp.where(jnp.arange(cfg.vocab_rows) < cfg.vocab_size, self.bias, NEVER)
        return constrain(logits_bpv + bias_v[None, None], "batch", "prediction", "vocab")


class MaskedLM(nn.Module):
    cfg: ModelConfig

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.head = MaskedLMHead(self.cfg)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        position_ids: jax.Array | None = None,
        *,
        deterministic: bool,
        rows: jax.Array | None = None,
    ) -> jax.Array:
        """Logits [b, p, v] at `masked_positions` [b, p]; see Encoder for the other arguments.

        Only those positions are decoded: in both passes keys and values come from the same hidden states, so a query's
        result does not depend on the other queries. The last layer is not run on its own: its output is never used.
        """
        noise = self.encoder.noise(rows, input_ids, deterministic)
        x_ble, _ = self.encoder.below_last(input_ids, attention_mask, position_ids, noise)
        if position_ids is None:
            position_ids = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
        y_bpe = self._decode(x_ble, attention_mask, masked_positions, position_ids, noise)
        return self.head(y_bpe, self.encoder.embeddings.word)

    def _decode(self, x_ble, attention_mask, masked_positions, position_ids, noise: Noise | None) -> jax.Array:
        """[b, p, e]: the last layer at the masked positions; once, or twice on a stream that knows where it stands."""
        encoder = self.encoder
        noise = noise and noise.at(self.cfg.num_layers - 1)
        memory = encoder.last.memory(x_ble, encoder.table(), noise)
        select_bpk = jax.nn.one_hot(masked_positions, x_ble.shape[1], dtype=x_ble.dtype)
        chosen = Chosen(masked_positions, select_bpk)
        allowed_bpk = allowed_pairs(jnp.take_along_axis(attention_mask, masked_positions, axis=1), attention_mask)
        x_bpe = attention.select("bke,bpk->bpe", x_ble, select_bpk)
        if self.cfg.decoder == "none":
            return encoder.last.ask(x_bpe, memory, allowed_bpk, noise, chosen)
        x_bpe += encoder.embeddings.positions(jnp.take_along_axis(position_ids, masked_positions, axis=1))
        for index in range(DECODER_PASSES):
            x_bpe = encoder.last.ask(x_bpe, memory, allowed_bpk, noise and noise.at(SITE_PASS + index), chosen)
        return constrain(x_bpe, "batch", "prediction", "embed")
