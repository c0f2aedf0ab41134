"""The configuration inside the package: frozen dataclasses, built once from a ConfigDict and then trusted.

Config files (configs/*.py) hold every value; there are no defaults here, so that no value has two homes and no
forgotten key can turn DeBERTa into BERT. Imports nothing of ours but the errors.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from deberta_jax.errors import Refused, nearest, refuse_remote

PRETRAINING = ("mlm", "rtd")  # objectives
KINDS = ("classification", "regression", "multiple_choice", "tagging", "span")  # objectives of fine-tuning
POSITION_TERMS = ("c2p", "p2c", "p2p")
DTYPES = ("float32", "bfloat16")
ATTENTION = ("auto", "reference", "xla", "blockwise", "tpu", "gpu")
ACTIVATIONS = ("gelu", "gelu_new", "relu", "swish", "tanh", "sigmoid", "linear")
FRESH = "fresh"  # in place of a workdir: this model of a pair starts from random parameters
VOCAB_MULTIPLE = 128  # table rows come in multiples of this: tiles of the matrix units, and divisible by any mesh axis


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture. Names follow the released config.json where it has one."""

    vocab_size: int  # ids that exist, specials included; 0 = from the prepared data
    hidden_size: int
    embedding_size: int  # width of the word table, projected to hidden_size where it differs; 0 = hidden_size
    type_vocab_size: int  # rows of the token type table; 0 = none, as in every published model
    num_layers: int
    num_heads: int
    attention_head_size: int  # 0 = hidden_size / num_heads
    intermediate_size: int
    activation: str
    pos_att_type: tuple[str, ...]  # of "c2p", "p2c", "p2p"; () = plain attention
    share_att_key: bool  # relative table through the content projections (v2, v3) or through its own (v1)
    key_bias: bool  # whether key projections, the table's too, have a bias; v1 has none
    norm_rel_ebd: str  # "layer_norm" = LayerNorm on the relative table (v2, v3); "none" (v1)
    position_buckets: int  # rows on either side of zero distance; 256 in v2/v3; 0 = a row per distance (v1)
    max_relative_positions: int  # distances beyond share the last row; 512
    clamp_distance: bool  # clamp distances before bucketing, as Microsoft's code; Hugging Face's does not (see ops)
    max_position_embeddings: int  # rows of the absolute table
    position_biased_input: bool  # add absolute positions to the input, as BERT does
    conv_kernel_size: int  # nGiE convolution after the first layer; 0 = none; 3 in v2
    conv_groups: int
    conv_act: str
    decoder: str  # "emd" = enhanced mask decoder, "none" = head on the last layer
    hidden_dropout: float
    attention_dropout: float
    stochastic_depth: float  # share of rows that skip the last layer's sublayers; grows linearly with depth; 0 = off
    layer_norm_eps: float
    initializer_range: float
    dtype: str  # of activations; parameters are always float32
    remat: str  # what the backward pass recomputes: none, dots, full
    scan_layers: bool  # one compiled layer in a loop; False = each written out: longer to compile, faster on GPUs
    attention: str  # implementation: auto, reference, xla, blockwise, tpu, gpu (ops/attention)
    dropout_bits: str  # "hash" = the same on any devices; "hardware" = the device's generator, by layout

    def __post_init__(self):
        positive = ("hidden_size", "num_heads", "intermediate_size", "max_position_embeddings", "conv_groups")
        for name in positive:
            require(getattr(self, name) > 0, f"model.{name} must be positive, got {getattr(self, name)}")
        for name in ("embedding_size", "type_vocab_size", "attention_head_size", "conv_kernel_size"):
            require(getattr(self, name) >= 0, f"model.{name} must not be negative, got {getattr(self, name)}")
        require(self.vocab_size >= 0, f"model.vocab_size must be 0 (from the data) or positive, got {self.vocab_size}")
        require(
            self.attention_head_size > 0 or self.hidden_size % self.num_heads == 0,
            f"model.hidden_size {self.hidden_size} is not divisible by model.num_heads {self.num_heads}",
        )
        least = 2 if self.decoder == "emd" or self.conv_kernel_size else 1  # both keep one layer for themselves
        require(self.num_layers >= least, f"model.num_layers must be at least {least}, got {self.num_layers}")
        require_choice("model.decoder", self.decoder, ("emd", "none"))
        require_choice("model.dtype", self.dtype, DTYPES)
        require_choice("model.remat", self.remat, ("none", "dots", "full"))
        require_choice("model.attention", self.attention, ATTENTION)
        require_choice("model.dropout_bits", self.dropout_bits, ("hash", "hardware"))
        require_choice("model.activation", self.activation, ACTIVATIONS)
        for name in ("hidden_dropout", "attention_dropout", "stochastic_depth"):
            require(0 <= getattr(self, name) < 1, f"model.{name} must lie in [0, 1), got {getattr(self, name)}")
        require(
            0 < self.layer_norm_eps < 1, f"model.layer_norm_eps must lie between 0 and 1, got {self.layer_norm_eps}"
        )
        require(
            0 <= self.initializer_range < math.inf,
            f"model.initializer_range must be finite and not negative, got {self.initializer_range}",
        )
        self._check_positions()
        self._check_attention()
        self._check_distances()
        self._check_convolution()

    def _check_positions(self):
        for term in self.pos_att_type:
            require_choice("model.pos_att_type", term, POSITION_TERMS)
        require(len(set(self.pos_att_type)) == len(self.pos_att_type), "model.pos_att_type names a term twice")
        require(
            bool(self.pos_att_type) or self.position_biased_input or self.decoder == "emd",
            "model: pos_att_type is empty and position_biased_input is off: nothing would know where a token stands",
        )
        require(
            not (self.decoder == "emd" and self.position_biased_input),
            "model.decoder 'emd' adds absolute positions at the end, position_biased_input at the start: choose one",
        )

    def _check_attention(self):
        require(
            "p2p" not in self.pos_att_type or self.attention in ("auto", "reference", "xla"),
            f"model.attention {self.attention!r} has no p2p; auto, reference and xla have",
        )
        if self.attention == "gpu":
            require(
                self.attention_dropout == 0 and self.dtype == "bfloat16",
                "model.attention 'gpu' (cuDNN) has no attention dropout and works in bfloat16: set "
                "model.attention_dropout=0 and model.dtype=bfloat16, or model.attention=auto",
            )

    def _check_distances(self):
        require_choice("model.norm_rel_ebd", self.norm_rel_ebd, ("none", "layer_norm"))
        limit = self.max_relative_positions
        require(limit >= 1, f"model.max_relative_positions must be positive, got {limit}")
        # With 2 buckets and a limit of 2 the logarithm's base would be 1.
        require(
            self.position_buckets == 0 or (2 <= self.position_buckets <= limit and limit >= 3),
            f"model.position_buckets must be 0 or lie in [2, max_relative_positions], got {self.position_buckets}",
        )

    def _check_convolution(self):
        require_choice("model.conv_act", self.conv_act, ACTIVATIONS)
        require(
            self.conv_kernel_size == 0 or self.conv_kernel_size % 2 == 1,
            f"model.conv_kernel_size must be odd, or 0 for none, got {self.conv_kernel_size}",
        )
        require(
            self.hidden_size % self.conv_groups == 0,
            f"model.hidden_size {self.hidden_size} is not divisible by model.conv_groups {self.conv_groups}",
        )

    @property
    def head_size(self) -> int:
        return self.attention_head_size or self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def relative_rows(self) -> int:
        """Rows of the relative table."""
        return 2 * (self.position_buckets or self.max_relative_positions)

    @property
    def vocab_rows(self) -> int:
        """Rows of the word table: vocab_size rounded up; rows beyond vocab_size are never produced."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def has_absolute_positions(self) -> bool:
        return self.position_biased_input or self.decoder == "emd"


# Keys that came after the first release, with what a config.json without them means: how to compute, not what.
LATER_KEYS = {
    **{"scan_layers": True, "attention": "auto", "dropout_bits": "hash"},
    **{"dcn_mesh": (), "watchdog_minutes": 30.0},
}


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """What a task's head needs beyond the model: its labels, and the context pooler of the classifying ones."""

    labels: tuple[str, ...]  # names in the order of the logits; one = regression
    pooler_activation: str
    pooler_dropout: float
    classifier_dropout: float

    def __post_init__(self):
        require(len(self.labels) > 0, "head.labels must name at least one label")
        require(len(set(self.labels)) == len(self.labels), f"head.labels names a label twice: {self.labels}")
        require_choice("head.pooler_activation", self.pooler_activation, ACTIVATIONS)
        for name in ("pooler_dropout", "classifier_dropout"):
            require(0 <= getattr(self, name) < 1, f"head.{name} must lie in [0, 1), got {getattr(self, name)}")


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
        for path in self.paths:
            refuse_remote("data.paths", path)
        require_distinct("data.paths", self.paths)
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
    end_fraction: float  # of the peak, which the schedule reaches as the last update ends
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
        require_patterns("optimizer.no_decay", self.no_decay)


