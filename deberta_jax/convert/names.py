"""Which tensor of a Hugging Face or Microsoft file is which parameter of ours, and how its axes are turned.

Letters: v vocabulary, e width of the word table, d hidden size, a = heads * head size, m intermediate size, r relative
rows. Our parameters are named here with every layer on its own, "encoder/layers/3/...", see `trees.py`.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator

import numpy as np

from deberta_jax.config import ModelConfig
from deberta_jax.errors import Refused

PREFIXES = ("deberta.", "bert.", "")  # Microsoft and transformers; older checkpoints; a bare encoder of transformers
WORD = "embeddings.word_embeddings.weight"
POSITION = "embeddings.position_embeddings.weight"
NEW_MLM, LEGACY_MLM = "lm_predictions.lm_head.", "cls.predictions."


@dataclasses.dataclass(frozen=True)
class Names:
    """How a file names things."""

    prefix: str  # of the encoder's tensors
    fused: bool  # v1's in_proj, or projections of their own
    mlm: str  # prefix of the masked-LM head


@dataclasses.dataclass(frozen=True)
class Turn:
    """How one tensor of theirs becomes parameters of ours (mostly one), and back; values do not change."""

    to_ours: Callable[[np.ndarray, ModelConfig], tuple[np.ndarray, ...]]
    to_theirs: Callable[..., np.ndarray]  # (cfg, *parameters)


@dataclasses.dataclass(frozen=True)
class Tensor:
    theirs: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]  # in the file
    turn: Turn


def _fused_to_ours(x: np.ndarray, cfg: ModelConfig) -> tuple[np.ndarray, ...]:
    """v1's rows are grouped by head, query, key and value of each after one another."""
    x_hcsd = x.reshape(cfg.num_heads, 3, cfg.head_size, cfg.hidden_size)
    return tuple(x_hcsd[:, part].transpose(2, 0, 1) for part in range(3))


def _fused_to_theirs(cfg: ModelConfig, *parts_dhs: np.ndarray) -> np.ndarray:
    x_hcsd = np.stack([part.transpose(1, 2, 0) for part in parts_dhs], axis=1)
    return x_hcsd.reshape(-1, cfg.hidden_size)


def _padded(x: np.ndarray, cfg: ModelConfig) -> tuple[np.ndarray, ...]:
    rows = np.zeros((cfg.vocab_rows, *x.shape[1:]), x.dtype)
    rows[: len(x)] = x
    return (rows,)


PLAIN = Turn(lambda x, cfg: (x,), lambda cfg, x: x)
LINEAR = Turn(lambda x, cfg: (x.T,), lambda cfg, x: x.T)
CONVOLUTION = Turn(lambda x, cfg: (x.transpose(2, 1, 0),), lambda cfg, x: x.transpose(2, 1, 0))
VOCABULARY = Turn(_padded, lambda cfg, x: x[: cfg.vocab_size])
HEADS_IN = Turn(
    lambda x, cfg: (x.T.reshape(cfg.hidden_size, cfg.num_heads, cfg.head_size),),
    lambda cfg, x: x.reshape(cfg.hidden_size, -1).T,
)
HEADS_BIAS = Turn(lambda x, cfg: (x.reshape(cfg.num_heads, cfg.head_size),), lambda cfg, x: x.reshape(-1))
HEADS_OUT = Turn(
    lambda x, cfg: (x.T.reshape(cfg.num_heads, cfg.head_size, cfg.hidden_size),),
    lambda cfg, x: x.reshape(-1, cfg.hidden_size).T,
)
FUSED = Turn(_fused_to_ours, _fused_to_theirs)


def names_in(found: Collection[str]) -> Names:
    """How the file with the tensors `found` names things. Raises Refused where it holds no DeBERTa."""
    prefixes = [prefix for prefix in PREFIXES if prefix + WORD in found]
    if not prefixes:
        shown = ", ".join(sorted(found)[:3])
        raise Refused(f"no DeBERTa: the weights lack {PREFIXES[0] + WORD}; they hold {shown}, ...")
    layer = prefixes[0] + "encoder.layer.0.attention.self."
    mlm = LEGACY_MLM if any(name.startswith(LEGACY_MLM) for name in found) else NEW_MLM
    if any(name.startswith(NEW_MLM) for name in found):
        mlm = NEW_MLM  # what was trained; a legacy head beside it is transformers' random one
    return Names(prefixes[0], layer + "in_proj.weight" in found, mlm)


