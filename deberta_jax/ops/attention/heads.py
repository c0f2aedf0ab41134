"""Work on a few heads at a time: on CPUs what one head needs stays in the cache."""

from collections.abc import Callable
from typing import Any

import jax


def over_heads(at_once: int | None, function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` of each group of heads, one group after the other; heads are the first axis of all arrays.

    `at_once` divides their number; None takes all heads together.
    """
    heads = jax.tree.leaves(tree)[0].shape[0]
    if at_once is None or at_once == heads:
        return function(tree)
    groups = jax.tree.map(lambda x: x.reshape(heads // at_once, at_once, *x.shape[1:]), tree)
    return jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), jax.lax.map(function, groups))
