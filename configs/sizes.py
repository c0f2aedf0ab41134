"""Every published model by name, and two small ones of our own.

Dimensions: the released config files (microsoft/DeBERTa, experiments/language_model/*.json; v1 and mDeBERTa: the papers
and the README's table). Generations differ in how positions are scored:

v1   separate projections of a table with one row per distance; keys have no bias
v2   shared projections, 256 log buckets either way, a normalised table, and a convolution after the first layer (nGiE)
v3   v2 without the convolution, trained with replaced token detection
"""

_COMMON = {
    "embedding_size": 0,  # hidden_size
    "type_vocab_size": 0,
    "attention_head_size": 0,  # hidden_size / num_heads: 64 in all of them
    "activation": "gelu",
    "pos_att_type": ("c2p", "p2c"),
    "max_relative_positions": 512,
    "clamp_distance": True,
    "max_position_embeddings": 512,
    "position_biased_input": False,
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "gelu",
    "decoder": "emd",
    "layer_norm_eps": 1e-7,
}
_V1 = _COMMON | {"share_att_key": False, "key_bias": False, "norm_rel_ebd": "none", "position_buckets": 0}
_V3 = _COMMON | {"share_att_key": True, "key_bias": True, "norm_rel_ebd": "layer_norm", "position_buckets": 256}
_V2 = _V3 | {"conv_kernel_size": 3}

_SIZES = {
    # name: generation, layers, hidden, heads, intermediate, vocabulary
    "v1_base": (_V1, 12, 768, 12, 3072, 50_265),
    "v1_large": (_V1, 24, 1024, 16, 4096, 50_265),
    "v1_xlarge": (_V1, 48, 1024, 16, 4096, 50_265),
    "v2_xlarge": (_V2, 24, 1536, 24, 6144, 128_100),  # 900M
    "v2_xxlarge": (_V2, 48, 1536, 24, 6144, 128_100),  # 1.5B
    "v3_xsmall": (_V3, 12, 384, 6, 1536, 128_100),
    "v3_small": (_V3, 6, 768, 12, 3072, 128_100),
    "v3_base": (_V3, 12, 768, 12, 3072, 128_100),
    "v3_large": (_V3, 24, 1024, 16, 4096, 128_100),
    "mdeberta_base": (_V3, 12, 768, 12, 3072, 251_000),
    "tiny": (_V3, 3, 128, 2, 512, 4_097),  # of our own: the quickstart
    "mini": (_V3, 4, 256, 4, 1024, 16_001),  # of our own: 7.7M parameters; learns Wikipedia on a laptop
}
_WITH_GENERATOR = ("v3_xsmall", "v3_small", "v3_base", "v3_large", "mdeberta_base")
_GENERATOR = "_generator"

SIZES = (*_SIZES, *(name + _GENERATOR for name in _WITH_GENERATOR))


def architecture(size: str) -> dict:
    """The model keys of a named size, all but the vocabulary, the dropout rates and how it is computed.

    "v3_base_generator" is the generator that v3_base was trained with: the same width, half the layers.
    """
    generation, layers, hidden, heads, intermediate, _ = _row(size)
    layers = layers // 2 if size.endswith(_GENERATOR) else layers
    return generation | {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_heads": heads,
        "intermediate_size": intermediate,
    }


def vocabulary(size: str) -> int:
    """Rows of the published word table; pretraining takes the size from its own tokenizer."""
    return _row(size)[-1]


def _row(size: str) -> tuple:
    if size not in SIZES:
        raise ValueError(f"no size {size!r}; sizes are {', '.join(SIZES)}")
    return _SIZES[size.removesuffix(_GENERATOR)]