def default_names(cfg: ModelConfig) -> Names:
    """Names that Microsoft's code and transformers both read."""
    # transformers' new head multiplies a state of the hidden size with the word table: that needs equal widths.
    same_width = cfg.embedding_width == cfg.hidden_size
    return Names("deberta.", not cfg.key_bias, NEW_MLM if same_width else LEGACY_MLM)


def tensors(cfg: ModelConfig, head: str, labels: int, names: Names) -> list[Tensor]:
    """Everything a model of `cfg` with this head reads from a file; `labels` is the number of the head's outputs."""
    of_encoder = [*_embeddings(cfg), *_relative(cfg), *_convolution(cfg)]
    for layer in range(cfg.num_layers):
        of_encoder += _layer(cfg, f"encoder.layer.{layer}.", f"layers/{layer}/", names.fused)
    root = "" if head == "encoder" else "encoder/"
    named = [
        dataclasses.replace(t, theirs=names.prefix + t.theirs, ours=tuple(root + path for path in t.ours))
        for t in of_encoder
    ]
    return [*named, *_HEADS[head](cfg, labels, names)]


def heads_in(found: Collection[str]) -> list[str]:
    """The heads whose tensors are in a file, by their names; "encoder" where there is none.

    A pooler is taken for sequence classification: multiple choice has the same tensors.
    """
    marks = {
        "mlm": (NEW_MLM, LEGACY_MLM),
        "rtd": ("mask_predictions.",),
        "question_answering": ("qa_outputs.",),
        "sequence_classification": ("pooler.",),
        "token_classification": ("classifier.",),
    }
    there = [head for head, prefixes in marks.items() if any(name.startswith(prefixes) for name in found)]
    if "sequence_classification" in there:
        there = [head for head in there if head != "token_classification"]  # its classifier
    return there or ["encoder"]


def copies(found: Collection[str], names: Names) -> dict[str, str]:
    """Tensors that only repeat another one: tied weights that some files store twice."""
    tied = {
        LEGACY_MLM + "decoder.weight": names.prefix + WORD,
        LEGACY_MLM + "decoder.bias": LEGACY_MLM + "bias",
        "lm_predictions.lm_head.decoder.weight": names.prefix + WORD,
    }
    return {copy: of for copy, of in tied.items() if copy in found and of in found}


def _embeddings(cfg: ModelConfig) -> Iterator[Tensor]:
    e, d = cfg.embedding_width, cfg.hidden_size
    yield Tensor(WORD, ("embeddings/word",), (cfg.vocab_size, e), VOCABULARY)
    if cfg.has_absolute_positions:
        yield Tensor(POSITION, ("embeddings/position",), (cfg.max_position_embeddings, e), PLAIN)
    if cfg.type_vocab_size:
        theirs = "embeddings.token_type_embeddings.weight"
        yield Tensor(theirs, ("embeddings/token_type",), (cfg.type_vocab_size, e), PLAIN)
    if e != d:
        yield Tensor("embeddings.embed_proj.weight", ("embeddings/projection/kernel",), (d, e), LINEAR)
    yield from _norm("embeddings.LayerNorm", "embeddings/norm", d)


def _relative(cfg: ModelConfig) -> Iterator[Tensor]:
    if cfg.pos_att_type:
        yield Tensor("encoder.rel_embeddings.weight", ("relative",), (cfg.relative_rows, cfg.hidden_size), PLAIN)
        if cfg.norm_rel_ebd == "layer_norm":
            yield from _norm("encoder.LayerNorm", "relative_norm", cfg.hidden_size)


