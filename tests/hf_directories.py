"""Directories as other people publish them, made by hand: config.json and model.safetensors of tiny models.

The tensors' names, shapes and order of axes are written down here a second time, from the released code and from what
transformers saves, so that a slip in deberta_jax/convert/names.py meets something it cannot agree with.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from deberta_jax.convert.weights import write_weights

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
LABELS = {"0": "no", "1": "maybe", "2": "yes"}
VOCABULARY = 70  # not a multiple of 128: our table has 58 rows that are no token
HEADS = (
    *("encoder", "mlm", "rtd", "sequence_classification", "token_classification"),
    *("question_answering", "multiple_choice"),
)

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 32,
    "type_vocab_size": 0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pos_att_type": "c2p|p2c",
    "padding_idx": 0,
}
_LOG_BUCKETS = {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_V2 = {"model_type": "deberta-v2", **_LOG_BUCKETS, "attention_head_size": 8}
GENERATIONS = {
    "v1": {**_COMMON, "model_type": "deberta", "max_relative_positions": 8},
    # v1 as Microsoft's later code writes it: query, key and value apart, keys with a bias.
    "v1 split": {**_COMMON, "model_type": "deberta", "max_relative_positions": 8},
    "v2": {**_COMMON, **_V2, "conv_kernel_size": 3, "conv_act": "gelu"},
    "v3": {**_COMMON, **_V2, "pos_att_type": ["p2c", "c2p"]},
}


def fields_of(generation: str, head: str = "encoder", **changes: Any) -> dict[str, Any]:
    """config.json of a tiny model; `changes` replace fields, None removes one."""
    fields = dict(GENERATIONS[generation])
    if head in ("sequence_classification", "token_classification"):
        fields |= {"id2label": LABELS, "label2id": {name: int(number) for number, name in LABELS.items()}}
        fields |= {"pooler_hidden_act": "tanh", "pooler_dropout": 0.25, "cls_dropout": 0.15}
        fields |= {"problem_type": "single_label_classification"}
    if head == "mlm":
        fields["legacy"] = False
    return {name: value for name, value in (fields | changes).items() if value is not None}


def shapes_of(
    fields: Mapping[str, Any],
    head: str = "encoder",
    *,
    fused: bool = False,
    prefix: str = "deberta.",
    legacy: bool = False,
    positions: bool = True,
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the file of such a model; `positions`: Microsoft keeps the table, always."""
    of_encoder = {prefix + name: shape for name, shape in _encoder(fields, fused, positions)}
    return of_encoder | dict(_head(fields, head, legacy))


def tensors_of(
    fields: Mapping[str, Any], head: str = "encoder", *, dtype: str = "float32", seed: int = 0, **layout: Any
) -> dict[str, np.ndarray]:
    """Random values for `shapes_of(fields, head, **layout)`, norms around one, everything else around zero."""
    rng = np.random.default_rng(seed)
    return {
        name: (name.endswith("LayerNorm.weight") + 0.3 * rng.normal(size=shape)).astype(DTYPES[dtype])
        for name, shape in shapes_of(fields, head, **layout).items()
    }