@dataclasses.dataclass(frozen=True)
class TaskOptimizerConfig(OptimizerConfig):
    """What fine-tuning may do besides."""

    layer_decay: float  # each layer learns at this share of the rate of the one above, the embeddings at the least
    freeze: tuple[str, ...]  # regular expressions on parameter paths that are not trained

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.layer_decay <= 1, f"optimizer.layer_decay must lie in (0, 1], got {self.layer_decay}")
        require_patterns("optimizer.freeze", self.freeze)


@dataclasses.dataclass(frozen=True)
class SiFTConfig:
    """Scale-invariant fine-tuning (DeBERTa paper, section 4); see objectives/sift.py."""

    weight: float  # of the adversarial loss; 0 changes nothing
    learning_rate: float  # length of an ascent step, largest entry of a token
    initial: float  # standard deviation of the random start
    steps: int  # of ascent
    loss: str  # what the ascent climbs: symmetric-kl, kl, mse

    def __post_init__(self):
        require(0 <= self.weight < math.inf, f"sift.weight must be finite and not negative, got {self.weight}")
        for name in ("learning_rate", "initial"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"sift.{name} must be positive and finite, got {value}")
        require(self.steps >= 1, f"sift.steps must be at least 1, got {self.steps}")
        require_choice("sift.loss", self.loss, ("symmetric-kl", "kl", "mse"))


