"""load_pretrained: a directory of Hugging Face or Microsoft as a model and its parameters.

What is read is exactly what is computed with: every tensor finds its parameter, or is named.
"""

import dataclasses
import fnmatch
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deberta_jax.config import HeadConfig, ModelConfig, require, require_choice
from deberta_jax.convert import hf_config, names, trees
from deberta_jax.convert.report import Report, check_allowed
from deberta_jax.convert.source import Source, open_source
from deberta_jax.dist.axes import unboxed
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import MODELS, WITH_LABELS, build_model, outputs_of
from deberta_jax.tokenizers import find_tokenizer

FIELD = "config."  # what a permission for a field of config.json begins with
FLOATS = ("float16", "bfloat16", "float32")
log = logging.getLogger(__name__)


def load_pretrained(path: str | Path, head: str = "encoder", **options: Any) -> tuple[nn.Module, Any]:
    """(model, params) of a directory of Hugging Face or Microsoft; logs what it found.

    Options and errors are those of `load_with_report`. model.apply({"params": params}, input_ids, attention_mask,
    deterministic=True) gives the encoder's states [b, l, e], or the head's logits.
    """
    model, params, report = load_with_report(path, head, **options)
    log.warning("%s", report)
    return model, params


def load_with_report(
    path: str | Path,
    head: str = "encoder",
    *,
    allow: str | Sequence[str] = (),
    decoder: str = "auto",
    labels: Sequence[str] | None = None,
    vocab_size: int | None = None,
    clamp_distance: bool = True,
    dtype: str = "float32",
    seed: int = 0,
) -> tuple[nn.Module, Any, Report]:
    """(model, float32 params, report) of a directory: config.json with safetensors or pytorch_model.bin.

    head            one of MODELS
    allow           patterns (fnmatch) of tensors that may be missing, and are then initialised from `seed`, or unused,
                    or of another shape (both: a new classifier); "config.NAME" for an unknown field of config.json
    decoder         "emd" needs the absolute position table; "none" is transformers' behaviour; "auto" is "emd" where
                    the table is there and the input is not biased by it
    labels          names of a new head's labels, in place of those in config.json
    vocab_size      rows that the word table must have at least, for added tokens
    clamp_distance  False for transformers' rows beyond a distance of 511, see ops/buckets.py
    dtype           of activations

    Raises Refused, in one line, for whatever does not fit: a missing or unused tensor that is not allowed, a shape, an
    unknown field, a tokenizer with more ids than the table has rows.
    """
    of_tensors, of_fields = _permissions(allow)
    _check_arguments(head, labels, vocab_size)
    source, weights = open_source(Path(path).expanduser())
    decoder, reason = _choose_decoder(source, decoder)
    options = {"decoder": decoder, "clamp_distance": clamp_distance, "dtype": dtype, "ignored": of_fields}
    cfg, head_cfg = _configs(source, head, labels, **options)
    table = names.tensors(cfg, head, outputs_of(head_cfg), source.names)
    missing, unused = _differences(source, table, of_tensors, decoder)
    read = [tensor for tensor in table if tensor.theirs not in missing]
    _check_tensors(source, read, weights)
    flat = _parameters(read, weights, cfg)
    cfg, grown = _grow(flat, cfg, vocab_size, seed)
    _check_tokenizer(source.path, cfg)
    model = build_model(head, cfg, head_cfg, origin=str(source.path.absolute()))
    new = [name for tensor in table if tensor.theirs in missing for name in tensor.ours]
    params = _filled(model, flat, new, seed)
    dtypes = tuple(sorted({source.dtypes[tensor.theirs] for tensor in read}))
    report = Report(str(path), head, len(read), dtypes, f"{decoder}: {reason}", missing, unused, (*new, *grown))
    return model, params, report


