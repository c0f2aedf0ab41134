import importlib.util

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from deberta_jax.dist.mesh import abstract_mesh, make_mesh, mesh_sizes, slices_of
from deberta_jax.errors import Refused
from deberta_jax.plan import compiler


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


@pytest.mark.parametrize(
    ("within", "across", "slices", "filled"),
    [
        ((-1, 1, 1), (-1, 1, 1), 1, ((16, 1, 1), (1, 1, 1))),
        ((-1, 1, 1), (-1, 1, 1), 4, ((4, 1, 1), (4, 1, 1))),
        ((1, -1, 2), (2, -1, 1), 4, ((1, 2, 2), (2, 2, 1))),
        ((2, 2, 2), (1, 2, 1), 2, ((2, 2, 2), (1, 2, 1))),
    ],
)
def test_sizes_are_filled_in_within_and_across_slices(within, across, slices, filled):
    assert mesh_sizes(axes(*within), axes(*across), 16, slices) == filled


def test_without_sizes_across_slices_there_is_one():
    assert mesh_sizes(axes(-1, 1, 1), (), 8, 1)[1] == (1, 1, 1)
    with pytest.raises(Refused, match="dcn_mesh {'data': 1, 'fsdp': 1, 'tensor': 1} does not cover 2 slices"):
        mesh_sizes(axes(-1, 1, 1), (), 8, 2)


@pytest.mark.parametrize(
    ("within", "across", "slices", "said"),
    [
        ((16, 1, 1), (-1, 1, 1), 2, "^mesh {.*} does not cover 8 devices of each slice"),
        ((-1, 1, 1), (2, 1, 1), 1, "dcn_mesh {'data': 2, .*} does not cover 1 slice$"),
        ((-1, 1, 1), (3, -1, 1), 4, "dcn_mesh {.*} does not cover 4 slices"),
        ((-1, 1, 1), (-1, -1, 1), 4, "dcn_mesh {.*} must have positive sizes, at most one of them -1"),
    ],
)
def test_sizes_that_do_not_fit_the_slices_are_refused(within, across, slices, said):
    with pytest.raises(Refused, match=said):
        mesh_sizes(axes(*within), axes(*across), 16, slices)


def test_simulated_devices_are_one_slice():
    assert slices_of(jax.devices()) == 1
    assert make_mesh(axes(-1, 2, 1), dcn_axes=axes(-1, 1, 1)).devices.shape == (4, 2, 1)


def test_a_mesh_of_devices_that_are_not_there_has_the_sizes_of_both():
    mesh = abstract_mesh(axes(-1, 4, 2), 256, dcn_axes=axes(-1, 1, 1), slices=4)
    assert dict(mesh.shape) == {"data": 32, "fsdp": 4, "tensor": 2}
    with pytest.raises(Refused, match="10 devices cannot be 4 slices"):
        abstract_mesh(axes(-1, 1, 1), 10, dcn_axes=axes(-1, 1, 1), slices=4)


def chips(topology: str, slices: int = 1) -> list:
    """Devices that are not there."""
    return compiler.devices(topology, slices)


def needs_libtpu(test):
    missing = importlib.util.find_spec("libtpu") is None
    reason = "needs the TPU's compiler: requirements-libtpu.txt"
    return pytest.mark.libtpu(pytest.mark.skipif(missing, reason=reason)(test))


@needs_libtpu
@pytest.mark.parametrize(
    ("within", "across", "total"),
    [
        ((-1, 1, 1), (-1, 1, 1), (32, 1, 1)),
        ((1, 8, 2), (2, 1, 1), (2, 8, 2)),
        ((2, -1, 1), (1, 2, 1), (2, 16, 1)),
    ],
    ids=str,
)
def test_an_axis_over_slices_goes_through_one_slice_after_the_other(within, across, total):
    mesh = make_mesh(axes(*within), chips("v5e:4x4", 2), dcn_axes=axes(*across))
    assert mesh.devices.shape == total and len(set(mesh.devices.flat)) == 32
    slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    halves = np.split(slice_of, 2, axis=next(axis for axis, size in enumerate(across) if size != 1))
    assert [set(half.flat) for half in halves] == [{0}, {1}]


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "sizes"),
    [("v5e:4x4", (8, 2, 1)), ("v5e:16x16", (1, 64, 4)), ("v5p:4x4x4", (8, 8, 1)), ("v5p:4x4x4", (4, 4, 4))],
)
def test_every_size_that_fits_a_slice_is_laid_out_on_it(topology, sizes):
    devices = chips(topology)
    mesh = make_mesh(axes(*sizes), devices, dcn_axes=axes(-1, 1, 1))
    assert mesh.devices.shape == sizes and set(mesh.devices.flat) == set(devices)


@needs_libtpu
def test_neighbours_along_an_axis_are_neighbours_in_the_slice_where_its_shape_allows():
    mesh = make_mesh(axes(4, 4, 1), chips("v5e:4x4"))
    places = np.array([[device.coords[:2] for device in row] for row in mesh.devices[..., 0]])
    for axis in (0, 1):
        assert (np.abs(np.diff(places, axis=axis)).sum(-1) == 1).all()


@needs_libtpu
def test_slices_of_different_sizes_are_refused():
    with pytest.raises(Refused, match=r"slices of \[12, 16\] devices: they must be of one size"):
        slices_of(chips("v5e:4x4", 2)[4:])
