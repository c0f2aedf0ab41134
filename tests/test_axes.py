from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from builders import LEXICON, tiny_config
from configs import meshes
from deberta_jax.dist import axes
from deberta_jax.dist.mesh import make_mesh
from deberta_jax.errors import Refused
from deberta_jax.objectives import OBJECTIVES

TABLES = {"dp": meshes.dp, "fsdp": meshes.fsdp, "fsdp_tp": meshes.fsdp_tp}


def mesh_of(data, fsdp, tensor):
    return make_mesh((("data", data), ("fsdp", fsdp), ("tensor", tensor)))


def changed(rules, **changes):
    return tuple((dict(rules) | changes).items())


def test_a_misspelt_parameter_axis_raises():
    with pytest.raises(ValueError, match="embd"):
        axes.named(nn.initializers.zeros, "embd", "mlp")


def test_an_activation_axis_is_no_parameter_axis():
    with pytest.raises(ValueError, match="act_embed"):
        axes.named(nn.initializers.zeros, "act_embed")


def test_a_misspelt_activation_axis_raises():
    with pytest.raises(ValueError, match="act_batsh"):
        axes.constrain(jnp.zeros((2, 3)), "batsh", "embed")


def test_every_axis_of_an_array_must_be_named():
    with pytest.raises(ValueError, match="names 1 axes, array has 2"):
        axes.constrain(jnp.zeros((2, 3)), "batch")


def test_constrain_outside_a_mesh_changes_nothing():
    x = jnp.arange(6.0).reshape(2, 3)
    assert (axes.constrain(x, "batch", "embed") == x).all()


def test_constrain_places_an_activation_as_the_rules_say():
    mesh = mesh_of(2, 2, 2)
    with jax.set_mesh(mesh), nn.logical_axis_rules(meshes.fsdp_tp):
        x = jax.jit(lambda x: axes.constrain(x, "batch", "length", "mlp"))(jnp.zeros((8, 3, 4)))
    assert x.sharding.shard_shape(x.shape) == (2, 3, 2)


@pytest.mark.parametrize(
    ("rules", "sizes", "own"),
    [("dp", (4, 2, 1), (1, 3, 8)), ("fsdp", (2, 4, 1), (4, 3, 2)), ("fsdp_tp", (2, 2, 2), (4, 3, 4))],
)
def test_what_is_looked_up_lies_as_its_table_does(rules, sizes, own):
    x = jnp.arange(8 * 3 * 8.0).reshape(8, 3, 8)
    assert axes.constrain_looked_up(x) is x
    with jax.set_mesh(mesh_of(*sizes)), nn.logical_axis_rules(TABLES[rules]):
        placed = jax.jit(axes.constrain_looked_up)(x)
    assert placed.sharding.shard_shape(x.shape) == own
    assert (placed == x).all()


@pytest.mark.parametrize(
    ("rules", "sizes"), [("dp", (8, 1, 1)), ("dp", (4, 2, 1)), ("fsdp", (1, 8, 1)), ("fsdp_tp", (2, 2, 2))]
)
def test_the_tables_of_the_configs_pass(rules, sizes):
    axes.check_rules(TABLES[rules], mesh_of(*sizes))


def test_a_misspelt_logical_axis_is_refused_with_the_nearest_name():
    rules = (*meshes.dp, ("act_bach", "data"))
    with pytest.raises(Refused, match="'act_bach'.*'act_batch'"):
        axes.check_rules(rules, mesh_of(8, 1, 1))


def test_a_missing_logical_axis_is_refused():
    rules = tuple(rule for rule in meshes.dp if rule[0] != "vocab")
    with pytest.raises(Refused, match=r"lack the logical axes \['vocab'\]"):
        axes.check_rules(rules, mesh_of(8, 1, 1))


def test_two_rules_for_one_axis_are_refused():
    with pytest.raises(Refused, match="'embed'"):
        axes.check_rules((*meshes.dp, ("embed", "fsdp")), mesh_of(8, 1, 1))


@pytest.mark.parametrize("target", ["tensr", ("fsdp", "tensr")])
def test_a_misspelt_mesh_axis_is_refused_with_the_nearest_name(target):
    with pytest.raises(Refused, match="'tensr'.*'tensor'"):
        axes.check_rules(changed(meshes.dp, mlp=target), mesh_of(8, 1, 1))


def test_a_mesh_axis_that_no_rule_uses_is_refused():
    with pytest.raises(Refused, match=r"\['tensor'\]"):
        axes.check_rules(meshes.dp, mesh_of(4, 1, 2))