def _permissions(allow: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """(patterns of tensor names, names of fields of config.json)."""
    patterns = (allow,) if isinstance(allow, str) else tuple(allow or ())
    require(all(isinstance(pattern, str) for pattern in patterns), f"allow must be names or patterns, got {allow!r}")
    of_fields = [pattern for pattern in patterns if pattern.startswith(FIELD)]
    of_tensors = [pattern for pattern in patterns if pattern not in of_fields]
    return of_tensors, [pattern.removeprefix(FIELD) for pattern in of_fields]


def _check_arguments(head: str, labels: Sequence[str] | None, vocab_size: int | None) -> None:
    require_choice("head", head, tuple(MODELS))
    require(labels is None or head in WITH_LABELS, f"head {head!r} has no labels; those with some: {WITH_LABELS}")
    right = labels is None or (isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels))
    require(right, f"labels must be a list of names, got {labels!r}")
    require(vocab_size is None or type(vocab_size) is int, f"vocab_size must be a whole number, got {vocab_size!r}")


def _choose_decoder(source: Source, asked: str) -> tuple[str, str]:
    """(decoder, why)."""
    require_choice("decoder", asked, ("auto", "emd", "none"))
    biased = source.fields.get("position_biased_input", True)  # transformers' default
    if biased:
        require(asked != "emd", f"{source.path}: position_biased_input is on, decoder 'emd' has no use for the table")
        return "none", "absolute positions are added to the input"
    if asked == "none":
        return "none", "asked for; this is how transformers computes"
    if asked == "emd":
        return "emd", "asked for"
    if not source.has_positions:
        return "none", "there is no absolute position table"
    if source.fields.get("num_hidden_layers") == 1:
        return "none", "the decoder needs two layers"
    return "emd", "the absolute position table is there"


