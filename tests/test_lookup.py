import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from builders import COMPILE_FAST
from configs import meshes
from deberta_jax.dist.axes import batch_sharding, constrain
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.ops.lookup import lookup

IDS, WIDTH, FREQUENT = 24, 8, 5


def random_case(share=0.4, dtype=np.float32):
    """(table, ids of which a share are FREQUENT and the others repeat too, what comes back for each place)."""
    rng = np.random.default_rng(0)
    ids = np.where(rng.random((8, 30)) < share, FREQUENT, rng.integers(0, IDS - 4, (8, 30))).astype(np.int32)
    return jnp.asarray(rng.normal(size=(IDS, WIDTH)), dtype), ids, np.float32(rng.normal(size=(8, 30, WIDTH)))


def gradient(read, table_ve, id_bl, slope_ble):
    return jax.grad(lambda table_ve: (read(table_ve, id_bl) * slope_ble).sum())(table_ve)


def frequent_apart(table_ve, id_bl):
    return lookup(table_ve, id_bl, FREQUENT)


def plain(table_ve, id_bl):
    return jnp.take(table_ve, id_bl, axis=0)


def run(function, *arguments):
    return jax.jit(function, static_argnums=0, compiler_options=COMPILE_FAST)(*arguments)


def test_rows_are_those_of_the_ids():
    table, ids, _ = random_case()
    np.testing.assert_array_equal(lookup(table, ids, FREQUENT), np.asarray(table)[ids])
    assert np.isnan(lookup(table, np.int32([[0, IDS]]), FREQUENT)[0, 1]).all()


@pytest.mark.parametrize("share", [0, 0.4, 1], ids=["never there", "often there", "nothing else"])
def test_each_row_gets_what_comes_back_to_its_places(share):
    table, ids, slope = random_case(share)
    expected = np.zeros((IDS, WIDTH))
    for place in np.ndindex(ids.shape):
        expected[ids[place]] += slope[place]
    np.testing.assert_allclose(run(gradient, frequent_apart, table, ids, slope), expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(run(gradient, plain, table, ids, slope), expected, rtol=1e-6, atol=1e-5)


def test_a_bfloat16_table_gets_a_gradient_that_was_summed_in_float32():
    table, ids, slope = random_case(dtype=jnp.bfloat16)
    slope = np.asarray(jnp.asarray(slope, jnp.bfloat16), np.float32)
    got = run(gradient, frequent_apart, table, ids, slope)
    assert got.dtype == jnp.bfloat16
    exact = run(gradient, frequent_apart, table.astype(jnp.float32), ids, slope)
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


def test_the_frequent_row_has_a_sum_of_its_own():
    """Beside the scatter of the other rows; were it in both, it would get twice what it should."""
    program = jax.make_jaxpr(gradient, static_argnums=0)
    assert str(program(frequent_apart, *random_case())).count("scatter-add[") == 2
    assert str(program(plain, *random_case())).count("scatter-add[") == 1


@pytest.mark.parametrize(
    ("sizes", "rules"), [((8, 1, 1), meshes.dp), ((2, 2, 2), meshes.fsdp_tp)], ids=["data", "data, fsdp and tensor"]
)
def test_the_layout_does_not_matter(sizes, rules):
    mesh, split = make_mesh(tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True))), dict(rules)
    rows, words = batch_sharding(rules, mesh), NamedSharding(mesh, PartitionSpec(split["vocab"], split["embed"]))

    def placed(table_ve, id_bl):
        return constrain(lookup(table_ve, id_bl, FREQUENT), "batch", "length", "embed")

    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        got = run(gradient, placed, *jax.device_put(random_case(), (words, rows, rows)))
    np.testing.assert_allclose(got, run(gradient, plain, *random_case()), rtol=0, atol=1e-5)
