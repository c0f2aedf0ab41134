"""Products of activations with weights in bfloat16 on CPUs.

XLA calls the library that knows a CPU's bfloat16 instructions (AMX, AVX512_BF16) only where float32 comes out and both
operands are matrices; other products of bfloat16 take as long as float32's. The sums were float32 before as well.
"""

import functools
import math

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def projected(x: jax.Array, w: jax.Array, axes: int) -> jax.Array:
    """As `jnp.tensordot`: the last `axes` of `x` times the first of `w`, in the dtype of `x`. Gradients likewise."""
    x_ti, w_io = _as_matrices(x, w, axes)
    return _rounded("ti,io->to", x_ti, w_io).reshape(*x.shape[: x.ndim - axes], *w.shape[axes:])


def _forward(x: jax.Array, w: jax.Array, axes: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return projected(x, w, axes), (x, w)


def _backward(axes: int, saved: tuple[jax.Array, jax.Array], slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = saved
    x_ti, w_io = _as_matrices(x, w, axes)
    slope_to = slope.reshape(len(x_ti), -1)
    return (
        _rounded("to,io->ti", slope_to, w_io).reshape(x.shape),
        _rounded("ti,to->io", x_ti, slope_to).reshape(w.shape),
    )


projected.defvjp(_forward, _backward)


def _as_matrices(x: jax.Array, w: jax.Array, axes: int) -> tuple[jax.Array, jax.Array]:
    inside = math.prod(w.shape[:axes])
    return x.reshape(-1, inside), w.reshape(inside, -1)


def _rounded(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32).astype(left.dtype)
