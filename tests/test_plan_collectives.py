"""Against programs of eight simulated devices whose messages are known, and pieces of what TPUs' compiler writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deberta_jax.plan import collectives, hlo

PLACES = np.array([(x, y) for x in range(4) for y in range(2)])  # a torus of 4 x 2
NUMBERS = 32 * 64 // 8 * 4  # bytes of a device's part of a float32 [32, 64]
TURNS = 3


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def messages(mesh, of_device) -> list[collectives.Collective]:
    """Of `of_device`, which every device runs on its [8, 32] part."""
    spec = PartitionSpec("a", "b")
    whole = jax.shard_map(of_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    shape = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, spec))
    return collectives.collectives(hlo.parse(jax.jit(whole).lower(shape).compile().as_text()), PLACES)


def each_kind(x, _):
    gathered = jax.lax.all_gather(x, "a", tiled=True)
    x = jax.lax.psum_scatter(gathered, "a", tiled=True)
    x = jax.lax.psum(x, ("a", "b"))
    x = jax.lax.ppermute(x, "b", [(0, 1), (1, 0)])
    return jax.lax.all_to_all(x, "b", 0, 0, tiled=True), None


def test_each_kind_in_a_loop_has_its_count_and_bytes(mesh):
    found = messages(mesh, lambda x: jax.lax.scan(each_kind, x, None, length=TURNS)[0])
    counted = {kind: (total.count, total.bytes) for kind, total in collectives.totals(found).items()}
    assert counted == {
        "all-gather": (TURNS, TURNS * 4 * NUMBERS),  # the result: four parts
        "reduce-scatter": (TURNS, TURNS * 4 * NUMBERS),  # the operand
        "all-reduce": (TURNS, TURNS * NUMBERS),
        "collective-permute": (TURNS, TURNS * NUMBERS),
        "all-to-all": (TURNS, TURNS * NUMBERS),
    }


def test_bytes_on_the_wire_are_those_of_a_ring(mesh):
    found = {each.kind: each for each in messages(mesh, lambda x: each_kind(x, None)[0])}
    assert {kind: each.wire_bytes for kind, each in found.items()} == {
        "all-gather": 3 * NUMBERS,  # a device passes on all parts but one of four
        "reduce-scatter": 3 * NUMBERS,
        "all-reduce": 2 * 7 / 8 * NUMBERS,  # scattered, then gathered, over eight
        "collective-permute": NUMBERS,
        "all-to-all": NUMBERS / 2,  # half of it stays
    }


def test_the_axes_that_a_group_spans(mesh):
    found = {each.kind: each.axes for each in messages(mesh, lambda x: each_kind(x, None)[0])}
    assert (found["all-gather"], found["all-to-all"], found["all-reduce"]) == ((0,), (1,), (0, 1))


def test_the_partitioner_s_own_messages_are_found(mesh):
    """Gradients of a parameter that every device has whole: added over all of them."""
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(("a", "b")))
    gradient = jax.jit(jax.grad(lambda w, x: (x @ w).sum()), out_shardings=whole)
    shapes = (
        jax.ShapeDtypeStruct((16, 4), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rows),
    )
    (found,) = collectives.collectives(hlo.parse(gradient.lower(*shapes).compile().as_text()), PLACES)
    assert (found.kind, found.bytes % (16 * 4), found.group, found.times) == ("all-reduce", 0, 8, 1)


GROUPS = {
    "replica_groups={{0,2},{1,3}}": [[0, 2], [1, 3]],
    "replica_groups=[2,4]<=[8]": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "replica_groups=[4,2]<=[2,4]T(1,0)": [[0, 4], [1, 5], [2, 6], [3, 7]],
    "replica_groups=mesh['x'=4,'y'=2] {'y'}, dimensions={0}": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "replica_groups=mesh['x'=4,'y'=2] {'x'}": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "replica_groups=mesh['x'=4,'y'=2] {'x','y'}": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "replica_groups=mesh['x'=8] {'x':(2)2}": [[0, 2], [1, 3], [4, 6], [5, 7]],
    "replica_groups=mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'y'}": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "replica_groups=mesh['x'=2,'y'=2], device_ids=(0,3,1,2) {'y'}": [[0, 3], [1, 2]],
    "replica_groups={}": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "channel_id=1, source_target_pairs={{0,1},{1,0}}": [[0, 1], [1, 0]],
}


@pytest.mark.parametrize("written", GROUPS)
def test_groups_of_devices_are_read(written):
    assert collectives.device_groups(written, 8).tolist() == GROUPS[written]


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="unknown form"):
        collectives.device_groups("replica_groups=something", 8)


# An all-gather that a TPU starts, continues beside a product and ends, and a reduce-scatter; all of one channel.
ASYNCHRONOUS = """HloModule jit_f

