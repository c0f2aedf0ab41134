"""How a discriminator's embedding tables hang together with its generator's (DeBERTaV3, section 3.2)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deberta_jax.config import ModelConfig

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
DELTA = "_delta"


@dataclasses.dataclass(frozen=True)
class TableSharing:
    """The parameters of a pair, {"generator": ..., "discriminator": ...}, by `mode`:

    none    each model has its own tables
    shared  the discriminator's are the generator's, which get the gradients of both losses
    gdes    the discriminator's are stop_gradient(the generator's) + a difference, named "..._delta", that starts at
            zero: the generator's tables serve both models and follow the generator's loss alone

    Shared are the word table and the table of absolute positions, where both models have one (as in the released code);
    token types, relative positions and norms are each model's own.
    """

    mode: str
    tables: tuple[str, ...]

    @classmethod
    def of(cls, mode: str, generator: ModelConfig, discriminator: ModelConfig) -> "TableSharing":
        positions = generator.has_absolute_positions and discriminator.has_absolute_positions
        both = ("word", "position") if positions else ("word",)
        return cls(mode, () if mode == "none" else both)

    def fresh_pair(self, generator: Any, discriminator: Any) -> Any:
        """A pair of new models, which start with the same tables where they share them; boxes are kept."""
        return self._pair(generator, discriminator, lambda own, _: jax.tree.map(jnp.zeros_like, own))

    def pair(self, generator: Any, discriminator: Any) -> Any:
        """A pair that computes what two whole models compute. "shared" drops the discriminator's tables: they must be
        the generator's."""
        return self._pair(generator, discriminator, jnp.subtract)

    def _pair(self, generator: Any, discriminator: Any, difference: Callable) -> Any:
        own = dict(embeddings_of(discriminator))
        for table in self.tables:
            values = own.pop(table)
            if self.mode == "gdes":
                own[table + DELTA] = difference(values, embeddings_of(generator)[table])
        return {GENERATOR: generator, DISCRIMINATOR: with_embeddings(discriminator, own)}

    def discriminator(self, pair: Any) -> Any:
        """The whole discriminator: as its loss sees it, and as it is exported."""
        base, own = embeddings_of(pair[GENERATOR]), dict(embeddings_of(pair[DISCRIMINATOR]))
        for table in self.tables:
            if self.mode == "gdes":
                own[table] = jax.lax.stop_gradient(base[table]) + own.pop(table + DELTA)
            else:
                own[table] = base[table]
        return with_embeddings(pair[DISCRIMINATOR], own)


def embeddings_of(model: Any) -> Any:
    """The embeddings' parameters of a model with a head."""
    return model["encoder"]["embeddings"]


def with_embeddings(model: Any, embeddings: Any) -> Any:
    """`model` with other embeddings."""
    return {**model, "encoder": {**model["encoder"], "embeddings": embeddings}}
