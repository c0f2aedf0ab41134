"""The parameterised layers everything else is made of, with the logical axes of their parameters."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import named
from deberta_jax.dist.mesh import platform
from deberta_jax.ops.layer_norm import layer_norm
from deberta_jax.ops.projection import projected


def weight_init(cfg: ModelConfig, *axes: str):
    """Normal with the released models' spread, axes named."""
    return named(nn.initializers.normal(cfg.initializer_range), *axes)


class LayerNorm(nn.Module):
    """Normalises over the embedding axis; comes out in the dtype of activations."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_te: jax.Array) -> jax.Array:
        scale_e = self.param("scale", named(nn.initializers.ones, "embed"), (x_te.shape[-1],))
        bias_e = self.param("bias", named(nn.initializers.zeros, "embed"), (x_te.shape[-1],))
        return layer_norm(x_te, scale_e, bias_e, self.cfg.layer_norm_eps, jnp.dtype(self.cfg.dtype))


def dense(
    cfg: ModelConfig, features: int, axes: tuple[str, str], *, use_bias: bool = True, name: str | None = None
) -> "Dense":
    """A Dense layer whose kernel has the logical `axes` (in, out)."""
    return Dense(cfg, features, axes, use_bias, jnp.dtype(cfg.dtype), name=name)


def output(cfg: ModelConfig, features: int, name: str | None = None) -> "Dense":
    """The layer that makes a head's logits: float32, as they were summed. Rounded to bfloat16, places with scores of 8
    to 16 would be told apart in steps of 1/16, and a regression's 4 to 8 in steps of 1/32."""
    return Dense(cfg, features, ("embed", "label"), True, jnp.dtype(jnp.float32), name=name)


class Dense(nn.Module):
    """[..., i] to [..., o]. Not flax's, which sums the gradient of a bias in the dtype of activations."""

    cfg: ModelConfig
    features: int
    axes: tuple[str, str]
    use_bias: bool
    out: jnp.dtype  # of what comes out; products are of cfg.dtype

    @nn.compact
    def __call__(self, x_ti: jax.Array) -> jax.Array:
        dtype = jnp.dtype(self.cfg.dtype)
        w_io = self.param("kernel", weight_init(self.cfg, *self.axes), (x_ti.shape[-1], self.features))
        y_to = product(x_ti.astype(dtype), w_io.astype(dtype), 1, self.out)
        if not self.use_bias:
            return y_to
        b_o = self.param("bias", named(nn.initializers.zeros, self.axes[1]), (self.features,))
        return with_bias(y_to, b_o)


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
        y_thd = product(x_te.astype(dtype), w_ehd.astype(dtype), 1, dtype)
        if not self.use_bias:
            return y_thd
        b_hd = self.param("bias", named(nn.initializers.zeros, "heads", "head_size"), heads)
        return with_bias(y_thd, b_hd)


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
        y_te = product(x_thd.astype(dtype), w_hde.astype(dtype), 2, dtype)
        return with_bias(y_te, b_e)


def product(x: jax.Array, w: jax.Array, axes: int, out: jnp.dtype) -> jax.Array:
    """The last `axes` of `x` times the first of `w`, of dtype `out`."""
    if x.dtype == out == jnp.bfloat16 and platform()[0] == "cpu":
        return projected(x, w, axes)
    return jnp.tensordot(x, w, axes, preferred_element_type=out)


@jax.custom_vjp
def with_bias(y_tf: jax.Array, bias_f: jax.Array) -> jax.Array:
    """`y_tf` plus a float32 bias rounded to the dtype of `y_tf`, as weights are: on GPUs the product then adds it.

    The bias's gradient is a sum over all tokens in float32: in bfloat16, XLA's sum of 8,192 terms of one sign comes out
    a third too small on CPUs.
    """
    flat = (*y_tf.shape[: y_tf.ndim - bias_f.ndim], bias_f.size)  # cuBLAS takes a bias with one axis
    bias = jnp.broadcast_to(bias_f.astype(y_tf.dtype).reshape(-1), flat)
    return (y_tf.reshape(flat) + bias).reshape(y_tf.shape)


def _with_bias_forward(y_tf: jax.Array, bias_f: jax.Array) -> tuple[jax.Array, jax.Array]:
    return with_bias(y_tf, bias_f), bias_f  # of the bias only the shape is used


def _with_bias_backward(bias_f: jax.Array, slope_tf: jax.Array) -> tuple[jax.Array, jax.Array]:
    tokens = tuple(range(slope_tf.ndim - bias_f.ndim))
    return slope_tf, slope_tf.astype(jnp.float32).sum(tokens)


with_bias.defvjp(_with_bias_forward, _with_bias_backward)