@dataclasses.dataclass(frozen=True)
class RTDConfig:
    """Replaced token detection: the generator, and how it and the discriminator (Config.model) are trained."""

    generator: ModelConfig
    optimizer: OptimizerConfig  # the generator's; Config.optimizer is the discriminator's
    generator_init_from: str  # workdir, "fresh", or "": as init_from, which must then be "" or hold a pair
    scheme: str  # "decoupled": the discriminator's step follows the generator's; "joint": one loss
    embedding_sharing: str  # none, shared, gdes; see objectives/embedding_sharing.py
    loss_weight: float  # of the discriminator's loss; 50 in the paper, 10 in the released script
    temperature: float  # of the generator's distribution that replacements are drawn from

    def __post_init__(self):
        require_choice("rtd.scheme", self.scheme, ("decoupled", "joint"))
        require_choice("rtd.embedding_sharing", self.embedding_sharing, ("none", "shared", "gdes"))
        for name in ("loss_weight", "temperature"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"rtd.{name} must be positive and finite, got {value}")


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
        for path in self.paths:
            refuse_remote("eval.paths", path)
        require_distinct("eval.paths", self.paths)
        require(self.batch_size > 0, f"eval.batch_size must be positive, got {self.batch_size}")
        require_seed("eval.seed", self.seed)
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
class PoolerConfig:
    """The head of a task but for its labels; see HeadConfig."""

    pooler_activation: str
    pooler_dropout: float
    classifier_dropout: float

    def __post_init__(self):
        self.with_labels(("one",))  # checks them

    def with_labels(self, labels: tuple[str, ...]) -> HeadConfig:
        return HeadConfig(labels=labels, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    """Where a file of a user's own has what; "" and () = not there. See tasks/custom.py."""

    id: str  # names the example; without it its number does
    segments: tuple[str, ...]  # of classification, regression, multiple choice: read in this order
    label: str
    options: tuple[str, ...]  # of multiple choice
    words: str  # of tagging
    tags: str
    question: str  # of spans
    context: str
    answers: str
    answer_start: str


@dataclasses.dataclass(frozen=True)
class TaskDataConfig:
    """Which examples, and how they become rows."""

    task: str  # of tasks/registry.py, or "custom"
    dir: str  # the folder of the task's files; a set prepared by TensorFlow Datasets; or "tfds", to have it built
    train: str  # a split of the task, or a file (in dir, or anywhere with its whole path)
    validation: tuple[str, ...]  # chooses the checkpoint; () = the task's own
    max_train: int  # so many training examples, drawn by the seed; 0 = all
    tokenizer: str  # directory; "" = that of init_from
    labels: tuple[str, ...]  # of a custom task, in the order of the logits; () = those of its training file, sorted
    columns: ColumnsConfig | None  # of a custom task
    max_length: int  # tokens of a sequence, [CLS] and [SEP] among them
    buckets: tuple[int, ...]  # lengths that rows are padded to, ascending; each is compiled once. The last: max_length
    stride: int  # of spans: tokens that neighbouring windows of a context share
    max_query: int  # of spans: tokens of the question
    read_threads: int

    def __post_init__(self):
        for name, path in {"dir": self.dir, "train": self.train, "tokenizer": self.tokenizer}.items():
            refuse_remote(f"data.{name}", path)
        for path in self.validation:
            refuse_remote("data.validation", path)
        require(bool(self.dir), "data.dir is empty: name the folder of the task's files")
        require(bool(self.train), "data.train is empty: name a split of the task or a file")
        for name in ("max_train", "stride", "max_query"):
            require(getattr(self, name) >= 0, f"data.{name} must not be negative, got {getattr(self, name)}")
        rising = all(a < b for a, b in zip((0, *self.buckets), self.buckets, strict=False))
        require(
            rising and self.buckets[-1:] == (self.max_length,),
            f"data.buckets must ascend to data.max_length {self.max_length}, got {self.buckets}",
        )
        require(self.read_threads >= 1, f"data.read_threads must be at least 1, got {self.read_threads}")
        custom = self.task == "custom"
        require(custom or not self.labels, f"data.labels are of custom tasks; {self.task!r} has its own")
        said = "names no columns: set data.columns" if custom else "has its own columns: leave data.columns out"
        require(custom == (self.columns is not None), f"data.task {self.task!r} {said}")


@dataclasses.dataclass(frozen=True)
class TaskEvalConfig:
    """Evaluation on the validation examples while training."""

    every: int  # steps; 0 = after every epoch. The end is always evaluated
    batch_size: int  # rows over all hosts; any number
    patience: int  # evaluations without a better score that end the training; 0 = none do
    n_best: int  # of spans: starts and ends of a window that are considered, answers that are written
    max_answer_length: int  # of spans: tokens
    null_threshold: float  # of spans: null odds above it mean no answer; SQuAD 2.0's scores say which is best

    def __post_init__(self):
        for name in ("batch_size", "n_best", "max_answer_length"):
            require(getattr(self, name) > 0, f"eval.{name} must be positive, got {getattr(self, name)}")
        require(math.isfinite(self.null_threshold), f"eval.null_threshold must be finite, got {self.null_threshold}")
        for name in ("every", "patience"):
            require(getattr(self, name) >= 0, f"eval.{name} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What all runs have."""

    seed: int
    objective: str
    steps: int
    batch_size: int  # rows over all hosts and micro-batches
    micro_batches: int  # gradient accumulation
    log_every: int
    max_bad_steps: int  # non-finite steps that are skipped before the run ends with exit code 4
    watchdog_minutes: float  # without the end of a step (start-up too): print all stacks, exit 5; 0 = never
    init_from: str  # workdir whose parameters start this run; "" = fresh; of a pair: see RTDConfig
    profile_steps: tuple[int, ...]  # (first, end): trace these steps; () = none
    mesh: tuple[tuple[str, int], ...]  # (axis, size) within a slice, slowest first; one size may be -1
    dcn_mesh: tuple[tuple[str, int], ...]  # the same axes across TPU slices; () = there is one
    rules: tuple[tuple[str, Any], ...]  # (logical axis, mesh axis, tuple of them, or None)
    model: ModelConfig
    checkpoint: CheckpointConfig
    sift: SiFTConfig | None

    def __post_init__(self):
        for name in ("batch_size", "micro_batches", "log_every"):
            require(getattr(self, name) > 0, f"{name} must be positive, got {getattr(self, name)}")
        refuse_remote("init_from", self.init_from)
        require_seed("seed", self.seed)
        require(
            0 <= self.watchdog_minutes < math.inf, f"watchdog_minutes must not be negative, got {self.watchdog_minutes}"
        )
        require(self.max_bad_steps >= 0, f"max_bad_steps must not be negative, got {self.max_bad_steps}")
        require(
            self.batch_size % self.micro_batches == 0,
            f"batch_size {self.batch_size} is not a multiple of micro_batches {self.micro_batches}",
        )
        self._check_meshes()
        window = self.profile_steps
        require(
            not window or (len(window) == 2 and 0 <= window[0] < window[1]),
            f"profile_steps must be () or (first, end), got {window}",
        )

    def _check_meshes(self):
        names = tuple(name for name, _ in self.mesh)
        require(len(set(names)) == len(names) > 0, f"mesh must name axes, each once, got {names}")
        across = tuple(name for name, _ in self.dcn_mesh)
        require(
            across in ((), names),
            f"dcn_mesh has the axes {across}, mesh {names}: both must name the same ones in one order",
        )
        for key in ("mesh", "dcn_mesh"):
            sizes = [size for _, size in getattr(self, key)]
            require(
                sizes.count(-1) <= 1 and all(size > 0 or size == -1 for size in sizes),
                f"{key} must have positive sizes, at most one of them -1, got {sizes}",
            )

    def check_warmup(self, name: str, optimizer: OptimizerConfig) -> None:
        require(
            optimizer.warmup_steps <= self.steps,
            f"{name}.warmup_steps {optimizer.warmup_steps} exceeds steps {self.steps}",
        )


@dataclasses.dataclass(frozen=True)
class FinetuneConfig(RunConfig):
    """One run that fine-tunes a model for a task. Its objective is the kind of the task."""

    epochs: float  # over the training examples
    data: TaskDataConfig
    head: PoolerConfig
    optimizer: TaskOptimizerConfig
    eval: TaskEvalConfig

    def __post_init__(self):
        super().__post_init__()
        require(0 < self.epochs < math.inf, f"epochs must be positive and finite, got {self.epochs}")
        require(self.steps >= 0, f"steps must be 0 (as epochs say), got {self.steps}")
        require(
            self.model.decoder == "none",
            "model.decoder must be 'none': a task predicts no masked tokens",
        )
        require(
            not self.data.labels or self.objective in ("classification", "tagging"),
            f"data.labels are of classification and tagging; the objective is {self.objective!r}",
        )
        if self.steps:
            self.check_warmup("optimizer", self.optimizer)

    @property
    def rtd(self) -> None:
        """A task trains one model."""


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """One run that pretrains."""

    data: DataConfig
    optimizer: OptimizerConfig
    eval: EvalConfig
    rtd: RTDConfig | None  # of the objective "rtd", None for the others

    def __post_init__(self):
        super().__post_init__()
        require(self.steps > 0, f"steps must be positive, got {self.steps}")
        self.check_warmup("optimizer", self.optimizer)
        given = "None" if self.rtd is None else "set"
        require(
            (self.rtd is not None) == (self.objective == "rtd"),
            f"objective {self.objective!r} and rtd {given}: start from configs/rtd.py for 'rtd'",
        )
        require(
            self.rtd is None or self.sift is None,
            "sift compares the outputs of one model with itself; the objective 'rtd' trains two",
        )
        if self.rtd is not None:
            self._check_pair(self.rtd)

    def _check_pair(self, rtd: RTDConfig):
        generator, discriminator = rtd.generator, self.model
        require(
            discriminator.decoder == "none",
            "model.decoder must be 'none': a discriminator predicts no masked tokens, rtd.generator does",
        )
        self.check_warmup("rtd.optimizer", rtd.optimizer)
        require(
            bool(self.init_from) or not rtd.generator_init_from,
            f"rtd.generator_init_from is set: name the discriminator in init_from too, or say {FRESH!r}",
        )
        require(
            self.init_from != FRESH or bool(rtd.generator_init_from),
            f"init_from is {FRESH!r}: name the generator in rtd.generator_init_from; '' for both starts both afresh",
        )
        same = ["vocab_size"]
        if rtd.embedding_sharing != "none":
            same.append("embedding_width")
            both = generator.has_absolute_positions and discriminator.has_absolute_positions
            same += ["max_position_embeddings"] if both else []
        for name in same:
            one, other = getattr(generator, name), getattr(discriminator, name)
            require(
                one == other,
                f"rtd.generator.{name} is {one}, model.{name} {other}: models with embedding_sharing "
                f"{rtd.embedding_sharing!r} must agree",
            )


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)


def require_seed(name: str, seed: int) -> None:
    """jax takes the last 32 bits of a seed, numpy all: two that differ above would start from the same weights."""
    require(0 <= seed < 1 << 32, f"{name} must lie in [0, 2**32), got {seed}")


def require_distinct(name: str, paths: tuple[str, ...]) -> None:
    for path in paths:
        require(paths.count(path) == 1, f"{name} names {path} twice")


def require_patterns(name: str, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise Refused(f"{name}: {pattern!r} is no regular expression: {error}") from error


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    require(
        value in choices, f"{name} must be one of {', '.join(choices)}; got {value!r}{nearest(str(value), choices)}"
    )


def build(values: Mapping[str, Any]) -> Config | FinetuneConfig:
    """The frozen, validated config of a ConfigDict or of a run's config.json; its objective says which of the two.

    Raises Refused, naming the key, for an unknown, missing or mistyped value.
    """
    require(isinstance(values, Mapping) or hasattr(values, "items"), "config must be a group of keys")
    require("objective" in values, "config lacks the key 'objective'")
    objective = values["objective"]
    require(isinstance(objective, str), f"objective expects str, got {objective!r}")
    require_choice("objective", objective, (*PRETRAINING, *KINDS))
    return _dataclass(Config if objective in PRETRAINING else FinetuneConfig, values, "")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain, JSON-ready values of a config: `build(to_dict(c)) == c`."""
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
    absent = {key: None for key, hint in hints.items() if isinstance(hint, types.UnionType)}
    later = {key: value for key, value in LATER_KEYS.items() if key in hints}
    values = absent | later | values
    for key in hints:
        require(key in values, f"config lacks the key {path + key!r}")
    fields = {key: _value(hint, values[key], path + key) for key, hint in hints.items()}
    try:
        return kind(**fields)
    except Refused as error:
        if str(error).startswith(path.partition(".")[0]):
            raise
        raise Refused(f"{path.rstrip('.')}: {error}") from error  # a model that is a generator calls itself "model"


def _value(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`; 100000.0 is an int where it is whole, 1 is a float."""
    if hint is Any:
        return _frozen(value)
    if isinstance(hint, types.UnionType):
        (inner,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
        return None if value is None else _value(inner, value, path)
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
    require(right, f"{path} expects {hint.__name__}, got {value!r}")
    return value


def _tuple(hints: tuple, value: Any, path: str) -> tuple:
    if len(hints) == 2 and hints[1] is ...:
        hints = (hints[0],) * len(value)
    require(len(hints) == len(value), f"{path} expects {len(hints)} entries, got {value!r}")
    return tuple(_value(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
