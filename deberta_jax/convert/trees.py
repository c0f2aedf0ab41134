"""Our parameter tree with its stacked layers, and the flat form in which every layer stands on its own.

Flat names: "encoder/layers/3/attention/query/kernel". In the tree, the layers that a scan runs are stacked in "blocks";
"last", and "first" where a convolution follows it, stand alone (see model/encoder.py).
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from deberta_jax.config import ModelConfig

LAYERS, BLOCKS = "layers", "blocks"


def place_of(path: str, cfg: ModelConfig) -> tuple[str, int | None]:
    """(path in the tree, index along its first axis or None) of a flat name."""
    parts = path.split("/")
    if LAYERS not in parts:
        return path, None
    at = parts.index(LAYERS)
    layer = int(parts[at + 1])
    first = int(cfg.conv_kernel_size > 0)
    if layer == cfg.num_layers - 1:
        alone = "last"
    elif layer < first:
        alone = "first"
    else:
        return "/".join([*parts[:at], BLOCKS, *parts[at + 2 :]]), layer - first
    return "/".join([*parts[:at], alone, *parts[at + 2 :]]), None


def stacked(flat: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], cfg: ModelConfig) -> dict[str, Any]:
    """The tree of jax arrays, float32; `shapes` gives the shape of each path of the tree."""
    filled = {path: np.empty(shape, np.float32) for path, shape in shapes.items() if f"{BLOCKS}/" in path}
    for name, array in flat.items():
        path, index = place_of(name, cfg)
        if index is None:
            filled[path] = np.asarray(array, np.float32)
        else:
            filled[path][index] = array
    return unflatten_dict({path: jnp.asarray(filled[path]) for path in shapes}, sep="/")


def unstacked(leaves: Mapping[str, np.ndarray], cfg: ModelConfig, name: str) -> np.ndarray:
    """The parameter of a flat name; `leaves` is the flattened tree, on the host. Raises KeyError where it has none."""
    path, index = place_of(name, cfg)
    return leaves[path] if index is None else leaves[path][index]


def flattened(params: Any) -> dict[str, Any]:
    """The leaves of the tree by their paths, "encoder/blocks/..."."""
    return flatten_dict(params, sep="/")