def _differences(
    source: Source, table: Sequence[names.Tensor], allow: Sequence[str], decoder: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(missing, unused) tensors, all of them allowed. One of another shape is both, where that is allowed."""
    replaced = [
        tensor.theirs
        for tensor in table
        if source.shapes.get(tensor.theirs, tensor.shape) != tensor.shape and _matches(tensor.theirs, allow)
    ]
    missing = tuple(t.theirs for t in table if t.theirs not in source.shapes or t.theirs in replaced)
    unused = (*_unused(source, table), *replaced)
    if decoder == "none":  # chosen or asked for: the table was not forgotten
        position = source.names.prefix + names.POSITION
        allow = [*allow, position] if position in unused else allow
    check_allowed(str(source.path), missing, unused, allow)
    return missing, unused


def _matches(name: str, allow: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in allow)


def _configs(
    source: Source, head: str, labels: Sequence[str] | None, **options: Any
) -> tuple[ModelConfig, HeadConfig | None]:
    """What config.json says about the model and its head."""
    try:
        cfg = hf_config.model_config(source.fields, split_projections=not source.names.fused, **options)
        layers, tensors = cfg.num_layers, len(source.shapes)
        require(layers <= tensors, f"{layers} layers in config.json, {tensors} tensors in the file")
        return cfg, hf_config.head_config(source.fields, head, labels) if head in WITH_LABELS else None
    except Refused as error:
        raise Refused(f"{source.path}: {error}") from error


def _unused(source: Source, table: Sequence[names.Tensor]) -> tuple[str, ...]:
    """Tensors that nothing reads, but copies of others and transformers' old list of positions 0, 1, 2, ..."""
    used = {tensor.theirs for tensor in table}
    of_read = {copy for copy, of in source.copies.items() if of in used}
    return tuple(
        name for name in source.dtypes if name not in used | of_read and not name.endswith("embeddings.position_ids")
    )


def _check_tensors(source: Source, table: Sequence[names.Tensor], weights: Mapping[str, np.ndarray]) -> None:
    for tensor in table:
        name = tensor.theirs
        if source.shapes[name] != tensor.shape:
            raise Refused(f"{source.path}: {name} has shape {source.shapes[name]}, the model asks for {tensor.shape}")
        if source.dtypes[name] not in FLOATS:
            raise Refused(f"{source.path}: {name} is {source.dtypes[name]}; weights are {', '.join(FLOATS)}")
    for copy, of in source.copies.items():
        if not np.array_equal(weights[copy], weights[of]):
            raise Refused(f"{source.path}: {copy} differs from {of}; only tied weights are supported")


def _parameters(
    table: Sequence[names.Tensor], weights: Mapping[str, np.ndarray], cfg: ModelConfig
) -> dict[str, np.ndarray]:
    """Flat name to float32 values."""
    flat: dict[str, np.ndarray] = {}
    for tensor in table:
        values = weights[tensor.theirs].astype(np.float32)  # exact from float16 and bfloat16
        flat |= zip(tensor.ours, tensor.turn.to_ours(values, cfg), strict=True)
    return flat


def _grow(
    flat: dict[str, np.ndarray], cfg: ModelConfig, vocab_size: int | None, seed: int
) -> tuple[ModelConfig, tuple[str, ...]]:
    """(config with at least so many rows, names of the new ones); `flat` gets them: normal for words, zero for biases.

    Released tables have rows to spare: what fits into them adds none.
    """
    old = cfg.vocab_size
    if vocab_size is None or vocab_size <= old:
        return cfg, ()
    cfg = dataclasses.replace(cfg, vocab_size=vocab_size)
    of_vocabulary = [name for name in ("embeddings/word", "encoder/embeddings/word", "head/bias") if name in flat]
    for name in of_vocabulary:
        rows = np.zeros((cfg.vocab_rows, *flat[name].shape[1:]), np.float32)
        rows[:old] = flat[name][:old]
        if name != "head/bias":
            fresh = np.random.default_rng(seed).normal(size=(vocab_size - old, rows.shape[1]))
            rows[old:vocab_size] = cfg.initializer_range * fresh
        flat[name] = rows
    return cfg, tuple(f"{name}[{old}:{vocab_size}]" for name in of_vocabulary)


def _check_tokenizer(directory: Path, cfg: ModelConfig) -> None:
    tokenizer, rows = find_tokenizer(directory), cfg.vocab_size
    if tokenizer is not None and tokenizer.size > rows:
        size = tokenizer.size
        raise Refused(
            f"{directory}: the tokenizer has {size} ids, the word table {rows} rows; vocab_size={size} adds them"
        )


def _filled(model: nn.Module, flat: dict[str, np.ndarray], new: Sequence[str], seed: int) -> Any:
    """The tree of parameters: what was read, and what is `new` as a fresh model has it."""
    shapes = {path: leaf.shape for path, leaf in trees.flattened(parameter_shapes(model)).items()}
    places = {name: trees.place_of(name, model.cfg) for name in new}
    wanted = {path for path, _ in places.values()}

    def fresh() -> dict[str, jax.Array]:  # jitted: what is not wanted is not computed
        leaves = trees.flattened(_init(model, seed))
        return {path: leaves[path] for path in wanted}

    drawn = jax.device_get(jax.jit(fresh)()) if wanted else {}
    for name, (path, index) in places.items():
        flat[name] = drawn[path] if index is None else drawn[path][index]
    return trees.stacked(flat, shapes, model.cfg)


def parameter_shapes(model: nn.Module) -> Any:
    """The tree of a model's parameters as shapes and dtypes, on the first device; makes none."""
    return _shapes(model.clone(origin=""))


@functools.lru_cache(maxsize=16)  # tracing takes longer than reading a small model
def _shapes(model: nn.Module) -> Any:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.eval_shape(lambda: _init(model, 0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), abstract)


def _init(model: nn.Module, seed: int) -> Any:
    shape = (1, 1, 8) if type(model) is MODELS["multiple_choice"] else (1, 8)
    ids = jnp.ones(shape, jnp.int32)
    return unboxed(model.init({"params": jax.random.key(seed)}, ids, ids, deterministic=True)["params"])
