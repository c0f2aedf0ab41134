"""A single model of an objective: its fresh parameters, by the name of its head, and how its attention is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import HeadConfig, ModelConfig
from deberta_jax.model.attention import facts_of
from deberta_jax.model.by_head import build_model
from deberta_jax.ops.attention.choice import Choice, choose


def init_of(head: str, cfg: ModelConfig, head_cfg: HeadConfig | None = None) -> Callable[[jax.Array], Any]:
    """key -> boxed params; `head_cfg` for heads with labels."""
    model = build_model(head, cfg, head_cfg)
    ids = jnp.zeros((1, 1, 8) if head == "multiple_choice" else (1, 8), jnp.int32)
    return lambda key: model.init({"params": key}, ids, jnp.ones_like(ids), deterministic=True)["params"]


def training_attention(cfg: ModelConfig, rows: int, length: int) -> Choice:
    """(implementation, why) of a model's attention while it trains in the mesh in force, on `rows` of `length`."""
    return choose(cfg.attention, facts_of(cfg, rows, length, cfg.attention_dropout))
