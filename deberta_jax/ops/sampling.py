"""Drawing tokens from logits."""

import jax
import jax.numpy as jnp
import numpy as np

CHUNK = 128  # ids that are drawn from together; the axis of ids is a multiple of it


def sample(logits_bpv: jax.Array, allowed_v: np.ndarray, temperature: float, draw_bp2: jax.Array) -> jax.Array:
    """One id [b, p] from softmax(logits / temperature) over the `allowed_v` ids; `draw_bp2` is uniform in [0, 1).

    Inverts the distribution function in two steps: a chunk of ids by its mass, then an id within it. That takes two
    random numbers a position and one pass over the logits; Gumbel noise takes random bits for each logit, which costs a
    small model more than the logits did. An id that is not allowed is never drawn, nor one of probability 0.
    """
    batch, predictions, rows = logits_bpv.shape
    scaled_bpv = jnp.where(allowed_v[None, None], logits_bpv.astype(jnp.float32) / temperature, -jnp.inf)
    scaled_bpv -= scaled_bpv.max(-1, keepdims=True)
    scaled_bpcv = scaled_bpv.reshape(batch, predictions, rows // CHUNK, CHUNK)
    chunk_bp = _pick(jnp.exp(scaled_bpcv).sum(-1), draw_bp2[..., 0])
    within_bpv = jnp.take_along_axis(scaled_bpcv, chunk_bp[..., None, None], axis=2)[:, :, 0]
    return chunk_bp * CHUNK + _pick(jnp.exp(within_bpv), draw_bp2[..., 1])


def _pick(weight_bpn: jax.Array, draw_bp: jax.Array) -> jax.Array:
    """The first index at which the running weight exceeds `draw_bp` of the total."""
    running_bpn = jnp.cumsum(weight_bpn, axis=-1)
    # A parallel sum may round a little up where it adds nothing, so the weight itself has to be positive too.
    beyond_bpn = (running_bpn > draw_bp[..., None] * running_bpn[..., -1:]) & (weight_bpn > 0)
    return jnp.where(beyond_bpn.any(-1), beyond_bpn.argmax(-1), weight_bpn.argmax(-1)).astype(jnp.int32)
