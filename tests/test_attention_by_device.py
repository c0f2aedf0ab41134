"""The TPU kernel in the interpreter, cut over the simulated devices: as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention_cases import SPANS, assert_equal, problem, solved, with_arrays
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.ops.attention import by_device, reference, tpu
from deberta_jax.ops.attention.by_device import Split

ROWS, HEADS, SIZE = 8, 4, 64
BATCH_AXES = ("data", "fsdp")
SPLITS = {
    (8, 1, 1): Split(BATCH_AXES, (), 8, 1),
    (2, 2, 2): Split(BATCH_AXES, ("tensor",), 4, 2),
    (1, 4, 2): Split(("fsdp",), (), 4, 1),  # tensor splits nothing: its devices do the same
}

on_one = functools.partial(tpu.attend, interpret=True)


@pytest.fixture(scope="module")
def given():
    """Eight different rows of 100: packed documents with padding, nothing but padding, scattered documents."""
    three = problem(100, SPANS["small"], "c2p|p2c", rate=0.2, heads=HEADS, size=SIZE)
    rng = np.random.default_rng(5)
    rows = rng.permutation(np.resize(np.arange(3), ROWS))
    more = {name: jnp.take(getattr(three, name), rows, axis=0) for name in ("q_bqhd", "k_bkhd", "v_bkhd")}
    more = {name: a + 0.1 * rng.normal(size=a.shape).astype(np.float32) for name, a in more.items()}
    seed_bhq = jnp.asarray(rng.integers(-(2**31), 2**31, (ROWS, HEADS, 100)), jnp.int32)
    rest = vars(three) | {"document_bk": three.document_bk[rows], "seed_bhq": seed_bhq}
    return with_arrays(type(three)(**rest), more)


@pytest.fixture(scope="module")
def expected(given):
    return solved(on_one, given)


def on_mesh(sizes):
    return lambda given: by_device.attend(given, SPLITS[sizes], on_one)


def test_the_kernel_on_one_device_is_the_reference(given, expected):
    assert_equal(expected, solved(reference.attend, given))


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_values_and_gradients_do_not_depend_on_the_devices(given, expected, sizes):
    with jax.set_mesh(make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True)))):
        assert_equal(solved(on_mesh(sizes), given), expected)


def test_gradients_of_the_tables_are_added_up_before_they_are_rounded(given):
    def table_gradient(attend, table_rhd):
        loss = lambda table_rhd: attend(with_arrays(given, {"pos_k_rhd": table_rhd})).sum()  # noqa: E731
        return np.asarray(jax.jit(jax.grad(loss))(table_rhd), np.float32)

    table_rhd = given.pos_k_rhd.astype(jnp.bfloat16)
    exact = table_gradient(reference.attend, table_rhd.astype(jnp.float32))
    with jax.set_mesh(make_mesh((("data", 8),))):
        cut = table_gradient(
            lambda given: by_device.attend(given, Split(("data",), (), 8, 1), reference.attend), table_rhd
        )
    np.testing.assert_allclose(cut, exact, rtol=2**-8, atol=1e-5)  # rounded to bfloat16 once


def test_each_device_computes_its_own_part_only(given):
    seen = []

    def noted(own):
        seen.append((own.q_bqhd.shape, own.pos_k_rhd.shape, own.seed_bhq.shape, own.document_bk.shape))
        return own.q_bqhd

    with jax.set_mesh(make_mesh((("data", 2), ("fsdp", 2), ("tensor", 2)))):
        found = jax.jit(
            lambda given_q: by_device.attend(with_arrays(given, {"q_bqhd": given_q}), SPLITS[2, 2, 2], noted)
        )
        assert found(given.q_bqhd).sharding.shard_shape((ROWS, 100, HEADS, SIZE)) == (2, 100, 2, SIZE)
    assert seen == [((2, 100, 2, SIZE), (16, 2, SIZE), (2, 2, 100), (2, 100))]


@pytest.mark.parametrize(
    ("split", "said"),
    [(Split(), None), (Split(rows=4, heads=2), None), (Split(rows=3), "8 rows"), (Split(heads=3), "4 heads")],
)
def test_what_cannot_be_shared_evenly_is_said(split, said):
    found = split.uneven(ROWS, HEADS)
    assert found is None if said is None else found.startswith(said)
