"""config.json of Hugging Face (and of the released models): what it says as a ModelConfig and HeadConfig, and back.

Absent fields mean what transformers' DebertaConfig and DebertaV2Config take them for. A field that is neither known to
shape the model nor known to be irrelevant to it is refused: it might change numbers without a word.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from deberta_jax.config import POSITION_TERMS, HeadConfig, ModelConfig, require
from deberta_jax.errors import Refused, nearest

CONFIG_FILES = ("config.json", "model_config.json")  # the second is what Microsoft's training leaves
V1, V2 = "deberta", "deberta-v2"

# Fields that shape the model, with transformers' defaults.
_SHARED = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": -1,
    "position_biased_input": True,
    "pos_att_type": None,
    "embedding_size": 0,
}
_SIZES_V1 = {"vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_SIZES_V2 = {"vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24}
_ONLY_V2 = {
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "position_buckets": -1,
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
    "attention_head_size": 0,
}
_DEFAULTS = {
    V1: _SHARED | _SIZES_V1 | {"intermediate_size": 3072},
    V2: _SHARED | _SIZES_V2 | {"intermediate_size": 6144} | _ONLY_V2,
}
# Fields that shape heads, with transformers' defaults; None means absent, as in its files.
_HEAD: dict[str, Any] = {
    "id2label": {},
    "label2id": {},
    "num_labels": 2,
    "pooler_hidden_act": "gelu",
    "pooler_dropout": 0.0,
    "cls_dropout": 0.1,
    "pooling": {},
}
# Fields that must have one of these values: others would change what is computed.
_FIXED: dict[str, tuple] = {
    "talking_head": (False,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
# Fields that change no number: identification, tokens, what Python returns, generation.
_IRRELEVANT = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "name_or_path"),
    *("_commit_hash", "_attn_implementation", "attn_implementation", "auto_map", "tokenizer_class", "vocab_type"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "unk_token_id", "mask_token_id"),
    *("padding_idx", "decoder_start_token_id", "prefix", "finetuning_task", "task_specific_params", "problem_type"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "torchscript", "use_cache"),
    *("chunk_size_feed_forward", "tf_legacy_loss", "use_bfloat16", "gradient_checkpointing", "use_safetensors"),
    *("legacy", "pooler_hidden_size", "pooler_size", "model_max_length", "language", "license", "_num_labels"),
    *("cross_attention_hidden_size", "classifier_dropout", "output_past", "use_fast", "loss_type", "summary_type"),
    # Whether weights are tied shows in the weights: copies that differ are refused.
    "tie_word_embeddings",
    # transformers 4 wrote what only generation uses into every config.
    *("do_sample", "early_stopping", "max_length", "min_length", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
    *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
}
# Of those, what an export takes over from the directory a model came from.
KEPT = _IRRELEVANT - {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "legacy", "pooler_hidden_size"),
    *(
        "pooler_size",
        "padding_idx",
        "tie_word_embeddings",
        "_num_labels",
        "_attn_implementation",
        "attn_implementation",
        "auto_map",
        "_commit_hash",
    ),
}
_ACTIVATIONS = {"silu": "swish", "gelu_python": "gelu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of a directory's config. Raises Refused when there is none, or no JSON object in it."""
    if not directory.is_dir():
        near = nearest(directory.name, (path.name for path in directory.absolute().parent.glob("*") if path.is_dir()))
        raise Refused(f"{directory} is no directory{near}; models are read from the disk, download them there first")
    for name in CONFIG_FILES:
        path = directory / name
        if path.is_file():
            break
    else:
        raise Refused(f"{directory} holds no {' or '.join(CONFIG_FILES)}")
    try:
        fields = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise Refused(f"{path} is not readable JSON: {error}") from error
    require(isinstance(fields, dict), f"{path} is not a JSON object")
    return fields


