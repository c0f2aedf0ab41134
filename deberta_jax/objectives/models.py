"""Fresh parameters of a single model, by the name of its head: what a pair is put together from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import ModelConfig
from deberta_jax.model.encoder import Encoder
from deberta_jax.model.masked_lm import MaskedLM
from deberta_jax.model.replaced_token import ReplacedTokenDetector

MODELS = {"encoder": Encoder, "mlm": MaskedLM, "rtd": ReplacedTokenDetector}


def init_of(head: str, cfg: ModelConfig) -> Callable[[jax.Array], Any]:
    """key -> boxed params."""
    model, ids = MODELS[head](cfg), jnp.zeros((1, 8), jnp.int32)
    return lambda key: model.init({"params": key}, ids, jnp.ones_like(ids), deterministic=True)["params"]
