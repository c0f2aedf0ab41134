"""save_pretrained: a model of ours as a directory that transformers and Microsoft's code read."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.convert import hf_config, names, trees
from deberta_jax.convert.load import parameter_shapes
from deberta_jax.convert.source import Source, read_origin
from deberta_jax.convert.weights import write_weights
from deberta_jax.errors import Refused
from deberta_jax.model.by_head import head_of, outputs_of
from deberta_jax.tokenizers import Tokenizer, find_tokenizer
from deberta_jax.tokenizers.hf_json import write_tokenizer_json

_DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype(np.float32)}
_CLASSES = {  # transformers' names; for replaced token detection, and for v1's multiple choice, it has no class
    "encoder": "Model",
    "mlm": "ForMaskedLM",
    "rtd": "Model",
    "sequence_classification": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "multiple_choice": "ForMultipleChoice",
}
_FAMILIES = {hf_config.V1: "Deberta", hf_config.V2: "DebertaV2"}
log = logging.getLogger(__name__)


def save_pretrained(path: str | Path, model: nn.Module, params: Any, *, tokenizer: Tokenizer | None = None) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files.

    Names, labels and tokenizer are those of the directory the model was loaded from (`model.origin`), if any; a given
    tokenizer goes first. The dtypes are the origin's while that loses no digit, else float32 throughout. The absolute
    position table is kept: transformers skips it, load_pretrained chooses the decoder by it. Raises Refused, naming the
    key, where transformers has no such model.
    """
    cfg, (head, head_cfg) = model.cfg, head_of(model)
    fields = hf_config.fields_of(cfg)
    generation = fields["model_type"]
    leaves = _checked(model, params)
    origin = _origin(model)
    same_layout = origin is not None and origin.names.fused == (generation == hf_config.V1)
    named = origin.names if same_layout else names.default_names(cfg)
    table = names.tensors(cfg, head, outputs_of(head_cfg), named)
    tensors = Tensors(table, leaves, cfg, _copies(origin, named, head))
    dtypes = _kept_dtypes(tensors, origin)
    if tokenizer is None and origin is not None:
        tokenizer = find_tokenizer(origin.path)  # before anything is written: it may be damaged
    directory = _made(Path(path).expanduser())
    write_weights(directory / "model.safetensors", tensors.stored_as(dtypes))
    main = dtypes[named.prefix + names.WORD]
    kept = {key: value for key, value in origin.fields.items() if key in hf_config.KEPT} if origin else {}
    fields = fields | kept | hf_config.head_fields(head, head_cfg)
    fields |= {"architectures": [_FAMILIES[generation] + _CLASSES[head]], "dtype": main}
    if head == "token_classification" and head_cfg.classifier_dropout != cfg.hidden_dropout:
        rates = (head_cfg.classifier_dropout, cfg.hidden_dropout)
        log.warning("%s: transformers has no dropout of its own before tags: %s becomes %s", directory, *rates)
    if head == "mlm":
        fields["legacy"] = named.mlm == names.LEGACY_MLM
    (directory / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    _save_tokenizer(directory, tokenizer)
    log.warning("%s: %d tensors, %s", directory, len(tensors), main)


def _checked(model: nn.Module, params: Any) -> dict[str, np.ndarray]:
    """The parameters by their paths, on the host. Raises Refused, naming the first that is not as the model's are."""
    wanted = {path: leaf.shape for path, leaf in trees.flattened(parameter_shapes(model)).items()}
    found = trees.flattened(jax.device_get(params))
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            raise Refused(f"params lack {path}, which {type(model).__name__} has")
        if path not in wanted:
            raise Refused(f"params hold {path}, which {type(model).__name__} does not have")
        if np.shape(found[path]) != wanted[path]:
            raise Refused(f"params: {path} has shape {np.shape(found[path])}, the model's is {wanted[path]}")
    return found


def _origin(model: nn.Module) -> Source | None:
    if not model.origin:
        return None
    if not Path(model.origin).is_dir():
        log.warning("%s is gone: names are Microsoft's, the dtype is float32", model.origin)
        return None
    return read_origin(Path(model.origin))


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{directory} cannot be made: {error.strerror}") from error
    return directory


class Tensors(Mapping[str, np.ndarray]):
    """Our parameters under the names of a file, each made when it is asked for."""

    def __init__(
        self,
        table: Sequence[names.Tensor],
        leaves: Mapping[str, np.ndarray],
        cfg: ModelConfig,
        copies: Mapping[str, str],
        dtypes: Mapping[str, str] | None = None,
    ):
        self._tensors = {tensor.theirs: tensor for tensor in table}
        self._leaves, self._cfg, self._copies, self._dtypes = leaves, cfg, copies, dtypes

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[self._copies.get(name, name)]
        parts = [trees.unstacked(self._leaves, self._cfg, ours) for ours in tensor.ours]
        values = tensor.turn.to_theirs(self._cfg, *parts)
        return values if self._dtypes is None else values.astype(_DTYPES[self._dtypes[name]])

    def __iter__(self) -> Iterator[str]:
        return iter((*self._tensors, *self._copies))

    def __len__(self) -> int:
        return len(self._tensors) + len(self._copies)

    def stored_as(self, dtypes: Mapping[str, str]) -> "Tensors":
        """The same, converted to `dtypes`."""
        return Tensors(list(self._tensors.values()), self._leaves, self._cfg, self._copies, dtypes)


def _copies(origin: Source | None, named: names.Names, head: str) -> dict[str, str]:
    """Tied tensors of the head that the origin stores twice."""
    if origin is None or origin.names != named or head != "mlm":
        return {}
    return {copy: of for copy, of in origin.copies.items() if copy.startswith(named.mlm)}


def _kept_dtypes(tensors: Tensors, origin: Source | None) -> dict[str, str]:
    """The origin's dtype of each tensor if every value fits into it, else float32 for all: a file has one precision."""
    wide = dict.fromkeys(tensors, "float32")
    if origin is None:
        return wide
    main = origin.dtypes[origin.names.prefix + names.WORD]
    dtypes = {name: origin.dtypes.get(name, main) for name in tensors}
    narrow = {name: dtype for name, dtype in dtypes.items() if dtype != "float32"}
    for name, dtype in narrow.items():
        values = tensors[name]
        with np.errstate(over="ignore"):  # a value that is too large is seen by the comparison
            narrowed = values.astype(_DTYPES[dtype])
        if not np.array_equal(narrowed.astype(np.float32), values, equal_nan=True):
            log.warning("%s is written as float32: %s has changed beyond %s", origin.path, name, dtype)
            return wide
    return dtypes


def _save_tokenizer(directory: Path, tokenizer: Tokenizer | None) -> None:
    if tokenizer is None:
        log.warning("%s gets no tokenizer: none was given and the model came with none that can be read", directory)
        return
    tokenizer.save_vocabulary(directory)
    write_tokenizer_json(tokenizer, directory)
