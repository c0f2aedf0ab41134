"""The configuration inside the package: frozen dataclasses, built once from a ConfigDict and then trusted.

Config files (configs/*.py) hold every value; there are no defaults here, so that no value has two homes and no
forgotten key can turn DeBERTa into BERT. Imports nothing of ours but the errors.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from deberta_jax.errors import Refused, nearest

POSITION_TERMS = ("c2p", "p2c")
DTYPES = ("float32", "bfloat16")
ACTIVATIONS = ("gelu", "relu", "swish", "tanh")
VOCAB_MULTIPLE = 128  # table rows come in multiples of this: tiles of the matrix units, and divisible by any mesh axis


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture. Names follow the released config.json where it has one."""

    vocab_size: int  # ids that exist, specials included; 0 = from the prepared data
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    pos_att_type: tuple[str, ...]  # of "c2p", "p2c"; () = plain attention
    position_buckets: int  # rows on either side of zero distance; 256 in v2/v3
    max_relative_positions: int  # distances beyond share the last bucket; 512
    max_position_embeddings: int  # rows of the absolute table
    position_biased_input: bool  # add absolute positions to the input, as BERT does
    decoder: str  # "emd" = enhanced mask decoder, "none" = head on the last layer
    hidden_dropout: float
    attention_dropout: float
    layer_norm_eps: float
    initializer_range: float
    dtype: str  # of activations; parameters are always float32
    remat: str  # what the backward pass recomputes: none, dots, full

    def __post_init__(self):
        positive = ("hidden_size", "num_heads", "intermediate_size", "max_position_embeddings")
        for name in positive:
            require(getattr(self, name) > 0, f"model.{name} must be positive, got {getattr(self, name)}")
        require(self.vocab_size >= 0, f"model.vocab_size must be 0 (from the data) or positive, got {self.vocab_size}")
        require(
            self.hidden_size % self.num_heads == 0,
            f"model.hidden_size {self.hidden_size} is not divisible by model.num_heads {self.num_heads}",
        )
        require(self.num_layers >= 2, f"model.num_layers must be at least 2, got {self.num_layers}")
        for term in self.pos_att_type:
            require_choice("model.pos_att_type", term, POSITION_TERMS)
        require(len(set(self.pos_att_type)) == len(self.pos_att_type), "model.pos_att_type names a term twice")
        require_choice("model.decoder", self.decoder, ("emd", "none"))
        require_choice("model.dtype", self.dtype, DTYPES)
        require_choice("model.remat", self.remat, ("none", "dots", "full"))
        require_choice("model.activation", self.activation, ACTIVATIONS)
        for name in ("hidden_dropout", "attention_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        self._check_positions()

    def _check_positions(self):
        require(
            bool(self.pos_att_type) or self.position_biased_input or self.decoder == "emd",
            "model: pos_att_type is empty and position_biased_input is off: nothing would know where a token stands",
        )
        require(
            not (self.decoder == "emd" and self.position_biased_input),
            "model.decoder 'emd' adds absolute positions at the end, position_biased_input at the start: choose one",
        )
        require(
            2 <= self.position_buckets <= self.max_relative_positions,
            f"model.position_buckets must lie in [2, max_relative_positions], got {self.position_buckets}",
        )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def vocab_rows(self) -> int:
        """Rows of the word table: vocab_size rounded up; rows beyond vocab_size are never produced."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def has_absolute_positions(self) -> bool:
        return self.position_biased_input or self.decoder == "emd"


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """Masked-language-model corruption (paper of BERT; spans as in the released DeBERTa code)."""

    rate: float  # share of a row's tokens to predict
    mask_share: float  # of those, replaced by [MASK]
    random_share: float  # of those, replaced by a random ordinary token; the rest is kept
    unit: str  # "token" or "word"
    max_ngram: int  # units in a row, drawn with probability 1/n

    def __post_init__(self):
        require(0 < self.rate < 1, f"data.mask.rate must lie in (0, 1), got {self.rate}")
        require(
            self.mask_share >= 0 and self.random_share >= 0 and self.mask_share + self.random_share <= 1,
            f"data.mask: mask_share {self.mask_share} + random_share {self.random_share} must lie in [0, 1]",
        )
        require_choice("data.mask.unit", self.unit, ("token", "word"))
        require(self.max_ngram >= 1, f"data.mask.max_ngram must be at least 1, got {self.max_ngram}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the prepared rows lie and how they become batches."""

    paths: tuple[str, ...]  # prepared directories (each with a manifest.json)
    weights: tuple[float, ...]  # share of each path; () = its number of rows ** sampling_exponent
    sampling_exponent: float  # 1 = proportional to size; 0.7 or 0.3 lifts small languages
    isolate_documents: bool  # attention and absolute positions per document, not per row
    mask: MaskConfig
    read_threads: int  # threads that read and mask rows

    def __post_init__(self):
        require(
            not self.weights or len(self.weights) == len(self.paths),
            f"data.weights has {len(self.weights)} entries for {len(self.paths)} data.paths",
        )
        require(all(w > 0 for w in self.weights), f"data.weights must be positive, got {self.weights}")
        require(self.read_threads >= 1, f"data.read_threads must be at least 1, got {self.read_threads}")
        require(0 <= self.sampling_exponent <= 1, "data.sampling_exponent must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with decoupled decay and a warmed-up schedule."""

    learning_rate: float  # peak
    warmup_steps: int
    schedule: str  # after warm-up: linear, cosine, constant
    end_fraction: float  # of the peak, at the last step
    b1: float
    b2: float
    eps: float
    weight_decay: float
    no_decay: tuple[str, ...]  # regular expressions on parameter paths that are not decayed
    clip_norm: float  # global gradient norm; inf = never

    def __post_init__(self):
        require_choice("optimizer.schedule", self.schedule, ("linear", "cosine", "constant"))
        require(self.learning_rate > 0, f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        require(self.warmup_steps >= 0, f"optimizer.warmup_steps must not be negative, got {self.warmup_steps}")
        require(0 <= self.end_fraction <= 1, f"optimizer.end_fraction must lie in [0, 1], got {self.end_fraction}")
        require(0 <= self.b1 < 1 and 0 <= self.b2 < 1, "optimizer.b1 and optimizer.b2 must lie in [0, 1)")
        require(self.eps > 0, f"optimizer.eps must be positive, got {self.eps}")
        require(self.weight_decay >= 0, f"optimizer.weight_decay must not be negative, got {self.weight_decay}")
        require(self.clip_norm > 0, f"optimizer.clip_norm must be positive (inf = never), got {self.clip_norm}")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation while training."""

    every: int  # steps; 0 = only at the end
    paths: tuple[str, ...]  # prepared directories, all their rows; () = the held-out rows of data.paths
    batch_size: int  # rows over all hosts
    max_rows: int  # 0 = all
    seed: int  # masks are a function of this and the row
    samples: int  # masked positions shown with their best predictions

    def __post_init__(self):
        require(self.batch_size > 0, f"eval.batch_size must be positive, got {self.batch_size}")
        for name in ("every", "max_rows", "samples"):
            require(getattr(self, name) >= 0, f"eval.{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved and which saves are kept."""

    every_steps: int  # 0 = not by steps
    every_minutes: float  # 0 = not by time
    keep_last: int
    keep_every: int  # steps divisible by this are kept for good; 0 = none

    def __post_init__(self):
        require(self.keep_last >= 2, "checkpoint.keep_last must be at least 2: one being written, one known good")
        for name in ("every_steps", "every_minutes", "keep_every"):
            require(getattr(self, name) >= 0, f"checkpoint.{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run."""

    seed: int
    objective: str
    steps: int
    batch_size: int  # rows over all hosts and micro-batches
    micro_batches: int  # gradient accumulation
    log_every: int
    max_bad_steps: int  # non-finite steps that are skipped before the run ends with exit code 4
    init_from: str  # workdir whose parameters start this run; "" = fresh
    profile_steps: tuple[int, ...]  # (first, end): trace these steps; () = none
    mesh: tuple[tuple[str, int], ...]  # (axis, size), slowest first; one size may be -1
    rules: tuple[tuple[str, Any], ...]  # (logical axis, mesh axis, tuple of them, or None)
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig

    def __post_init__(self):
        require_choice("objective", self.objective, ("mlm",))
        for name in ("steps", "batch_size", "micro_batches", "log_every"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        require(self.seed >= 0, f"seed must not be negative, got {self.seed}")
        require(self.max_bad_steps >= 0, f"max_bad_steps must not be negative, got {self.max_bad_steps}")
        require(
            self.batch_size % self.micro_batches == 0,
            f"batch_size {self.batch_size} is not a multiple of micro_batches {self.micro_batches}",
        )
        window = self.profile_steps
        require(
            not window or (len(window) == 2 and 0 <= window[0] < window[1]),
            f"profile_steps must be () or (first, end), got {window}",
        )
        require(
            self.optimizer.warmup_steps <= self.steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} exceeds steps {self.steps}",
        )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    require(
        value in choices, f"{name} must be one of {', '.join(choices)}; got {value!r}{nearest(str(value), choices)}"
    )


def build(values: Mapping[str, Any]) -> Config:
    """The frozen, validated Config of a ConfigDict or of a run's config.json.

    Raises Refused, naming the key, for an unknown, missing or mistyped value.
    """
    return _dataclass(Config, values, "")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain, JSON-ready values of a Config: `build(to_dict(c)) == c`."""
    return dataclasses.asdict(config)


def _dataclass(kind: type, values: Any, path: str) -> Any:
    require(
        isinstance(values, Mapping) or hasattr(values, "items"),
        f"{path.rstrip('.') or 'config'} must be a group of keys",
    )
    values = dict(values.items())
    hints = typing.get_type_hints(kind)
    for key in values:
        require(key in hints, f"config has no key {path + key!r}{nearest(key, hints)}")
    for key in hints:
        require(key in values, f"config lacks the key {path + key!r}")
    return kind(**{key: _value(hint, values[key], path + key) for key, hint in hints.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`; 100000.0 is an int where it is whole, 1 is a float."""
    if hint is Any:
        return _frozen(value)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, path + ".")
    if typing.get_origin(hint) is tuple:
        require(isinstance(value, (tuple, list)), f"{path} expects a tuple, got {value!r}")
        return _tuple(typing.get_args(hint), value, path)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(right, f"{path} expects {_name(hint)}, got {value!r}")
    return value


def _tuple(hints: tuple, value: Any, path: str) -> tuple:
    if len(hints) == 2 and hints[1] is ...:
        hints = (hints[0],) * len(value)
    require(len(hints) == len(value), f"{path} expects {len(hints)} entries, got {value!r}")
    return tuple(_value(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _name(hint: Any) -> str:
    return str(hint) if isinstance(hint, types.UnionType) else hint.__name__
