"""What every implementation of disentangled attention is given, and the arithmetic that all of them share."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Self-attention over rows of any length, in one head size; every implementation gives [b, q, h, d] like q."""

    q_bqhd: jax.Array
    k_bkhd: jax.Array
    v_bkhd: jax.Array
    pos_k_rhd: jax.Array | None  # the projected table, where a term needs it
    pos_q_rhd: jax.Array | None
    row_of_distance: np.ndarray  # [2 * length]: the table's row for the distances -length .. length - 1, ascending
    terms: tuple[str, ...]  # of c2p, p2c, p2p
    document_bk: jax.Array  # int32: tokens attend to tokens of the same positive number; 0 is padding
    seed_bhq: jax.Array | None = None  # int32: of dropout on the probabilities, for `ops.dropout.kept`
    rate: float = 0.0  # of this dropout

    @property
    def scale(self) -> float:
        return score_scale(self.q_bqhd.shape[-1], self.terms)

    def bound(self) -> "Problem":
        """The same, with documents that depend on the queries.

        A scan over layers would otherwise find that masks are the same for all of them, make them once as whole
        [h, b, q, k] arrays, and read these at every layer; made where they are used they cost nothing.
        """
        q_bqhd, document_bk = jax.lax.optimization_barrier((self.q_bqhd, self.document_bk))
        return dataclasses.replace(self, q_bqhd=q_bqhd, document_bk=document_bk)

    def padded(self, length: int) -> "Problem":
        """The same with rows of `length`; what is added is padding."""
        old = self.q_bqhd.shape[1]
        more = length - old
        if not more:
            return self

        def pad(x, axis):
            return x if x is None else jnp.pad(x, [(0, more if a == axis else 0) for a in range(x.ndim)])

        return dataclasses.replace(
            self,
            q_bqhd=pad(self.q_bqhd, 1),
            k_bkhd=pad(self.k_bkhd, 1),
            v_bkhd=pad(self.v_bkhd, 1),
            row_of_distance=np.pad(self.row_of_distance, more, mode="edge"),  # of padding any row will do
            document_bk=pad(self.document_bk, 1),
            seed_bhq=pad(self.seed_bhq, 2),
        )


def score_scale(head_size: int, terms: tuple[str, ...]) -> float:
    """1 / sqrt(d * number of terms): sqrt(3 d) with c2p and p2c, sqrt(d) for plain attention."""
    return 1 / math.sqrt(head_size * (1 + len(terms)))


def allowed_pairs(of_queries: jax.Array, of_keys: jax.Array) -> jax.Array:
    """[b, q, k]: whether query and key carry the same positive number (document, or 1 for every real token)."""
    return (of_queries[:, :, None] == of_keys[:, None, :]) & (of_keys[:, None, :] > 0)


# Products of activations are accumulated and kept in float32: a bfloat16 score loses the softmax's small differences.
product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
