"""Attention of each device's own rows and heads: for kernels, which the partitioner cannot cut.

Rows and heads have nothing to do with one another but for the relative tables, which all rows share: every device has
its heads' part of them, and their gradients are summed over the devices that split the rows. Whatever belongs to a row
or a head, the seeds of dropout too, is cut with it, so the number of devices changes nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from deberta_jax.ops.attention.problem import Problem

TABLES = ("pos_k_rhd", "pos_q_rhd")


class Split(NamedTuple):
    """Which axes of the mesh in force split rows and heads, and into how many parts; as it is: one device."""

    row_axes: tuple[str, ...] = ()
    head_axes: tuple[str, ...] = ()
    rows: int = 1
    heads: int = 1

    def uneven(self, rows: int, heads: int) -> str | None:
        """Which of so many rows and heads the devices cannot share evenly; None where they can."""
        for kind, count, parts in (("rows", rows, self.rows), ("heads", heads, self.heads)):
            if count % parts:
                return f"{count} {kind} cannot be shared evenly by {parts} devices"
        return None


def attend(problem: Problem, split: Split, of_device: Callable[[Problem], jax.Array]) -> jax.Array:
    """[b, q, h, d]: `of_device` of each device's part of a problem; to be called with a mesh in force.

    It is given the tables in float32: their gradients are added up over the devices before they are rounded.
    """
    specs = _specs(split)
    arrays = {name: getattr(problem, name) for name in specs if getattr(problem, name) is not None}
    arrays |= {name: arrays[name].astype(jnp.float32) for name in TABLES if name in arrays}

    def own(arrays: dict[str, jax.Array]) -> jax.Array:
        return of_device(dataclasses.replace(problem, **arrays))

    # Kernels do not say over which axes their results vary, so that is not checked; the transpose then sums the
    # gradient of an operand over all axes that its specification leaves out.
    cut = jax.shard_map(
        own, in_specs=({name: specs[name] for name in arrays},), out_specs=specs["q_bqhd"], check_vma=False
    )
    return cut(arrays)


def _specs(split: Split) -> dict[str, PartitionSpec]:
    """How each array of a problem is cut."""
    rows, heads = split.row_axes or None, split.head_axes or None
    tokens, table = PartitionSpec(rows, None, heads, None), PartitionSpec(None, heads, None)
    return dict.fromkeys(TABLES, table) | {
        "q_bqhd": tokens,
        "k_bkhd": tokens,
        "v_bkhd": tokens,
        "document_bk": PartitionSpec(rows, None),
        "seed_bhq": PartitionSpec(rows, heads, None),
    }
