import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from builders import LEXICON, tiny_config
from configs import meshes
from deberta_jax.dist import replication
from deberta_jax.dist.mesh import abstract_mesh
from deberta_jax.errors import Refused
from deberta_jax.train.build import build_run, state_on

AXES = ("data", "fsdp", "tensor")
MESH = abstract_mesh(tuple(zip(AXES, (2, 4, 2), strict=True)), 16)


def leaf(shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, PartitionSpec(*spec)))


LEAVES = [
    ("split", leaf((96, 10), "fsdp")),
    ("both", leaf((8, 5), ("tensor", "fsdp"))),
    ("whole", leaf((10,))),
    ("by tensor", leaf((20,), "tensor", dtype=jnp.bfloat16)),
]


def test_what_an_axis_leaves_whole():
    names = lambda *axes: [name for name, _ in replication.whole_along(LEAVES, axes)]  # noqa: E731
    assert names("fsdp") == ["whole", "by tensor"]
    assert names("fsdp", "tensor") == ["whole"]
    assert names() == ["split", "both", "whole", "by tensor"]


def test_shares_are_of_bytes_not_of_numbers():
    whole = replication.whole_along(LEAVES, ["fsdp"])
    assert replication.byte_share(whole, LEAVES) == (40 + 40) / (3840 + 160 + 40 + 40)
    assert [replication.bytes_of(leaf) for _, leaf in LEAVES] == [3840, 160, 40, 40]
    assert [replication.own_bytes(leaf) for _, leaf in LEAVES] == [960, 20, 40, 20]


def test_a_little_may_be_whole():
    replication.check_replication(LEAVES, meshes.fsdp_tp, MESH)


def test_more_is_refused_by_name_the_largest_first(monkeypatch):
    monkeypatch.setattr(replication, "SMALL", 0)
    leaves = [*LEAVES, ("table", leaf((5, 3))), *((f"small{number}", leaf((1,))) for number in range(9))]
    with pytest.raises(Refused) as refusal:
        replication.check_replication(leaves, meshes.fsdp_tp, MESH)
    assert "4.2% of the parameters' bytes" in str(refusal.value) and "mesh axis fsdp" in str(refusal.value)
    assert "table (5, 3) of 60 bytes, whole (10,) of 40 bytes, by tensor (20,) of 40 bytes, small0" in str(
        refusal.value
    )
    assert "small2" not in str(refusal.value)


def test_of_a_small_model_a_larger_share_may_be_whole():
    split = ("split", leaf((4, 1 << 16), None, "fsdp"))
    replication.check_replication([split, ("whole", leaf((1 << 14,)))], meshes.fsdp_tp, MESH)  # 64 KiB, 6 %
    with pytest.raises(Refused, match="5.9% of"):
        replication.check_replication([split, ("whole", leaf(((1 << 14) + 1,)))], meshes.fsdp_tp, MESH)


@pytest.mark.parametrize(("rules", "sizes"), [(meshes.dp, (2, 4, 2)), (meshes.fsdp, (16, 1, 1))])
def test_where_no_parameter_is_to_be_split_nothing_is_promised(rules, sizes):
    mesh = abstract_mesh(tuple(zip(AXES, sizes, strict=True)), 16)
    replication.check_replication([("whole", leaf((10,)))], rules, mesh)


def test_no_run_starts_with_much_of_it_whole(monkeypatch):
    mesh = tuple(zip(AXES, (1, 8, 1), strict=True))
    config = dataclasses.replace(tiny_config(), mesh=mesh, rules=meshes.fsdp)
    build_run(config, LEXICON)
    monkeypatch.setattr(replication, "MOST", 0.01)
    monkeypatch.setattr(replication, "SMALL", 0)
    for state_of in (lambda: build_run(config, LEXICON), lambda: state_on(abstract_mesh(mesh, 8), config, LEXICON)):
        with pytest.raises(Refused, match=r"1.9% of the .*encoder/blocks/mlp_in/bias \(2, 48\) of 384 bytes"):
            state_of()
