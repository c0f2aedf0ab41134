import jax
import pytest
from jax.sharding import AxisType

from deberta_jax.dist.mesh import make_mesh
from deberta_jax.errors import Refused


def axes(data, fsdp, tensor):
    return (("data", data), ("fsdp", fsdp), ("tensor", tensor))


def test_a_mesh_has_the_names_and_sizes_asked_for():
    mesh = make_mesh(axes(2, 2, 2))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == (2, 2, 2)
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    ("asked", "filled"), [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((8, 1, -1), (8, 1, 1))]
)
def test_minus_one_takes_the_rest_of_the_devices(asked, filled):
    assert make_mesh(axes(*asked)).devices.shape == filled


def test_a_mesh_may_be_made_of_some_devices():
    mesh = make_mesh(axes(1, -1, 1), jax.devices()[:2])
    assert mesh.devices.ravel().tolist() == jax.devices()[:2]


@pytest.mark.parametrize("sizes", [(4, 1, 1), (2, 2, 4), (-1, 3, 1), (16, -1, 1)])
def test_sizes_that_do_not_cover_the_devices_are_refused(sizes):
    with pytest.raises(Refused, match="does not cover 8 devices"):
        make_mesh(axes(*sizes))


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (8, 0, 1), (-2, 1, 1)])
def test_sizes_that_make_no_sense_are_refused(sizes):
    with pytest.raises(Refused, match="positive sizes, at most one of them -1"):
        make_mesh(axes(*sizes))
