"""Replaced token detection: DeBERTaV3's discriminator (paper section 3.1, and the released code)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.layers import dense, layer_norm
from deberta_jax.ops.activations import ACTIVATIONS


class ReplacedTokenHead(nn.Module):
    """LayerNorm of a token's state plus the first token's, a square layer, an activation, one output."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_ble: jax.Array) -> jax.Array:
        """float32 logits [b, l]: positive where a token looks replaced."""
        cfg = self.cfg
        x_ble = layer_norm(cfg, "norm")(x_ble + x_ble[:, :1])
        x_ble = dense(cfg, cfg.hidden_size, ("embed", "mlp"), name="dense")(x_ble)
        x_ble = ACTIVATIONS[cfg.activation](constrain(x_ble, "batch", "length", "embed"))
        return dense(cfg, 1, ("embed", "label"), name="classifier")(x_ble)[..., 0].astype(jnp.float32)


class ReplacedTokenDetector(nn.Module):
    """Encoder and head; called like the encoder."""

    cfg: ModelConfig
    origin: str = ""  # see Encoder

    def setup(self):
        self.encoder = Encoder(self.cfg)
        self.head = ReplacedTokenHead(self.cfg)

    def __call__(self, *inputs: jax.Array, **options: Any) -> jax.Array:
        """float32 logits [b, l]."""
        return self.head(self.encoder(*inputs, **options))
