"""The device mesh, from ((name, size), ...) within a slice and the same names across slices.

A slice is what fast links join: a TPU pod or a part of it; slices talk over the data centre's network. On CPUs and GPUs
all devices count as one, in the order of their hosts.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from deberta_jax.errors import Refused

Axes = Sequence[tuple[str, int]]


def make_mesh(axes: Axes, devices: Sequence[jax.Device] | None = None, *, dcn_axes: Axes = ()) -> Mesh:
    """A mesh over all `devices` (default: every device of the run): `axes` within a slice times `dcn_axes` across them.

    Axes are slowest first; one size of each may be -1. Without `dcn_axes` there must be one slice. Neighbours along an
    axis are neighbours in the slice as far as its shape allows: (8, 2) on a 4x4 slice shares links between axes. Axes
    are of type Auto: the partitioner places what the logical names leave open. Raises Refused when the sizes do not
    multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    slices = slices_of(devices)
    sizes, dcn_sizes = mesh_sizes(axes, dcn_axes, len(devices), slices)
    arrange = {"devices": devices, "allow_split_physical_axes": True}  # only where nothing else is possible
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, **arrange)
    else:
        grid = mesh_utils.create_hybrid_device_mesh(sizes, dcn_sizes, **arrange)
    return Mesh(grid, tuple(name for name, _ in axes), axis_types=(AxisType.Auto,) * len(sizes))


def abstract_mesh(axes: Axes, devices: int, *, dcn_axes: Axes = (), slices: int = 1) -> AbstractMesh:
    """The mesh of so many devices, equally many of each slice, that are not there: for shapes and shardings."""
    if devices % slices:
        raise Refused(f"{devices} devices cannot be {slices} slices of one size")
    sizes, dcn_sizes = mesh_sizes(axes, dcn_axes, devices, slices)
    total = tuple(within * across for within, across in zip(sizes, dcn_sizes, strict=True))
    return AbstractMesh(total, tuple(name for name, _ in axes), axis_types=(AxisType.Auto,) * len(total))


def slices_of(devices: Sequence[jax.Device]) -> int:
    """The number of TPU slices that the devices belong to; 1 for other devices. Raises Refused for unequal slices."""
    if devices[0].platform != "tpu" or not hasattr(devices[0], "slice_index"):  # a single slice need not be numbered
        return 1
    _, counts = np.unique([device.slice_index for device in devices], return_counts=True)
    if len(set(counts)) > 1:
        raise Refused(f"slices of {sorted(map(int, counts))} devices: they must be of one size")
    return len(counts)


def mesh_sizes(axes: Axes, dcn_axes: Axes, devices: int, slices: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(sizes within a slice, sizes across slices), each -1 filled in. Raises Refused where they do not fit."""
    across = dcn_axes or tuple((name, 1) for name, _ in axes)
    each = " of each slice" if slices > 1 else ""
    return (
        _filled(f"mesh {dict(axes)}", axes, devices // slices, f"devices{each}"),
        _filled(f"dcn_mesh {dict(across)}", across, slices, "slices" if slices > 1 else "slice"),
    )


def _filled(what: str, axes: Axes, count: int, of: str) -> tuple[int, ...]:
    sizes = [size for _, size in axes]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise Refused(f"{what} must have positive sizes, at most one of them -1")
    known = math.prod(size for size in sizes if size != -1)
    filled = tuple(count // known if size == -1 else size for size in sizes)
    if math.prod(filled) != count:
        raise Refused(f"{what} does not cover {count} {of}")
    return filled


def platform() -> tuple[str, int]:
    """What the mesh in force consists of, cpu, gpu (cuda, rocm) or tpu, and of how many; outside, the default device."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    return (jax.default_backend(), 1) if device is None else (device.platform, mesh.size)
