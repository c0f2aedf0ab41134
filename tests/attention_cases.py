"""Attention problems of random numbers, and gradients of any implementation of them."""

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.problem import Problem
from deberta_jax.ops.buckets import row_of_distance

SMALL = (8, 16)  # buckets, distance limit
RELEASED = (256, 512)
LINEAR = (0, 16)  # v1: a row per distance
GAPS = (4, 5)  # some rows belong to no distance
SPANS = {"small": SMALL, "released": RELEASED, "linear": LINEAR, "gaps": GAPS}
TERMS = {
    "none": (),
    "c2p": ("c2p",),
    "p2c": ("p2c",),
    "p2p": ("p2p",),
    "c2p|p2c": ("c2p", "p2c"),
    "p2c|p2p": ("p2c", "p2p"),
    "c2p|p2c|p2p": ("c2p", "p2c", "p2p"),
}
WITHOUT_P2P = [name for name in TERMS if "p2p" not in name]


def rows_for(length, span):
    return row_of_distance(np.arange(-length, length), *span, clamp=True)


def documents(length, rng):
    """[3, length]: two documents and padding; nothing but padding; three documents that return, the last one short."""
    packed = np.minimum(np.arange(length) * 3 // length, 2) + 1
    packed[packed == 3] = 0
    mixed = rng.integers(1, 3, length)
    mixed[-1] = 3
    return jnp.asarray([packed, np.zeros(length), mixed], jnp.int32)


def problem(length, span, terms, *, rate=0.0, heads=2, size=8, dtype=jnp.float32) -> Problem:
    """Three rows of `documents`."""
    rng = np.random.default_rng(length)
    q, k, v = (jnp.asarray(rng.normal(size=(3, length, heads, size)), dtype) for _ in range(3))
    pos_k, pos_q = (jnp.asarray(rng.normal(size=(2 * (span[0] or span[1]), heads, size)), dtype) for _ in range(2))
    used = set(TERMS[terms])
    seed = jnp.asarray(rng.integers(-(2**31), 2**31, (3, heads, length)), jnp.int32)
    return Problem(
        *(q, k, v),
        pos_k_rhd=pos_k if used & {"c2p", "p2p"} else None,
        pos_q_rhd=pos_q if used & {"p2c", "p2p"} else None,
        row_of_distance=rows_for(length, span),
        terms=TERMS[terms],
        document_bk=documents(length, rng),
        seed_bhq=seed if rate else None,
        rate=rate,
    )


def solved(attend, given: Problem) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(output, gradients of a weighted sum of it) of the queries, keys, values and tables."""
    weight = np.random.default_rng(1).normal(size=given.q_bqhd.shape).astype(np.float32)
    names = ("q_bqhd", "k_bkhd", "v_bkhd", "pos_k_rhd", "pos_q_rhd")
    arrays = {name: getattr(given, name) for name in names if getattr(given, name) is not None}

    def loss(arrays):
        output = attend(with_arrays(given, arrays))
        return (output.astype(jnp.float32) * weight).sum(), output

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(arrays)
    return np.asarray(output), {name: np.asarray(value) for name, value in gradients.items()}


def with_arrays(given: Problem, arrays) -> Problem:
    kept = {name: value for name, value in vars(given).items() if name not in arrays}
    return Problem(**kept, **arrays)


def assert_equal(found, expected, *, atol=1e-5):
    """Output and each gradient, within `atol` of the largest entry where that is above 1."""
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=atol)
    assert found[1].keys() == expected[1].keys()
    for name, right in expected[1].items():
        assert found[1][name].shape == right.shape and found[1][name].dtype == right.dtype, name
        scale = max(1, np.abs(right).max())
        np.testing.assert_allclose(found[1][name], right, rtol=0, atol=atol * scale, err_msg=name)


def relative_l2(found, expected) -> float:
    """The largest of |found - expected| / |expected| over the output and the gradients."""
    pairs = [(found[0], expected[0]), *((found[1][name], right) for name, right in expected[1].items())]
    pairs = [(np.asarray(one, np.float64), np.asarray(other, np.float64)) for one, other in pairs]
    return max(float(np.linalg.norm(one - other) / np.linalg.norm(other)) for one, other in pairs)
