"""Fresh parameters of a single model, by the name of its head."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import HeadConfig, ModelConfig
from deberta_jax.model.by_head import build_model


def init_of(head: str, cfg: ModelConfig, head_cfg: HeadConfig | None = None) -> Callable[[jax.Array], Any]:
    """key -> boxed params; `head_cfg` for heads with labels."""
    model = build_model(head, cfg, head_cfg)
    ids = jnp.zeros((1, 1, 8) if head == "multiple_choice" else (1, 8), jnp.int32)
    return lambda key: model.init({"params": key}, ids, jnp.ones_like(ids), deterministic=True)["params"]
