"""The device mesh, from ((name, size), ...)."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from deberta_jax.errors import Refused


def make_mesh(axes: Sequence[tuple[str, int]], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all `devices` (default: every device of the run), axes slowest first; one size may be -1.

    Axes are of type Auto: the partitioner places what the logical names leave open. Raises Refused when the sizes do
    not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = _sizes(axes, len(devices))
    names = tuple(name for name, _ in axes)
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def _sizes(axes: Sequence[tuple[str, int]], devices: int) -> tuple[int, ...]:
    sizes = [size for _, size in axes]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise Refused(f"mesh {dict(axes)} must have positive sizes, at most one of them -1")
    known = math.prod(size for size in sizes if size != -1)
    filled = tuple(devices // known if size == -1 else size for size in sizes)
    if math.prod(filled) != devices:
        raise Refused(f"mesh {dict(axes)} does not cover {devices} devices")
    return filled


def platform() -> tuple[str, int]:
    """What the mesh in force consists of, cpu, gpu (cuda, rocm) or tpu, and of how many; outside, the default device."""
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    return (jax.default_backend(), 1) if device is None else (device.platform, mesh.size)
