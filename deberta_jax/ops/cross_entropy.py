"""Cross-entropy of integer and of binary labels, in float32."""

import jax
import jax.numpy as jnp


def cross_entropy(logits_bpv: jax.Array, label_bp: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log softmax(logits)[label] in nats, whether no logit exceeds the label's), each [b, p].

    The label's logit is picked by comparison, not by index: its gradient is then elementwise, where an indexed read
    would scatter into an array of the size of the logits.
    """
    logits_bpv = logits_bpv.astype(jnp.float32)
    is_label_bpv = jnp.arange(logits_bpv.shape[-1])[None, None] == label_bp[..., None]
    label_logit_bp = jnp.where(is_label_bpv, logits_bpv, 0).sum(-1)
    is_best_bp = label_logit_bp >= logits_bpv.max(-1)
    return jax.nn.logsumexp(logits_bpv, axis=-1) - label_logit_bp, is_best_bp


def binary_cross_entropy(logit_bl: jax.Array, is_true_bl: jax.Array) -> jax.Array:
    """-log sigmoid(logit) where true, -log sigmoid(-logit) elsewhere, in nats [b, l]; finite for any finite logit."""
    logit_bl = logit_bl.astype(jnp.float32)
    return jax.nn.softplus(jnp.where(is_true_bl, -logit_bl, logit_bl))
