"""What of a device's memory is parameters, optimizer state and batch: arithmetic on shapes and shardings."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from deberta_jax.dist.axes import axes_of


def bytes_per_device(tree: Any, sizes: Mapping[str, int]) -> int:
    """Of a tree of ShapeDtypeStruct with NamedShardings, on a mesh whose axes have these sizes; without padding."""
    return sum(_bytes(leaf, sizes) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: jax.ShapeDtypeStruct, sizes: Mapping[str, int]) -> int:
    parts = math.prod(sizes[axis] for entry in leaf.sharding.spec for axis in axes_of(entry))
    return leaf.size * leaf.dtype.itemsize // parts
