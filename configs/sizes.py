"""Sizes by name. Dimensions of the published models: DeBERTaV3 paper, table 1, and the released config files."""

SIZES = {
    # name: layers, hidden, heads, intermediate
    "tiny": (3, 128, 2, 512),  # of our own: the quickstart
    "mini": (4, 256, 4, 1024),  # of our own: 7.7M parameters with 16k pieces; learns Wikipedia on a laptop
    "v3_xsmall": (12, 384, 6, 1536),
    "v3_small": (6, 768, 12, 3072),
    "v3_base": (12, 768, 12, 3072),
    "v3_large": (24, 1024, 16, 4096),
}


def dimensions(size: str) -> dict[str, int]:
    """num_layers, hidden_size, num_heads and intermediate_size of a named size."""
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; sizes are {', '.join(SIZES)}")
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size")
    return dict(zip(names, SIZES[size], strict=True))
