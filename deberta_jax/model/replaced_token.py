"""Replaced token detection: DeBERTaV3's discriminator (paper section 3.1, and the released code)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.layers import LayerNorm, dense, output
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.attention.chosen import select
from deberta_jax.ops.attention.problem import allowed_pairs


class ReplacedTokenHead(nn.Module):
    """LayerNorm of a token's state plus its document's first, a square layer, an activation, one output."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_ble: jax.Array, document_bl: jax.Array) -> jax.Array:
        """float32 logits [b, l]: positive where a token looks replaced.

        `document_bl` is the encoder's attention_mask: in a packed row each document has its own [CLS]. (The released
        code adds the row's first state to all, its rows being one document.)
        """
        cfg = self.cfg
        first_ble = select("bke,bqk->bqe", x_ble, first_of_document(document_bl))
        x_ble = LayerNorm(cfg, name="norm")(x_ble + constrain(first_ble, "batch", "length", "embed"))
        x_ble = dense(cfg, cfg.hidden_size, ("embed", "mlp"), name="dense")(x_ble)
        x_ble = ACTIVATIONS[cfg.activation](constrain(x_ble, "batch", "length", "embed"))
        return output(cfg, 1, name="classifier")(x_ble)[..., 0]


def first_of_document(document_bl: jax.Array) -> jax.Array:
    """Booleans [b, q, k]: whether k is the first position of q's document; none for padding."""
    same_bqk = allowed_pairs(document_bl, document_bl)
    place = jnp.arange(document_bl.shape[1])
    opens_bk = ~(same_bqk & (place[None, :, None] > place[None, None])).any(
        -1
    )  # no earlier position is of its document
    return same_bqk & opens_bk[:, None]


class ReplacedTokenDetector(nn.Module):
    """Encoder and head; called like the encoder."""

    cfg: ModelConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.head = ReplacedTokenHead(self.cfg)

    def __call__(self, input_ids: jax.Array, attention_mask: jax.Array, *inputs: Any, **options: Any) -> jax.Array:
        """float32 logits [b, l]."""
        return self.head(self.encoder(input_ids, attention_mask, *inputs, **options), attention_mask)
