"""Shapes of what a run is fed, so that its functions can be lowered and compiled without data."""

import functools

import jax
import jax.numpy as jnp

from deberta_jax.data.masking import predictions_per_row
from deberta_jax.train.build import Run


def masked_batch(run: Run, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """A global training batch of pretraining, rows of `length`: what data/batches.py makes and `Run.place` places."""
    rows = run.config.batch_size
    tokens, slots = (rows, length), (rows, predictions_per_row(length, run.config.data.mask.rate))
    whole = {"input_ids": tokens, "documents": tokens, "positions": tokens, "masked_positions": slots, "labels": slots}
    whole |= {"rows": (rows,), "examples": (rows,)}
    placed = functools.partial(jax.ShapeDtypeStruct, sharding=run.batch_sharding)
    return {name: placed(shape, jnp.int32) for name, shape in whole.items()} | {"weights": placed(slots, jnp.float32)}