def model_config(
    fields: Mapping[str, Any],
    *,
    split_projections: bool,
    decoder: str,
    clamp_distance: bool,
    dtype: str,
    ignored: Collection[str] = (),
) -> ModelConfig:
    """The architecture that `fields` describe.

    `split_projections`: query, key and value have weights of their own in the file (v2's layout; keys have a bias),
    not one fused in_proj (v1's; they have none). `ignored` fields may be there, whatever they mean.
    """
    given = _given(fields, generation_of(fields, split_projections), ignored)
    return ModelConfig(
        vocab_size=given["vocab_size"],
        hidden_size=given["hidden_size"],
        embedding_size=_zero_if(given["embedding_size"], given["hidden_size"]),
        type_vocab_size=given["type_vocab_size"],
        num_layers=given["num_hidden_layers"],
        num_heads=given["num_attention_heads"],
        attention_head_size=_head_size(given),
        intermediate_size=given["intermediate_size"],
        activation=_activation(given["hidden_act"]),
        pos_att_type=given["pos_att_type"],
        share_att_key=bool(given["share_att_key"]),
        key_bias=split_projections,
        norm_rel_ebd=_table_norm(given["norm_rel_ebd"]),
        position_buckets=max(given["position_buckets"], 0),
        max_relative_positions=given["max_relative_positions"],
        clamp_distance=clamp_distance,
        max_position_embeddings=given["max_position_embeddings"],
        position_biased_input=given["position_biased_input"],
        conv_kernel_size=given["conv_kernel_size"],
        conv_groups=given["conv_groups"],
        conv_act=_activation(given["conv_act"]),
        decoder=decoder,
        hidden_dropout=float(given["hidden_dropout_prob"]),
        attention_dropout=float(given["attention_probs_dropout_prob"]),
        stochastic_depth=0.0,
        layer_norm_eps=given["layer_norm_eps"],
        initializer_range=given["initializer_range"],
        dtype=dtype,
        remat="none",
        scan_layers=True,
        attention="auto",
        dropout_bits="hash",
    )


def _given(fields: Mapping[str, Any], generation: str, ignored: Collection[str]) -> dict[str, Any]:
    """Every field that shapes the model, as it counts: defaults filled in, terms as a tuple."""
    _check_fields(fields, generation, ignored)
    given = _DEFAULTS[generation] | {k: v for k, v in fields.items() if k in _DEFAULTS[generation]}
    given = _DEFAULTS[V2] | given | {"pos_att_type": _position_terms(given, generation)}
    if given["conv_kernel_size"] <= 0:  # without a convolution its other keys are as in configs/sizes.py
        given |= {"conv_kernel_size": 0, "conv_groups": 1, "conv_act": "gelu"}
    if given["max_relative_positions"] < 1:
        given["max_relative_positions"] = given["max_position_embeddings"]
    return given


def head_config(fields: Mapping[str, Any], head: str, labels: tuple[str, ...] | None) -> HeadConfig:
    """Labels, pooler and dropout of a task head; `labels` replace those of the file."""
    given = _given_for_head(fields)
    dropout = fields.get("hidden_dropout_prob", _SHARED["hidden_dropout_prob"])
    if head != "token_classification":
        dropout = given.get("cls_dropout", dropout)
    return HeadConfig(
        labels=_labels(given) if labels is None else tuple(labels),
        pooler_activation=_activation(given.get("pooler_hidden_act", _HEAD["pooler_hidden_act"])),
        pooler_dropout=float(given.get("pooler_dropout", _HEAD["pooler_dropout"])),
        classifier_dropout=float(dropout),
    )


