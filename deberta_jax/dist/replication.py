"""What devices keep whole where rules split the parameters: a forgotten axis name costs memory without a word."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from deberta_jax.dist.axes import axes_of
from deberta_jax.errors import Refused

MOST = 0.02  # of the parameters' bytes: biases are 0.04 % of a 1.5B model
SMALL = 64 << 10  # bytes that may be whole in any model: the biases of one so small that 2 % are less
WORST = 5

Named = tuple[str, jax.ShapeDtypeStruct]  # with a NamedSharding


def check_replication(leaves: Sequence[Named], rules: Sequence[tuple[str, Any]], mesh: Mesh | AbstractMesh
) -> None:
    """Raises Refused, naming the largest, where too many bytes of parameters are split by none of the mesh axes that
    split "embed". Rules that split no "embed" promise nothing."""
    axes = [axis for axis in axes_of(dict(rules)["embed"]) if mesh.shape[axis] > 1]
    whole = whole_along(leaves, axes)
    share = byte_share(whole, leaves)
    if axes and share > MOST and sum(bytes_of(leaf) for _, leaf in whole) > SMALL:
        largest = sorted(whole, key=lambda each: -bytes_of(each[1]))[:WORST]
        named = ", ".join(f"{name} {leaf.shape} of {bytes_of(leaf):,} bytes" for name, leaf in largest)
        raise Refused(
            f"{share:.1%} of the parameters' bytes would be whole on every device of the mesh axis {', '.join(axes)}, at "
            f"most {MOST:.0%} may be: {named}; rules must split an axis of theirs"
        )


def whole_along(leaves: Sequence[Named], axes: Sequence[str]) -> list[Named]:
    """Those that none of these mesh axes splits."""
    used = {name: {axis for entry in leaf.sharding.spec for axis in axes_of(entry)} for name, leaf in leaves}
    return [(name, leaf) for name, leaf in leaves if not used[name] & set(axes)]


def byte_share(some: Sequence[Named], leaves: Sequence[Named]) -> float:
    """The bytes of `some` of the leaves as a share of all."""
    return sum(bytes_of(leaf) for _, leaf in some) / sum(bytes_of(leaf) for _, leaf in leaves)


def bytes_of(leaf: Any) -> int:
    """Of a whole array, from its shape and dtype."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def own_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    """Of the part that a device holds."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
