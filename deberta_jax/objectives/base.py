"""The contract between an objective and the training step."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from deberta_jax.objectives.sums import Sums

Batch = dict[str, jax.Array]
WHOLE = ""  # the name of the only group of an objective that trains one model


class Lexicon(NamedTuple):
    """What an objective knows about the text it is trained on."""

    top_id: int  # the most frequent training token: always guessing it is the baseline
    size: int  # ids that exist; the word table may have more rows
    special_ids: tuple[int, ...]
    mask_id: int  # of [MASK]


@dataclasses.dataclass(frozen=True)
class Part:
    """One loss of an objective."""

    # (params, batch, key, weights) -> (scalar, (sums, found)); later parts have `found` [b, ...] in their batch
    loss: Callable[..., tuple[jax.Array, tuple[Sums, Batch]]]
    reaches: tuple[str, ...]  # the groups of parameters that its gradient reaches


@dataclasses.dataclass(frozen=True)
class Objective:
    """Pure functions over (params, batch).

    Every loss is a sum over items and a weight that the batch alone determines. So the weights of the whole global
    batch are known before any micro-batch runs, each micro-batch is divided by them once, and its gradients add.

    Parameters fall into groups, params[group], each with an optimizer of its own; or there is one group, WHOLE. A group
    is updated once all parts that reach it have run, so that the next part sees it updated; with `joint`, all groups
    are updated after the last part.
    """

    groups: tuple[str, ...]
    parts: tuple[Part, ...]
    joint: bool
    init: Callable[[jax.Array], Any]  # key -> boxed params
    weights: Callable[[Batch], dict[str, jax.Array]]  # of the whole global batch
    evaluate: Callable[[Any, Batch], Sums]  # (params, batch), deterministic
    # (params, batch), deterministic: of pretraining the BEST (ids, probabilities) [b, p, k]; of tasks
    # ((examples [b], outputs), sums)
    predict: Callable[[Any, Batch], tuple[Any, Any]]
    summary: Callable[[Sums], dict[str, float]]  # numbers for people; "loss" is among them
    conclusion: Callable[[dict[str, float]], str]  # a summary of held-out rows in a line


def of_group(tree: Any, group: str) -> Any:
    """A group's part of a tree that is laid out as the parameters are."""
    return tree if group == WHOLE else tree[group]


def with_group(tree: Any, group: str, value: Any) -> Any:
    """`tree` with a group's part replaced."""
    return value if group == WHOLE else {**tree, group: value}