def _given_for_head(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The head's fields that are there; the released code keeps those of the pooler in a group of their own."""
    given = {name: value for name, value in fields.items() if name in _HEAD and value is not None}
    for name, value in given.items():
        _check_type(name, value, _HEAD[name])
    pooler = {f"pooler_{name}": value for name, value in given.pop("pooling", {}).items()}
    for name in pooler.keys() & _HEAD.keys():
        _check_type(f"pooling, {name}", pooler[name], _HEAD[name])
    return pooler | given


def fields_of(cfg: ModelConfig) -> dict[str, Any]:
    """config.json fields under which transformers computes what `cfg` does.

    Raises Refused, naming the key, where transformers has no such model.
    """
    generation = _exported_generation(cfg)
    fields = {
        "model_type": generation,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.intermediate_size,
        "hidden_act": cfg.activation,
        "hidden_dropout_prob": cfg.hidden_dropout,
        "attention_probs_dropout_prob": cfg.attention_dropout,
        "max_position_embeddings": cfg.max_position_embeddings,
        "type_vocab_size": cfg.type_vocab_size,
        "initializer_range": cfg.initializer_range,
        "layer_norm_eps": cfg.layer_norm_eps,
        "relative_attention": bool(cfg.pos_att_type),
        "max_relative_positions": cfg.max_relative_positions,
        "position_biased_input": cfg.position_biased_input,
        "pos_att_type": list(cfg.pos_att_type),
        "pad_token_id": 0,
    }
    if cfg.embedding_width != cfg.hidden_size:
        fields["embedding_size"] = cfg.embedding_width
    return fields | (_fields_of_v2(cfg) if generation == V2 else {})


def head_fields(head: str, head_cfg: HeadConfig | None) -> dict[str, Any]:
    """config.json fields of a task head; none for heads without labels."""
    if head_cfg is None:
        return {}
    named = {str(index): label for index, label in enumerate(head_cfg.labels)}
    fields: dict[str, Any] = {
        "id2label": named,
        "label2id": {label: int(index) for index, label in named.items()},
        "pooler_hidden_act": head_cfg.pooler_activation,
        "pooler_dropout": head_cfg.pooler_dropout,
    }
    return fields if head == "token_classification" else fields | {"cls_dropout": head_cfg.classifier_dropout}


def _fields_of_v2(cfg: ModelConfig) -> dict[str, Any]:
    fields = {
        "share_att_key": cfg.share_att_key,
        "norm_rel_ebd": cfg.norm_rel_ebd,
        "position_buckets": cfg.position_buckets or -1,
    }
    if cfg.conv_kernel_size:
        fields |= {
            "conv_kernel_size": cfg.conv_kernel_size,
            "conv_groups": cfg.conv_groups,
            "conv_act": cfg.conv_act,
        }
    return fields


def generation_of(fields: Mapping[str, Any], split_projections: bool) -> str:
    """The transformers class: by model_type, or by the weights' layout where the file does not say.

    A v1 model that Microsoft's later code has converted (model_type deberta, split projections) is v2 without v2's
    switches.
    """
    named = fields.get("model_type", V2 if split_projections else V1)
    if named not in (V1, V2):
        raise Refused(f"model_type {named!r} is no DeBERTa; {V1} and {V2} are")
    require(
        split_projections or named == V1, "model_type deberta-v2 has separate projections, the weights are fused (v1)"
    )
    return named


def _exported_generation(cfg: ModelConfig) -> str:
    if cfg.num_heads * cfg.head_size != cfg.hidden_size:
        raise Refused(
            f"transformers has no DeBERTa whose heads ({cfg.num_heads} x {cfg.head_size}) do not add up to "
            f"model.hidden_size {cfg.hidden_size}"
        )
    require("p2p" not in cfg.pos_att_type, "model.pos_att_type p2p: transformers computes no such term")
    if cfg.key_bias:
        return V2
    as_v1 = {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": 0, "conv_kernel_size": 0}
    for key, value in as_v1.items():
        if getattr(cfg, key) != value and (cfg.pos_att_type or key == "conv_kernel_size"):
            raise Refused(
                f"model.key_bias False with model.{key} {getattr(cfg, key)!r}: transformers has keys without a bias "
                f"in v1 only, where it is {value!r}"
            )
    return V1


def _check_fields(fields: Mapping[str, Any], generation: str, ignored: Collection[str]) -> None:
    known = set(_HEAD) | set(_FIXED) | _IRRELEVANT | set(_DEFAULTS[generation]) | set(ignored)
    for name, value in fields.items():
        if name in _FIXED and value not in _FIXED[name]:
            raise Refused(f"config.json: {name} {value!r} is not supported, only {_FIXED[name][0]!r}")
        if name in _ONLY_V2 and generation == V1:
            require(
                value in (_ONLY_V2[name], None) or name in ("attention_head_size", "conv_act", "conv_groups"),
                f"config.json: {name} {value!r} means nothing to model_type deberta; is it deberta-v2?",
            )
        elif name not in known:
            remedy = f"if it changes no number: allow=('config.{name}',)"
            raise Refused(f"config.json has the unknown field {name!r}{nearest(name, known)}; {remedy}")
    for name, default in _DEFAULTS[generation].items():
        if name in fields and default is not None:
            _check_type(name, fields[name], default)


def _check_type(name: str, value: Any, default: Any) -> None:
    kind = (int, float) if isinstance(default, float) else type(default)
    right = isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)
    require(right, f"config.json: {name} {value!r} has the wrong type; transformers' is {default!r}")


def _position_terms(given: Mapping[str, Any], generation: str) -> tuple[str, ...]:
    terms = given["pos_att_type"] or ()
    right = isinstance(terms, str) or (isinstance(terms, (list, tuple)) and all(isinstance(t, str) for t in terms))
    require(right, f"config.json: pos_att_type {terms!r} has the wrong type; it is a list of names")
    if isinstance(terms, str):
        terms = [term.strip() for term in terms.lower().split("|")]
    # transformers' v1 divides by the length of this list, whatever is in it; Microsoft's code does not.
    odd = len(set(terms)) < len(terms) or (generation == V1 and {"", "none"} & set(terms))
    require(not odd, f"config.json: pos_att_type {list(terms)} changes the scale in transformers and adds no term")
    terms = tuple(term for term in terms if term not in ("", "none"))
    if not given["relative_attention"]:
        # transformers would only divide the scores by sqrt(3 d) instead of sqrt(d): nobody can have meant that.
        require(not terms, "config.json: pos_att_type names terms, but relative_attention is off")
        return ()
    require(
        "p2p" not in terms,
        "config.json: pos_att_type p2p crashes in the released code and only changes the scale in transformers; "
        "build such a model with deberta_jax.config, not from a config.json",
    )
    for term in terms:
        require(term in POSITION_TERMS, f"config.json: pos_att_type {term!r}{nearest(term, POSITION_TERMS)}")
    return tuple(term for term in POSITION_TERMS if term in terms)


def _head_size(given: Mapping[str, Any]) -> int:
    return _zero_if(given["attention_head_size"], given["hidden_size"] // max(given["num_attention_heads"], 1))


def _zero_if(value: int, usual: int) -> int:
    """0, which stands for the usual value, where `value` is it."""
    return 0 if value in (usual, -1, 0) else value


def _table_norm(value: str) -> str:
    named = [name.strip() for name in value.lower().split("|")]
    return "layer_norm" if "layer_norm" in named else "none"


def _activation(name: str) -> str:
    return _ACTIVATIONS.get(name, name)


def _labels(fields: Mapping[str, Any]) -> tuple[str, ...]:
    named = fields.get("id2label")
    if not named:
        return tuple(f"LABEL_{index}" for index in range(fields.get("num_labels", _HEAD["num_labels"])))
    try:
        by_number = {int(number): str(label) for number, label in named.items()}
    except ValueError as error:
        raise Refused(f"config.json: id2label must map numbers to names, got {named!r}") from error
    complete = sorted(by_number) == list(range(len(named)))
    require(complete, f"config.json: id2label must number the labels 0, 1, 2, ..., got {sorted(by_number)}")
    return tuple(by_number[number] for number in range(len(named)))
