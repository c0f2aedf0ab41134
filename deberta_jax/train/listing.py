"""Parameters as tables of text: those of a checkpoint, and those of a state that a mesh splits."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh
from orbax.checkpoint import metadata

from deberta_jax.dist.axes import axes_of
from deberta_jax.dist.replication import byte_share, bytes_of, own_bytes, whole_along
from deberta_jax.train.optimizer import named_leaves
from deberta_jax.train.state import TrainState

WHOLE = "-"  # in place of the mesh axes that split an axis
BYTES, OWN_BYTES = "bytes", "on a device"


def of_saved(leaves: Sequence[tuple[str, metadata.ArrayMetadata]]) -> Iterator[str]:
    """Lines on the parameters of a saved state, from `checkpoint.contents`."""
    params = [(name.removeprefix("params/"), leaf) for name, leaf in leaves if name.startswith("params/")]
    size = {name: math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for name, leaf in leaves}
    total = sum(bytes for name, bytes in size.items() if name.startswith("params/"))
    yield f"saved from {' and '.join(sorted({_mesh_of(leaf) for _, leaf in params}))}"
    yield from table(
        ("name", "shape", "dtype", BYTES, "split by"),
        [(name, _shape(leaf), str(leaf.dtype), f"{size['params/' + name]:,}", _split(leaf)) for name, leaf in params],
    )
    yield f"{_count(params):,} parameters, {total:,} bytes; beside them {sum(size.values()) - total:,} bytes"


def of_state(state: TrainState, mesh: AbstractMesh) -> Iterator[str]:
    """Lines on how a mesh splits the parameters of an abstract state."""
    leaves = named_leaves(state.params)
    yield from table(
        ("name", "shape", "split by", BYTES, OWN_BYTES),
        [
            (
                name,
                _shape(leaf),
                split_text(leaf.sharding.spec, leaf.ndim),
                f"{bytes_of(leaf):,}",
                f"{own_bytes(leaf):,}",
            )
            for name, leaf in leaves
        ],
    )
    total, own = sum(bytes_of(leaf) for _, leaf in leaves), sum(own_bytes(leaf) for _, leaf in leaves)
    whole = byte_share(whole_along(leaves, [axis for axis, size in mesh.shape.items() if size > 1]), leaves)
    yield f"{_count(leaves):,} parameters, {total:,} bytes, {own:,} on a device; {whole:.2%} are whole on every device"
    yield f"with the optimizer's state {sum(map(own_bytes, jax.tree.leaves(state))):,} bytes on a device"


def split_text(spec: Sequence[Any], axes: int) -> str:
    """The mesh axes that split each axis of an array: "- fsdp data+tensor"."""
    entries = ["+".join(axes_of(entry)) or WHOLE for entry in spec]
    return " ".join(entries + [WHOLE] * (axes - len(entries)))


def sizes_text(axes: Sequence[tuple[str, int]]) -> str:
    """data 2 x fsdp 4."""
    return " x ".join(f"{name} {size}" for name, size in axes)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of aligned columns, numbers of bytes to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = zip(head, row, widths, strict=True)
        lined = (cell.rjust(width) if name in (BYTES, OWN_BYTES) else cell.ljust(width) for name, cell, width in cells)
        yield "  ".join(lined).rstrip()


def _mesh_of(leaf: metadata.ArrayMetadata) -> str:
    if not isinstance(leaf.sharding, metadata.NamedShardingMetadata):
        return "one device"
    return "mesh " + sizes_text(list(zip(leaf.sharding.axis_names, leaf.sharding.shape, strict=True)))


def _split(leaf: metadata.ArrayMetadata) -> str:
    named = isinstance(leaf.sharding, metadata.NamedShardingMetadata)
    return split_text(leaf.sharding.partition_spec if named else (), len(leaf.shape))


def _shape(leaf: Any) -> str:
    return "x".join(map(str, leaf.shape)) or "()"


def _count(leaves: Sequence[tuple[str, Any]]) -> int:
    return sum(math.prod(leaf.shape) for _, leaf in leaves)
