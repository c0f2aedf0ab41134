"""The parameterised layers everything else is made of, with the logical axes of their parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import named


def weight_init(cfg: ModelConfig, *axes: str):
    """Normal with the released models' spread, axes named."""
    return named(nn.initializers.normal(cfg.initializer_range), *axes)


def layer_norm(cfg: ModelConfig, name: str | None = None) -> nn.LayerNorm:
    """LayerNorm over the embedding axis; statistics in float32, two passes (the fast variance loses digits)."""
    return nn.LayerNorm(
        epsilon=cfg.layer_norm_eps,
        dtype=jnp.dtype(cfg.dtype),
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones, "embed"),
        bias_init=named(nn.initializers.zeros, "embed"),
        name=name,
    )


def dense(
    cfg: ModelConfig, features: int, axes: tuple[str, str], *, use_bias: bool = True, name: str | None = None
) -> nn.Dense:
    """A Dense layer whose kernel has the logical `axes` (in, out)."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=jnp.dtype(cfg.dtype),
        kernel_init=weight_init(cfg, *axes),
        bias_init=named(nn.initializers.zeros, axes[1]),
        name=name,
    )


class HeadProjection(nn.Module):
    """[..., e] to [..., h, d]. Own kernel: nn.DenseGeneral cannot name three axes under a mesh."""

    cfg: ModelConfig
    use_bias: bool = True

    @nn.compact
    def __call__(self, x_te: jax.Array) -> jax.Array:
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        heads = (cfg.num_heads, cfg.head_size)
        w_ehd = self.param("kernel", weight_init(cfg, "embed", "heads", "head_size"), (cfg.hidden_size, *heads))
        y_thd = jnp.einsum("...e,ehd->...hd", x_te.astype(dtype), w_ehd.astype(dtype))
        if not self.use_bias:
            return y_thd
        b_hd = self.param("bias", named(nn.initializers.zeros, "heads", "head_size"), heads)
        return y_thd + jnp.broadcast_to(b_hd.astype(dtype), y_thd.shape)


class MergeProjection(nn.Module):
    """[..., h, d] to [..., e]: the attention's output layer."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_thd: jax.Array) -> jax.Array:
        cfg = self.cfg
        dtype = jnp.dtype(cfg.dtype)
        shape = (cfg.num_heads, cfg.head_size, cfg.hidden_size)
        w_hde = self.param("kernel", weight_init(cfg, "heads", "head_size", "embed"), shape)
        b_e = self.param("bias", named(nn.initializers.zeros, "embed"), (cfg.hidden_size,))
        y_te = jnp.einsum("...hd,hde->...e", x_thd.astype(dtype), w_hde.astype(dtype))
        return y_te + jnp.broadcast_to(b_e.astype(dtype), y_te.shape)