def with_ties(tensors: Mapping[str, np.ndarray], prefix: str = "deberta.") -> dict[str, np.ndarray]:
    """A legacy masked-LM file that holds the tied word table and bias a second time."""
    return {
        **tensors,
        "cls.predictions.decoder.weight": tensors[prefix + "embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }


def write_directory(path: Path, fields: Any, tensors: Mapping[str, np.ndarray], name: str = "config.json") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(fields if isinstance(fields, str) else json.dumps(fields))
    write_weights(path / "model.safetensors", tensors)
    return path


def is_fused(generation: str) -> bool:
    return generation == "v1"


def make_directory(
    path: Path,
    generation: str = "v3",
    head: str = "encoder",
    *,
    dtype: str = "float32",
    prefix: str = "deberta.",
    legacy: bool = False,
    ties: bool = False,
    positions: bool = True,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A whole directory; `changes` are fields of config.json."""
    fields = fields_of(generation, head, **({"legacy": True} if legacy else {}) | changes)
    layout = {"fused": is_fused(generation), "prefix": prefix, "legacy": legacy, "positions": positions}
    tensors = tensors_of(fields, head, dtype=dtype, seed=seed, **layout)
    return write_directory(path, fields, with_ties(tensors, prefix) if ties else tensors)


def _encoder(fields: Mapping[str, Any], fused: bool, positions: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = fields["hidden_size"]
    width = fields.get("embedding_size", hidden)
    yield "embeddings.word_embeddings.weight", (fields["vocab_size"], width)
    if positions:
        yield "embeddings.position_embeddings.weight", (fields["max_position_embeddings"], width)
    if fields["type_vocab_size"]:
        yield "embeddings.token_type_embeddings.weight", (fields["type_vocab_size"], width)
    if width != hidden:
        yield "embeddings.embed_proj.weight", (hidden, width)
    yield from _norm("embeddings.LayerNorm", hidden)
    if fields["relative_attention"]:
        yield "encoder.rel_embeddings.weight", (2 * span_of(fields), hidden)
    if fields.get("norm_rel_ebd") == "layer_norm":
        yield from _norm("encoder.LayerNorm", hidden)
    if fields.get("conv_kernel_size"):
        yield "encoder.conv.conv.weight", (hidden, hidden // fields.get("conv_groups", 1), fields["conv_kernel_size"])
        yield "encoder.conv.conv.bias", (hidden,)
        yield from _norm("encoder.conv.LayerNorm", hidden)
    for layer in range(fields["num_hidden_layers"]):
        for name, shape in _layer(fields, fused):
            yield f"encoder.layer.{layer}.{name}", shape


def span_of(fields: Mapping[str, Any]) -> int:
    """Half the rows of the relative table."""
    limit = fields["max_relative_positions"]
    linear = limit if limit > 0 else fields["max_position_embeddings"]
    return max(fields.get("position_buckets", -1), 0) or linear


def _layer(fields: Mapping[str, Any], fused: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = fields["hidden_size"], fields["intermediate_size"]
    terms = fields["pos_att_type"] if fields["relative_attention"] else ""
    if fused:
        yield "attention.self.in_proj.weight", (3 * hidden, hidden)
        yield "attention.self.q_bias", (hidden,)
        yield "attention.self.v_bias", (hidden,)
        if "c2p" in terms:
            yield "attention.self.pos_proj.weight", (hidden, hidden)
        if "p2c" in terms:
            yield from _linear("attention.self.pos_q_proj", hidden, hidden)
    else:
        apart = not fields.get("share_att_key", False)
        names = ["query_proj", "key_proj", "value_proj"]
        names += ["pos_key_proj"] if apart and "c2p" in terms else []
        names += ["pos_query_proj"] if apart and "p2c" in terms else []
        for name in names:
            yield from _linear(f"attention.self.{name}", hidden, hidden)
    yield from _linear("attention.output.dense", hidden, hidden)
    yield from _norm("attention.output.LayerNorm", hidden)
    yield from _linear("intermediate.dense", hidden, inner)
    yield from _linear("output.dense", inner, hidden)
    yield from _norm("output.LayerNorm", hidden)


def _head(fields: Mapping[str, Any], head: str, legacy: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, labels = fields["hidden_size"], len(fields.get("id2label", LABELS))
    width = fields.get("embedding_size", hidden)
    if head == "mlm":
        inside = "cls.predictions.transform." if legacy else "lm_predictions.lm_head."
        yield from _linear(inside + "dense", hidden, width)
        yield from _norm(inside + "LayerNorm", width)
        yield ("cls.predictions." if legacy else "lm_predictions.lm_head.") + "bias", (fields["vocab_size"],)
    elif head == "rtd":
        yield from _linear("mask_predictions.dense", hidden, hidden)
        yield from _norm("mask_predictions.LayerNorm", hidden)
        yield from _linear("mask_predictions.classifier", hidden, 1)
    elif head in ("sequence_classification", "multiple_choice"):
        yield from _linear("pooler.dense", hidden, hidden)
        yield from _linear("classifier", hidden, labels if head == "sequence_classification" else 1)
    elif head == "token_classification":
        yield from _linear("classifier", hidden, labels)
    elif head == "question_answering":
        yield from _linear("qa_outputs", hidden, 2)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (outputs, inputs)
    yield name + ".bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (width,)
    yield name + ".bias", (width,)


class Reader:
    """The tensors of a file as the arrays that slow_deberta.py computes with: float64, inputs before outputs."""

    def __init__(self, tensors: Mapping[str, np.ndarray], heads: int, prefix: str):
        self.tensors, self.heads, self.prefix = tensors, heads, prefix

    def tensor(self, name: str) -> np.ndarray:
        return np.asarray(self.tensors[name], np.float64)

    def linear(self, name: str) -> dict[str, np.ndarray]:
        return {"kernel": self.tensor(name + ".weight").T, "bias": self.tensor(name + ".bias")}

    def norm(self, name: str) -> dict[str, np.ndarray]:
        return {"scale": self.tensor(name + ".weight"), "bias": self.tensor(name + ".bias")}

    def to_heads(self, weight: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
        """A head's outputs are neighbours among the rows of `weight`."""
        by_head = np.split(weight, self.heads)  # [d, e] each
        kernel = {"kernel": np.stack([rows.T for rows in by_head], axis=1)}
        return kernel if bias is None else kernel | {"bias": np.stack(np.split(bias, self.heads))}

    def projection(self, name: str) -> dict[str, np.ndarray]:
        bias = self.tensor(name + ".bias") if name + ".bias" in self.tensors else None
        return self.to_heads(self.tensor(name + ".weight"), bias)

    def fused(self, name: str) -> dict[str, dict[str, np.ndarray]]:
        """v1: for each head its query rows, then its key rows, then its value rows; keys have no bias."""
        of_heads = np.split(self.tensor(name + "in_proj.weight"), self.heads)
        query, key, value = (np.concatenate([np.split(rows, 3)[part] for rows in of_heads]) for part in range(3))
        return {
            "query": self.to_heads(query, self.tensor(name + "q_bias")),
            "key": self.to_heads(key, None),
            "value": self.to_heads(value, self.tensor(name + "v_bias")),
        }

    def attention(self, name: str) -> dict[str, Any]:
        inside = name + "self."
        if inside + "in_proj.weight" in self.tensors:
            parts = self.fused(inside)
            ours = {"position_key": "pos_proj", "position_query": "pos_q_proj"}
        else:
            parts = {part: self.projection(f"{inside}{part}_proj") for part in ("query", "key", "value")}
            ours = {"position_key": "pos_key_proj", "position_query": "pos_query_proj"}
        for part, theirs in ours.items():
            if inside + theirs + ".weight" in self.tensors:
                parts[part] = self.projection(inside + theirs)
        merged = np.stack([columns.T for columns in np.split(self.tensor(name + "output.dense.weight"), self.heads, 1)])
        return parts | {"output": {"kernel": merged, "bias": self.tensor(name + "output.dense.bias")}}

    def layer(self, number: int) -> dict[str, Any]:
        name = f"{self.prefix}encoder.layer.{number}."
        return {
            "attention": self.attention(name + "attention."),
            "attention_norm": self.norm(name + "attention.output.LayerNorm"),
            "mlp_in": self.linear(name + "intermediate.dense"),
            "mlp_out": self.linear(name + "output.dense"),
            "mlp_norm": self.norm(name + "output.LayerNorm"),
        }

    def embeddings(self, positions: bool) -> dict[str, Any]:
        inside = self.prefix + "embeddings."
        tables = {"word": "word_embeddings", "token_type": "token_type_embeddings"}
        if positions:
            tables["position"] = "position_embeddings"
        found = {
            ours: self.tensor(f"{inside}{theirs}.weight")
            for ours, theirs in tables.items()
            if f"{inside}{theirs}.weight" in self.tensors
        }
        if inside + "embed_proj.weight" in self.tensors:
            found["projection"] = {"kernel": self.tensor(inside + "embed_proj.weight").T}
        return found | {"norm": self.norm(inside + "LayerNorm")}


def parameters_in(
    tensors: Mapping[str, np.ndarray], fields: Mapping[str, Any], head: str, prefix: str = "deberta.", emd: bool = True
) -> dict[str, Any]:
    """Our tree of parameters with the values of a file, float64, the word table as long as it is there.

    `emd`: whether the position table is used at the end; at the start it is where position_biased_input is on.
    """
    read = Reader(tensors, fields["num_attention_heads"], prefix)
    positions = emd or fields.get("position_biased_input", True)
    encoder: dict[str, Any] = {"embeddings": read.embeddings(positions)}
    if fields["relative_attention"]:
        encoder["relative"] = read.tensor(prefix + "encoder.rel_embeddings.weight")
    if prefix + "encoder.LayerNorm.weight" in tensors:
        encoder["relative_norm"] = read.norm(prefix + "encoder.LayerNorm")
    layers = [read.layer(number) for number in range(fields["num_hidden_layers"])]
    if fields.get("conv_kernel_size"):
        inside = prefix + "encoder.conv."
        kernel = np.moveaxis(read.tensor(inside + "conv.weight"), (0, 1, 2), (2, 1, 0))
        bias, norm = read.tensor(inside + "conv.bias"), read.norm(inside + "LayerNorm")
        encoder["convolution"] = {"kernel": kernel, "bias": bias, "norm": norm}
        encoder["first"] = layers.pop(0)
    encoder["last"] = layers.pop()
    if layers:
        encoder["blocks"] = _stacked(layers)
    return encoder if head == "encoder" else {"encoder": encoder, **_head_parameters(read, head)}


def _stacked(layers: list[Any]) -> Any:
    if isinstance(layers[0], dict):
        return {name: _stacked([layer[name] for layer in layers]) for name in layers[0]}
    return np.stack(layers)


def _head_parameters(read: Reader, head: str) -> dict[str, Any]:
    if head == "mlm":
        legacy = "cls.predictions.bias" in read.tensors
        outside = "cls.predictions." if legacy else "lm_predictions.lm_head."
        inside = outside + "transform." if legacy else outside
        values = {"dense": read.linear(inside + "dense"), "norm": read.norm(inside + "LayerNorm")}
        return {"head": values | {"bias": read.tensor(outside + "bias")}}
    if head == "rtd":
        inside = "mask_predictions."
        values = {name: read.linear(inside + name) for name in ("dense", "classifier")}
        return {"head": values | {"norm": read.norm(inside + "LayerNorm")}}
    if head == "question_answering":
        return {"outputs": read.linear("qa_outputs")}
    pooler = {} if head == "token_classification" else {"pooler": {"dense": read.linear("pooler.dense")}}
    return pooler | {"classifier": read.linear("classifier")}