@pytest.mark.parametrize(("sizes", "parts"), [((8, 1, 1), 8), ((2, 2, 2), 4), ((1, 1, 8), 1), ((2, 4, 1), 8)])
def test_the_batch_is_split_over_data_and_fsdp(sizes, parts):
    mesh = mesh_of(*sizes)
    assert axes.batch_devices(meshes.fsdp_tp, mesh) == parts
    assert axes.batch_sharding(meshes.fsdp_tp, mesh).shard_shape((16, 5)) == (16 // parts, 5)


def test_a_batch_that_nothing_splits_has_one_part():
    mesh = mesh_of(1, 1, 8)
    rules = changed(meshes.fsdp_tp, act_batch=None)
    assert axes.batch_devices(rules, mesh) == 1
    assert axes.batch_sharding(rules, mesh).shard_shape((16, 5)) == (16, 5)


def test_the_parts_of_an_axis_are_those_of_the_mesh_and_the_rules_in_force():
    assert axes.parts_of("batch") == 1
    with nn.logical_axis_rules(meshes.fsdp_tp):
        assert axes.parts_of("batch") == 1
        with jax.set_mesh(mesh_of(2, 2, 2)):
            assert [axes.parts_of(axis) for axis in ("batch", "vocab", "embed")] == [4, 2, 1]
            assert jax.eval_shape(lambda: jnp.zeros(axes.parts_of("batch"))).shape == (4,)


@pytest.fixture(scope="module")
def boxed():
    return jax.eval_shape(OBJECTIVES["mlm"](tiny_config(), LEXICON).init, jax.random.key(0))


def test_every_parameter_names_all_its_axes(boxed):
    is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
    for box in jax.tree.leaves(boxed, is_leaf=is_box):
        assert is_box(box)
        assert len(box.names) == box.unbox(apply_constraint=False).ndim
        assert set(box.names) <= axes.PARAM_AXES


def test_rules_place_each_parameter(boxed):
    shardings = axes.shardings_of(boxed, meshes.fsdp_tp, mesh_of(2, 2, 2))
    assert shardings["encoder"]["embeddings"]["word"].spec == PartitionSpec("tensor", "fsdp")
    assert shardings["encoder"]["blocks"]["mlp_in"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert shardings["encoder"]["last"]["attention"]["query"]["kernel"].spec == PartitionSpec("fsdp", "tensor", None)
    assert jax.tree.structure(shardings) == jax.tree.structure(axes.unboxed(boxed))


def test_data_parallelism_keeps_parameters_whole(boxed):
    shardings = axes.shardings_of(boxed, meshes.dp, mesh_of(8, 1, 1))
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(shardings))


def test_unboxed_leaves_arrays_alone():
    box = nn.LogicallyPartitioned(jnp.ones((2, 3)), ("embed", "mlp"))
    tree = axes.unboxed({"boxed": box, "bare": jnp.zeros(4)})
    assert [leaf.shape for leaf in jax.tree.leaves(tree)] == [(4,), (2, 3)]


class Spread:
    """Where a sharding puts the rows of a batch: (process, rows) of each device."""

    def __init__(self, *held: tuple[int, slice]):
        self._held = held

    def devices_indices_map(self, shape: tuple[int]) -> dict:
        return {Chip(number, process): (rows,) for number, (process, rows) in enumerate(self._held)}


class Chip(NamedTuple):
    number: int
    process_index: int


def test_a_process_holds_the_rows_of_its_devices():
    one = axes.batch_sharding(meshes.dp, make_mesh((("data", 8), ("fsdp", 1), ("tensor", 1))))
    assert axes.rows_held(one, 16, process=0).tolist() == list(range(16))
    assert axes.rows_held(one, 16, process=1).tolist() == []


def test_rows_of_a_process_need_not_lie_together_nor_be_its_alone():
    """As where a mesh follows the wires, and where the axis tensor goes through two hosts."""
    apart = Spread((0, slice(6, 8)), (1, slice(2, 4)), (0, slice(0, 2)), (1, slice(4, 6)))
    assert axes.rows_held(apart, 8, process=0).tolist() == [0, 1, 6, 7]
    assert axes.rows_held(apart, 8, process=1).tolist() == [2, 3, 4, 5]
    shared = Spread((0, slice(0, 2)), (1, slice(0, 2)), (0, slice(2, 4)), (1, slice(2, 4)))
    assert (
        axes.rows_held(shared, 4, process=0).tolist() == axes.rows_held(shared, 4, process=1).tolist() == [0, 1, 2, 3]
    )
    whole = Spread((0, slice(None)), (1, slice(None)), (1, slice(None)))
    assert axes.rows_held(whole, 3, process=1).dtype == np.int32
    assert axes.rows_held(whole, 3, process=1).tolist() == [0, 1, 2]
