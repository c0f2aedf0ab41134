import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.ops.projection import projected

SHAPES = {  # of x and w, and how many of their axes are summed over
    "dense": ((3, 5, 24), (24, 16), 1),
    "heads": ((3, 5, 24), (24, 4, 6), 1),
    "merged": ((3, 5, 4, 6), (4, 6, 24), 2),
    "one row": ((24,), (24, 16), 1),
}


def arguments(shapes, dtype="bfloat16"):
    """(x, w, slope of the product)."""
    x, w, axes = shapes
    rng = np.random.default_rng(0)
    out = (*x[: len(x) - axes], *w[axes:])
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in (x, w, out)]


def solved(x, w, slope, axes):
    """(product, gradients of x and w)."""
    y, pull = jax.vjp(functools.partial(projected, axes=axes), x, w)
    return y, *pull(slope)


def exact(x, w, slope, axes):
    x, w, slope = (np.asarray(each, np.float64) for each in (x, w, slope))
    tokens, outputs = x.ndim - axes, w.ndim - axes
    of_x = np.tensordot(slope, w, (range(tokens, slope.ndim), range(axes, w.ndim)))
    of_w = np.tensordot(x, slope, (range(tokens), range(tokens)))
    assert of_x.shape == x.shape and of_w.ndim == axes + outputs
    return np.tensordot(x, w, axes), of_x, of_w


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_products_and_gradients_are_rounded_once(shapes):
    x, w, slope = arguments(shapes)
    found = jax.jit(solved, static_argnums=3)(x, w, slope, shapes[2])
    for each, expected, like in zip(found, exact(x, w, slope, shapes[2]), (slope, x, w), strict=True):
        assert each.shape == like.shape and each.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(each, np.float64), expected, rtol=2**-8, atol=1e-5)


def test_all_three_are_products_of_matrices_of_which_float32_comes_out():
    """Of any other form XLA calls no library for bfloat16, or refuses it."""
    x, w, slope = arguments(SHAPES["heads"])
    text = jax.jit(solved, static_argnums=3).lower(x, w, slope, 1).as_text()
    found = [line.partition(" : ")[2] for line in text.splitlines() if "dot_general" in line]
    assert len(found) == 3
    for types in found:
        operands, result = types.split(" -> ")
        assert operands.count("xbf16>") == 2 and result.startswith("tensor<") and "xf32>" in result
        assert all(each.count("x") == 2 for each in (*operands.split(", "), result.split(" loc")[0]))


def test_split_over_devices_it_is_the_same():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("rows", "heads"))
    given = arguments(((4, 5, 24), (24, 4, 6), 1))
    places = ("rows",), (None, "heads"), ("rows", None, "heads")
    placed = [jax.device_put(a, NamedSharding(mesh, PartitionSpec(*p))) for a, p in zip(given, places, strict=True)]
    found = jax.jit(solved, static_argnums=3)(*placed, 1)
    for each, expected in zip(found, exact(*given, 1), strict=True):
        np.testing.assert_allclose(np.asarray(each, np.float64), expected, rtol=2**-8, atol=1e-5)