def _convolution(cfg: ModelConfig) -> Iterator[Tensor]:
    if cfg.conv_kernel_size:
        d = cfg.hidden_size
        shape = (d, d // cfg.conv_groups, cfg.conv_kernel_size)
        yield Tensor("encoder.conv.conv.weight", ("convolution/kernel",), shape, CONVOLUTION)
        yield Tensor("encoder.conv.conv.bias", ("convolution/bias",), (d,), PLAIN)
        yield from _norm("encoder.conv.LayerNorm", "convolution/norm", d)


def _layer(cfg: ModelConfig, theirs: str, ours: str, fused: bool) -> Iterator[Tensor]:
    d, m, a = cfg.hidden_size, cfg.intermediate_size, cfg.num_heads * cfg.head_size
    yield from (_fused_attention if fused else _split_attention)(cfg, theirs + "attention.self.", ours + "attention/")
    merged = theirs + "attention.output."
    yield Tensor(merged + "dense.weight", (ours + "attention/output/kernel",), (d, a), HEADS_OUT)
    yield Tensor(merged + "dense.bias", (ours + "attention/output/bias",), (d,), PLAIN)
    yield from _norm(merged + "LayerNorm", ours + "attention_norm", d)
    yield from _linear(theirs + "intermediate.dense", ours + "mlp_in", d, m)
    yield from _linear(theirs + "output.dense", ours + "mlp_out", m, d)
    yield from _norm(theirs + "output.LayerNorm", ours + "mlp_norm", d)


def _split_attention(cfg: ModelConfig, theirs: str, ours: str) -> Iterator[Tensor]:
    for name in ("query", "key", "value"):
        yield from _projection(cfg, f"{theirs}{name}_proj", ours + name)
    if not cfg.share_att_key:
        for term, name in (("c2p", "key"), ("p2c", "query")):
            if term in cfg.pos_att_type:
                yield from _projection(cfg, f"{theirs}pos_{name}_proj", f"{ours}position_{name}")


def _fused_attention(cfg: ModelConfig, theirs: str, ours: str) -> Iterator[Tensor]:
    a, d = cfg.num_heads * cfg.head_size, cfg.hidden_size
    kernels = tuple(f"{ours}{name}/kernel" for name in ("query", "key", "value"))
    yield Tensor(theirs + "in_proj.weight", kernels, (3 * a, d), FUSED)
    yield Tensor(theirs + "q_bias", (ours + "query/bias",), (a,), HEADS_BIAS)
    yield Tensor(theirs + "v_bias", (ours + "value/bias",), (a,), HEADS_BIAS)
    if "c2p" in cfg.pos_att_type:
        yield Tensor(theirs + "pos_proj.weight", (ours + "position_key/kernel",), (a, d), HEADS_IN)
    if "p2c" in cfg.pos_att_type:
        yield from _projection(cfg, theirs + "pos_q_proj", ours + "position_query")


def _projection(cfg: ModelConfig, theirs: str, ours: str) -> Iterator[Tensor]:
    a, d = cfg.num_heads * cfg.head_size, cfg.hidden_size
    yield Tensor(theirs + ".weight", (ours + "/kernel",), (a, d), HEADS_IN)
    yield Tensor(theirs + ".bias", (ours + "/bias",), (a,), HEADS_BIAS)


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[Tensor]:
    yield Tensor(theirs + ".weight", (ours + "/kernel",), (outputs, inputs), LINEAR)
    yield Tensor(theirs + ".bias", (ours + "/bias",), (outputs,), PLAIN)


def _norm(theirs: str, ours: str, width: int) -> Iterator[Tensor]:
    yield Tensor(theirs + ".weight", (ours + "/scale",), (width,), PLAIN)
    yield Tensor(theirs + ".bias", (ours + "/bias",), (width,), PLAIN)


def _masked_lm(cfg: ModelConfig, labels: int, names: Names) -> Iterator[Tensor]:
    e = cfg.embedding_width
    inner = names.mlm + ("transform." if names.mlm == LEGACY_MLM else "")
    yield from _linear(inner + "dense", "head/dense", cfg.hidden_size, e)
    yield from _norm(inner + "LayerNorm", "head/norm", e)
    yield Tensor(names.mlm + "bias", ("head/bias",), (cfg.vocab_size,), VOCABULARY)


def _replaced_token(cfg: ModelConfig, labels: int, names: Names) -> Iterator[Tensor]:
    d = cfg.hidden_size
    yield from _linear("mask_predictions.dense", "head/dense", d, d)
    yield from _norm("mask_predictions.LayerNorm", "head/norm", d)
    yield from _linear("mask_predictions.classifier", "head/classifier", d, 1)


def _pooled(cfg: ModelConfig, labels: int, names: Names) -> Iterator[Tensor]:
    yield from _linear("pooler.dense", "pooler/dense", cfg.hidden_size, cfg.hidden_size)
    yield from _linear("classifier", "classifier", cfg.hidden_size, labels)


def _tagging(cfg: ModelConfig, labels: int, names: Names) -> Iterator[Tensor]:
    yield from _linear("classifier", "classifier", cfg.hidden_size, labels)


def _spans(cfg: ModelConfig, labels: int, names: Names) -> Iterator[Tensor]:
    yield from _linear("qa_outputs", "outputs", cfg.hidden_size, 2)


_HEADS: dict[str, Callable[[ModelConfig, int, Names], Iterator[Tensor]]] = {
    "encoder": lambda cfg, labels, names: iter(()),
    "mlm": _masked_lm,
    "rtd": _replaced_token,
    "sequence_classification": _pooled,
    "multiple_choice": lambda cfg, labels, names: _pooled(cfg, 1, names),
    "token_classification": _tagging,
    "question_answering": _spans,
}
