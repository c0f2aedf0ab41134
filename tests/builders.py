"""Tiny models, parameters and batches that several test files share."""

from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr
from ml_collections import ConfigDict

from configs import base
from configs.rtd import as_pair
from deberta_jax import config
from deberta_jax.config import Config, ModelConfig
from deberta_jax.dist.axes import unboxed
from deberta_jax.objectives import Lexicon

# For jax.jit: a gradient of a tiny model runs for a millisecond and compiles for ten seconds, most of them in LLVM and
# in the newer code generator.
COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
VOCABULARY = 100  # not a multiple of 128: the word table has 28 rows that are no token
LEXICON = Lexicon(top_id=7, size=VOCABULARY, special_ids=(0, 1, 2, 3, 4), mask_id=4)


def tiny_config(**changes: Any) -> Config:
    """A run of a tiny model; `changes` are model keys. Distances beyond 15 share a row of the relative table."""
    c = base.get_config("tiny")
    c.model.update(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=3,
        num_heads=2,
        intermediate_size=48,
        position_buckets=8,
        max_relative_positions=16,
        max_position_embeddings=96,
        dtype="float32",
    )
    c.model.update(changes)
    c.steps, c.batch_size, c.eval.batch_size, c.optimizer.warmup_steps = 10, 16, 16, 2
    return config.build(c)


def tiny_model(**changes: Any) -> ModelConfig:
    """hidden 32, 2 heads, 3 layers, 100 ids, float32, with both position terms, the decoder and dropout."""
    return tiny_config(**changes).model


def scrambled(params: Any, seed: int = 0) -> Any:
    """`params` with every entry drawn afresh, biases and norms too, large enough that no part is negligible."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        centre = 1 if keystr(path).endswith("['scale']") else 0
        return np.float32(centre + 0.3 * rng.normal(size=leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, unboxed(params))


def packed_batch(rows: int = 4, length: int = 24, predictions: int = 6, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of two documents and padding; some rows use all their prediction slots, some none."""
    rng = np.random.default_rng(seed)
    column = np.arange(length)[None]
    first = rng.integers(length // 4, length // 2, (rows, 1))
    end = first + rng.integers(length // 4, length // 2, (rows, 1))
    documents = np.where(column < first, 1, np.where(column < end, 2, 0))
    counts = rng.permutation(np.resize(np.arange(predictions + 1), rows))
    masked = np.zeros((rows, predictions), np.int32)
    for row, count in enumerate(counts):
        masked[row, :count] = np.sort(rng.choice(end[row, 0], count, replace=False))
    used = np.arange(predictions)[None] < counts[:, None]
    return {
        "input_ids": np.where(documents > 0, rng.integers(5, VOCABULARY, (rows, length)), 0).astype(np.int32),
        "documents": documents.astype(np.int32),
        "positions": np.where(documents > 0, column - np.where(documents == 2, first, 0), 0).astype(np.int32),
        "masked_positions": masked,
        "labels": np.where(used, rng.integers(5, VOCABULARY, (rows, predictions)), 0).astype(np.int32),
        "weights": used.astype(np.float32),
        "rows": np.arange(rows, dtype=np.int32),
        "examples": np.arange(rows, dtype=np.int32),
    }


def tiny_pair_config(**changes: Any) -> Config:
    """A run of a tiny pair, 2 layers each; `changes` are keys of config.rtd, and `model` a group of both models' keys.

    Half of the discriminator's layers would be too few for the generator's decoder.
    """
    c = as_pair(ConfigDict(config.to_dict(tiny_config(num_layers=2))))
    c.rtd.generator.num_layers = 2
    c.update({"model": changes.pop("model", {}), "rtd": changes})
    return config.build(c)
