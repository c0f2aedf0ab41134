"""Logical axis names: given where a parameter or activation is made, mapped to mesh axes by one table.

A rule table is a tuple of (logical axis, mesh axis | tuple of mesh axes | None); every name has exactly one rule. A
misspelt name raises: silently it would replicate.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from deberta_jax.errors import Refused, nearest

PARAM_AXES = frozenset(
    {"embed", "heads", "head_size", "mlp", "vocab", "layers", "relative", "position", "taps", "label"}
)
# Activations have names of their own: under fsdp a parameter's "embed" is split over an axis that already splits the
# batch of an activation.
ACT_AXES = frozenset(
    {
        *("act_batch", "act_length", "act_key", "act_prediction", "act_embed"),
        *("act_heads", "act_head_size", "act_mlp", "act_vocab"),
    }
)
LOGICAL_AXES = PARAM_AXES | ACT_AXES


def named(init, *axes: str):
    """`init` with the logical `axes` of the parameter it makes."""
    unknown = set(axes) - PARAM_AXES
    if unknown:
        raise ValueError(f"unknown parameter axes {sorted(unknown)}")
    return nn.with_logical_partitioning(init, axes)


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """`x` placed as the rules in force say; outside a mesh, `x`."""
    if len(axes) != x.ndim:
        raise ValueError(f"{axes} names {len(axes)} axes, array has {x.ndim}")
    names = tuple("act_" + axis for axis in axes)
    unknown = set(names) - ACT_AXES
    if unknown:
        raise ValueError(f"unknown activation axes {sorted(unknown)}")
    return nn.with_logical_constraint(x, names)


def constrain_looked_up(x_ble: jax.Array) -> jax.Array:
    """Rows [b, l, e] of a table, placed as a table whose "embed" is split gives them; outside a mesh, as they are.

    On its way from there to ("batch", "length", "embed") a row of the batch meets the parts of its vectors: as much is
    sent as a device keeps. Left open, the partitioner of jaxlib 0.10.2 gathers the whole batch on every device.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x_ble
    rules = dict(nn.get_logical_axis_rules())
    of_table = axes_of(rules["embed"])
    others = tuple(axis for axis in axes_of(rules["act_batch"]) if axis not in of_table)
    return jax.lax.with_sharding_constraint(x_ble, PartitionSpec(others or None, None, of_table or None))


def check_rules(rules: Sequence[tuple[str, Any]], mesh: Mesh | AbstractMesh) -> None:
    """Raises Refused unless each logical axis has one rule, each rule names real axes, and no mesh axis idles."""
    names = [name for name, _ in rules]
    for name in names:
        if name not in LOGICAL_AXES:
            raise Refused(f"rules: unknown logical axis {name!r}{nearest(name, LOGICAL_AXES)}")
    if len(set(names)) != len(names):
        raise Refused(f"rules name an axis twice: {sorted({n for n in names if names.count(n) > 1})}")
    missing = LOGICAL_AXES - set(names)
    if missing:
        raise Refused(f"rules lack the logical axes {sorted(missing)}")
    targets = {axis for _, target in rules for axis in axes_of(target)}
    for axis in targets - set(mesh.axis_names):
        raise Refused(f"rules name the mesh axis {axis!r}, mesh has {mesh.axis_names}{nearest(axis, mesh.axis_names)}")
    idle = [axis for axis, size in mesh.shape.items() if size > 1 and axis not in targets]
    if idle:
        raise Refused(f"mesh axes {idle} are larger than 1 but no rule uses them: their devices would repeat work")


def mesh_axes_of(axis: str) -> tuple[str, ...]:
    """The axes of the mesh in force by which the rules in force split this axis of an activation; none outside."""
    rules = dict(nn.get_logical_axis_rules())
    return () if jax.sharding.get_abstract_mesh().empty else axes_of(rules["act_" + axis])


def parts_of(axis: str) -> int:
    """Into how many parts the mesh and the rules in force split this axis of an activation; 1 outside a mesh."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[name] for name in mesh_axes_of(axis))


def batch_devices(rules: Sequence[tuple[str, Any]], mesh: Mesh) -> int:
    """Number of parts that the batch is split into."""
    parts = 1
    for axis in axes_of(dict(rules)["act_batch"]):
        parts *= mesh.shape[axis]
    return parts


def batch_sharding(rules: Sequence[tuple[str, Any]], mesh: Mesh) -> NamedSharding:
    """Sharding of every array of a batch: the first axis split, the others whole."""
    return NamedSharding(mesh, PartitionSpec(dict(rules)["act_batch"]))


def rows_held(sharding: NamedSharding, rows: int, process: int) -> np.ndarray:
    """int32: which of the `rows` of a batch the devices of a process hold, ascending.

    They need not lie together, nor be no other process's: a mesh follows the wires between the chips, and an axis that
    does not split the batch may go through several hosts.
    """
    held = np.zeros(rows, bool)
    for device, (index,) in sharding.devices_indices_map((rows,)).items():
        if device.process_index == process:
            held[index] = True
    return np.flatnonzero(held).astype(np.int32)


def shardings_of(abstract: Any, rules: Sequence[tuple[str, Any]], mesh: Mesh) -> Any:
    """The NamedSharding of each leaf of a boxed abstract tree (from `eval_shape` of an init with `named` axes)."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(abstract), mesh, tuple(rules))


def unboxed(tree: Any) -> Any:
    """`tree` without the boxes that carry the axis names; places nothing."""
    return nn.meta.map_axis_meta(lambda box: box.unbox(apply_constraint=False), tree)


def axes_of(target: Any) -> tuple[str, ...]:
    """The mesh axes of one rule or of one entry of a PartitionSpec: None is none, a name is one."""
    if target is None:
        return ()
    return (target,) if isinstance(target, str) else tuple(target)