%start (a: bf16[64]) -> (bf16[64], bf16[512]) {
  %a = bf16[64]{0:T(1024)} parameter(0)
  %gather.1 = bf16[512]{0} all-gather(%a), channel_id=1, replica_groups=mesh['x'=8] {'x'}, dimensions={0}
  ROOT %c = (bf16[64]{0}, bf16[512]{0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.7 (b: bf16[64]) -> bf16[512] {
  %b = bf16[64]{0} parameter(0)
  ROOT %gather.2 = bf16[512]{0} all-gather(%b), channel_id=1, replica_groups=mesh['x'=8] {'x'}, dimensions={0}
}

%end (d: bf16[64]) -> bf16[512] {
  %d = bf16[64]{0} parameter(0)
  %gather.3 = bf16[512]{0} all-gather(%d), channel_id=1, replica_groups=mesh['x'=8] {'x'}, dimensions={0}
  ROOT %e = bf16[512]{0} custom-call(%gather.3), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (g: f32[512]) -> f32[64] {
  %g = f32[512]{0} parameter(0)
  %sum = f32[512]{0} all-reduce(%g), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %h = f32[64]{0} dynamic-slice(%sum), dynamic_slice_sizes={64}
}

ENTRY %main (x: bf16[64], y: f32[512]) -> (bf16[512], f32[64]) {
  %x = bf16[64]{0} parameter(0)
  %y = f32[512]{0} parameter(1)
  %s = (bf16[64]{0}, bf16[512]{0}) fusion(%x), kind=kCustom, calls=%start
  %m = bf16[512]{0} fusion(%x), kind=kOutput, calls=%async_collective_fusion.7
  %n = bf16[512]{0} fusion(%x), kind=kCustom, calls=%end
  %r = f32[64]{0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.3
  %r2 = f32[64]{0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.3
  %start.2 = (bf16[64]{0}, bf16[512]{0}) all-gather-start(%x), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %done.2 = bf16[512]{0} all-gather-done(%start.2)
  ROOT %out = (bf16[512]{0}, f32[64]{0}) tuple(%n, %r)
}
"""


def test_the_pieces_of_an_asynchronous_one_count_once():
    found = collectives.collectives(hlo.parse(ASYNCHRONOUS), PLACES)
    assert sorted((each.kind, each.bytes, each.overlapped) for each in found) == [
        ("all-gather", 512 * 2, True),
        ("all-gather", 512 * 2, True),  # the other way of writing it
        ("reduce-scatter", 512 * 4, False),
        ("reduce-scatter", 512 * 4, False),
    ]


def test_what_only_exchanges_is_known_from_what_also_computes():
    program = hlo.parse(ASYNCHRONOUS)
    lines = program.computations["main"]
    assert [name for name in lines if collectives.is_message(program, lines[name])] == [
        "s",
        "n",
        "r",
        "r2",
        "start.2",
        "done.2",
    ]


# How a slice of a pair sends what all slices add up, and what all gather.
OF_A_PAIR = """HloModule jit_f

ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %token = token[] after-all()
  %s = (f32[100]{0}, u32[], token[]) send(%x, %token), channel_id=3, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %t = (f32[100]{0}, u32[], token[]) send(%x, %token), channel_id=4, is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
  %r = (f32[100]{0}, u32[], token[]) recv(%token), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %end = token[] send-done(%s), channel_id=3, is_host_transfer=true
  ROOT %out = f32[100]{0} copy(%x)
}
"""


def test_what_goes_to_other_slices_is_what_is_sent():
    found = collectives.collectives(hlo.parse(OF_A_PAIR), PLACES, slices=2)
    assert [(each.kind, each.bytes, each.wire_bytes, each.between_slices) for each in found] == [
        ("all-reduce between slices", 400, 400, True),
        ("all-gather between slices", 800, 400, True),
    ]
