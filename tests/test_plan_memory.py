import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from builders import LEXICON, tiny_config
from configs import meshes
from deberta_jax.plan.memory import bytes_per_device
from deberta_jax.train.build import build_run


def test_by_hand():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    split = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp")))
    tree = {
        "split": jax.ShapeDtypeStruct((3, 16), jnp.float32, sharding=split),
        "whole": jax.ShapeDtypeStruct((5,), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())),
    }
    assert bytes_per_device(tree, mesh.shape) == 3 * 16 // 8 * 4 + 5 * 2
    assert bytes_per_device(tree, {"data": 1, "fsdp": 1}) == 3 * 16 * 4 + 5 * 2


@pytest.mark.parametrize("rules", ["dp", "fsdp", "fsdp_tp"])
def test_they_are_those_of_jax_s_own_shards(rules):
    sizes = {"dp": (8, 1, 1), "fsdp": (2, 4, 1), "fsdp_tp": (2, 2, 2)}[rules]
    mesh = tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    run = build_run(dataclasses.replace(tiny_config(), mesh=mesh, rules=getattr(meshes, rules)), LEXICON)
    leaves = jax.tree.leaves(run.abstract)
    shards = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    assert bytes_per_device(run.abstract, run.mesh.shape) == shards
