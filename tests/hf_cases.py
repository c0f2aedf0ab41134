"""Models in the form of Hugging Face, one for each switch that transformers has, and what transformers computes with
them.

A case is a class, the fields of its config.json and a shape of input. Its weights, inputs and loss are drawn by rule
from the names of the case and the tensor, so that tests/golden holds no weights: only what transformers' float32 models
gave, sampled. `PYTHONPATH=. python tests/hf_cases.py` computes that again (it needs torch and transformers).
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.convert.weights import open_weights

GOLDEN = Path(__file__).parent / "golden"
CHOICES = 3
POSITIONS = 6  # sampled of a case's states and logits
COLUMNS = 32  # sampled of a vocabulary's logits
ALL_OF_VOCABULARY = "ForMaskedLM"

# transformers' class, and the name of our head for it.
HEADS = {
    "Model": "encoder",
    "ForMaskedLM": "mlm",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForMultipleChoice": "multiple_choice",
}
OF_SEQUENCES = ("ForSequenceClassification", "ForMultipleChoice")  # heads with one output a row, not one a token


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    family: str  # of transformers' classes: Deberta (v1) or DebertaV2 (v2, v3)
    kind: str
    rows: int
    length: int
    padding: str
    fields: Mapping[str, Any]  # of config.json, where they are not transformers' defaults

    @property
    def head(self) -> str:
        return HEADS[self.kind]

    @property
    def golden_file(self) -> Path:
        return GOLDEN / f"{self.name.partition('_')[0]}.npz"


BOTH, NOT_BIASED = ["c2p", "p2c"], {"position_biased_input": False, "relative_attention": True}
BIASED = {"position_biased_input": True}
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 160,
}
WIDE = {
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 128_100,
}
PUBLISHED = {"position_buckets": 256, "max_relative_positions": -1, "max_position_embeddings": 512}
V1 = SMALL | NOT_BIASED | {"pos_att_type": BOTH, "max_relative_positions": 40}
V2 = V1 | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8, "max_relative_positions": 16}
UNSHARED = V2 | {"share_att_key": False, "norm_rel_ebd": "none"}
NO_BUCKETS = UNSHARED | {"position_buckets": -1, "max_relative_positions": -1}
CONVOLVED = V2 | {"conv_kernel_size": 3, "conv_act": "gelu"}
PLAIN = SMALL | BIASED | {"relative_attention": False}


def _v1(name: str, kind: str, rows: int, length: int, padding: str, fields: Mapping[str, Any], **more: Any) -> Case:
    return Case(f"v1_{name}", "Deberta", kind, rows, length, padding, fields | more)


def _v2(name: str, kind: str, rows: int, length: int, padding: str, fields: Mapping[str, Any], **more: Any) -> Case:
    return Case(f"v2_{name}", "DebertaV2", kind, rows, length, padding, fields | more)


def _wide(name: str, family: str, kind: str, length: int, **fields: Any) -> Case:
    return Case(f"wide_{name}", family, kind, 1, length, "none", WIDE | NOT_BIASED | {"pos_att_type": BOTH} | fields)


CASES = (
    _v1("encoder", "Model", 3, 130, "right", V1, max_relative_positions=-1, num_hidden_layers=4),
    _v1(
        "encoder_beyond_the_table", "Model", 1, 700, "none", V1, max_position_embeddings=512, max_relative_positions=-1
    ),
    _v1("mlm_legacy", "ForMaskedLM", 3, 130, "left", V1, vocab_size=211, num_hidden_layers=3),
    _v1("mlm", "ForMaskedLM", 1, 5, "none", V1, legacy=False, pos_att_type=["c2p"], hidden_act="gelu_new"),
    _v1("mlm_narrow_table", "ForMaskedLM", 3, 5, "right", V1, embedding_size=20, type_vocab_size=2, pos_att_type="p2c"),
    _v1("classes", "ForSequenceClassification", 3, 130, "right", V1 | BIASED, num_labels=3, pos_att_type="p2c|c2p"),
    _v1("regression", "ForSequenceClassification", 3, 5, "right", V1, num_labels=1, hidden_act="relu"),
    _v1("tokens", "ForTokenClassification", 3, 130, "holes", PLAIN, num_labels=5, type_vocab_size=2, hidden_act="silu"),
    _v1("spans", "ForQuestionAnswering", 1, 513, "none", V1, num_attention_heads=4, hidden_size=64),
    _v2("encoder", "Model", 3, 130, "right", V2, num_hidden_layers=3),
    _v2("encoder_convolved", "Model", 3, 5, "left", CONVOLVED, num_hidden_layers=4, conv_groups=2, conv_act="tanh"),
    _v2("encoder_types", "Model", 3, 130, "right", V2 | BIASED, type_vocab_size=2, embedding_size=20),
    _v2("encoder_513", "Model", 3, 513, "right", V2 | PUBLISHED, num_hidden_layers=3),
    _v2("mlm_legacy", "ForMaskedLM", 3, 130, "right", V2, vocab_size=211, num_hidden_layers=4),
    _v2("mlm_legacy_convolved", "ForMaskedLM", 1, 130, "none", CONVOLVED, hidden_size=64, num_attention_heads=4),
    _v2("mlm_700", "ForMaskedLM", 1, 700, "none", V2 | PUBLISHED, legacy=False),
    _v2("mlm_wide_taps", "ForMaskedLM", 3, 130, "holes", CONVOLVED, legacy=False, conv_kernel_size=5, conv_groups=2),
    _v2("mlm_large_table", "ForMaskedLM", 3, 5, "right", V2, embedding_size=48, hidden_act="gelu_new"),
    _v2("mlm_head_size", "ForMaskedLM", 3, 130, "left", UNSHARED, legacy=False, attention_head_size=16),
    _v2(
        "classes_unshared",
        "ForSequenceClassification",
        3,
        130,
        "right",
        NO_BUCKETS,
        num_labels=3,
        conv_kernel_size=5,
        num_hidden_layers=3,
    ),
    _v2("classes_plain", "ForSequenceClassification", 3, 130, "right", PLAIN, type_vocab_size=2, pos_att_type=None),
    _v2("regression", "ForSequenceClassification", 3, 5, "right", V2 | BIASED, num_labels=1, hidden_act="silu"),
    _v2("tokens_c2p", "ForTokenClassification", 3, 130, "right", UNSHARED, num_labels=5, pos_att_type=["c2p"]),
    _v2("tokens_c2p_shared", "ForTokenClassification", 3, 130, "left", V2, num_labels=2, pos_att_type=["c2p"]),
    _v2("spans_p2c", "ForQuestionAnswering", 3, 130, "right", NO_BUCKETS, pos_att_type=["p2c"], hidden_act="relu"),
    _v2("spans_p2c_shared", "ForQuestionAnswering", 1, 130, "none", V2, pos_att_type="p2c", max_relative_positions=-1),
    _v2("choices", "ForMultipleChoice", 2, 130, "right", V2, pooler_hidden_act="tanh"),
    _v2("choices_types", "ForMultipleChoice", 1, 5, "right", CONVOLVED, type_vocab_size=2, norm_rel_ebd="none"),
    _wide("v1", "Deberta", "ForMaskedLM", 130, legacy=False),
    _wide("v2", "DebertaV2", "ForSequenceClassification", 513, **CONVOLVED | PUBLISHED | WIDE),
    _wide("v3", "DebertaV2", "ForMaskedLM", 130, **V2 | PUBLISHED | WIDE, legacy=False),
)
BY_NAME = {case.name: case for case in CASES}


# The rule: weights, inputs, the loss, and what is kept of the results.


def drawn(*key: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32, uniform around 0 with variance 1; a function of `key` and `shape` alone."""
    values = np.random.default_rng(list("/".join(key).encode())).random(shape, np.float32)
    values -= np.float32(0.5)
    values *= np.float32(np.sqrt(12))
    return values


def weight(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the file: a layer's outputs are about as large as its inputs, so no term of a score is negligible."""
    values = drawn(case.name, name, shape=shape)
    if name.endswith("LayerNorm.weight"):
        return 1 + np.float32(0.2) * values
    if name.endswith("rel_embeddings.weight"):  # norm_rel_ebd would make it so, where it is on
        return values
    values *= np.float32(1 / np.sqrt(case.fields["hidden_size"]))
    return values


def inputs(case: Case) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and, where there is a table for them, token_type_ids; [b, l] or [b, choices, l]."""
    shape = (case.rows, CHOICES, case.length) if case.kind == "ForMultipleChoice" else (case.rows, case.length)
    rng = np.random.default_rng(list(case.name.encode()))
    mask = _mask(case.padding, int(np.prod(shape[:-1])), case.length).reshape(shape)
    # torch gives row 0, the padding, no gradient.
    batch = {"input_ids": np.where(mask > 0, rng.integers(1, case.fields["vocab_size"], shape), 0)}
    batch["attention_mask"] = mask
    if case.fields.get("type_vocab_size"):
        batch["token_type_ids"] = rng.integers(0, case.fields["type_vocab_size"], shape)
    return {name: array.astype(np.int32) for name, array in batch.items()}


def _mask(padding: str, rows: int, length: int) -> np.ndarray:
    """The first row is full; of each other one a fourth, or two, or three are padding."""
    row, column = np.ogrid[:rows, :length]
    padded = (row % 4) * length // 4
    kept = {
        "none": column >= 0,
        "right": column < length - padded,
        "left": column >= padded,
        "holes": (column * 7) % length >= padded,  # scattered
    }[padding]
    return np.broadcast_to(kept, (rows, length)).astype(np.int32)


def loss_weights(case: Case) -> np.ndarray:
    """What the loss multiplies the outputs with before it sums them: nothing at padding."""
    mask = inputs(case)["attention_mask"]
    if case.kind in OF_SEQUENCES:
        shape = mask.shape if case.kind == "ForMultipleChoice" else (case.rows, case.fields.get("num_labels", 2))
        return drawn(case.name, "loss", shape=shape[:2])
    widths = {"Model": case.fields["hidden_size"], ALL_OF_VOCABULARY: case.fields["vocab_size"]}
    width = widths.get(case.kind, case.fields.get("num_labels", 2))
    return drawn(case.name, "loss", shape=(*mask.shape, width)) * mask[..., None].astype(np.float32)


def sampled_positions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) of some real tokens, the first and the last among them; choices count as rows."""
    real = np.argwhere(inputs(case)["attention_mask"].reshape(-1, case.length))
    rng = np.random.default_rng(list(case.name.encode()))
    middle = rng.choice(np.arange(1, len(real) - 1), min(POSITIONS, len(real)) - 2, replace=False)
    return tuple(real[[0, *np.sort(middle), len(real) - 1]].T)


def sampled(case: Case, states: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States [layers + 1, b, l, e] and outputs at the sampled positions; all outputs of heads of sequences."""
    rows, columns = sampled_positions(case)
    if case.kind in OF_SEQUENCES:
        return states[:, rows, columns], outputs
    picked = outputs[rows, columns]
    if case.kind == ALL_OF_VOCABULARY:
        rng = np.random.default_rng(list(case.name.encode()))
        picked = picked[:, np.sort(rng.choice(picked.shape[1], COLUMNS, replace=False))]
    return states[:, rows, columns], picked


def norm(gradient: np.ndarray) -> float:
    return float(np.sqrt(np.sum(gradient * gradient, dtype=np.float64)))


def product(case: Case, name: str, gradient: np.ndarray) -> float:
    """Inner product with a direction drawn by rule, scaled so that it is about as large as the gradient's norm."""
    return float(np.sum(gradient * drawn(case.name, name, "direction", shape=gradient.shape), dtype=np.float64))


# What transformers computed.


@dataclasses.dataclass(frozen=True)
class Golden:
    config: str  # the text of config.json
    shapes: dict[str, tuple[int, ...]]  # of every tensor in the file
    states: np.ndarray
    outputs: np.ndarray
    gradients: dict[str, tuple[float, float]]  # norm and product of every tensor


def read_golden(case: Case) -> Golden:
    with np.load(case.golden_file) as stored:
        config, shapes = (bytes(stored[f"{case.name}/{part}"]).decode() for part in ("config", "shapes"))
        shapes = {name: tuple(shape) for name, shape in json.loads(shapes).items()}
        gradients = dict(zip(shapes, map(tuple, stored[f"{case.name}/gradients"]), strict=True))
        return Golden(config, shapes, stored[f"{case.name}/states"], stored[f"{case.name}/outputs"], gradients)


def arrays_of(case: Case, golden: Golden) -> Iterator[tuple[str, np.ndarray]]:
    """What `read_golden` reads."""
    for part, text in (("config", golden.config), ("shapes", json.dumps(golden.shapes))):
        yield f"{case.name}/{part}", np.frombuffer(text.encode(), np.uint8)
    yield f"{case.name}/states", golden.states
    yield f"{case.name}/outputs", golden.outputs
    yield f"{case.name}/gradients", np.array([golden.gradients[name] for name in golden.shapes])


@dataclasses.dataclass(frozen=True)
class Computed:
    """All that a model gives for a case's inputs."""

    states: np.ndarray  # [layers + 1, b, l, e]
    outputs: np.ndarray  # logits; the last states of a model without a head; start and end of spans on the last axis
    gradients: Mapping[str, np.ndarray]  # of the loss, under the names of the file


def reference_model(case: Case) -> Any:
    """transformers' model with the weights of the rule, to be evaluated."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = getattr(transformers, case.family + "Config")(**case.fields)
    model = getattr(transformers, case.family + case.kind)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(case, name, tuple(parameter.shape))))
    return model


def forward(case: Case, model: Any) -> tuple[Any, Any]:
    """(states, outputs) of transformers' model, as in Computed; torch's tensors."""
    import torch

    found = model(**{k: torch.from_numpy(v).long() for k, v in inputs(case).items()}, output_hidden_states=True)
    states = torch.stack(found.hidden_states)
    if case.kind == "Model":
        return states, found.last_hidden_state
    if case.kind == "ForQuestionAnswering":
        return states, torch.stack([found.start_logits, found.end_logits], dim=-1)
    return states, found.logits


def reference(case: Case, model: Any) -> Computed:
    """What transformers' model gives."""
    import torch

    model.zero_grad()
    states, outputs = forward(case, model)
    (outputs * torch.from_numpy(loss_weights(case))).sum().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return Computed(states.detach().numpy(), outputs.detach().numpy(), gradients)


def golden_of(case: Case, directory: Path, computed: Computed) -> Golden:
    """The sample to keep, of the directory that transformers saved and what it computed."""
    shapes = {name: shape for name, (shape, _) in sorted(open_weights(directory).shapes_and_dtypes().items())}
    gradients = {n: (norm(computed.gradients[n]), product(case, n, computed.gradients[n])) for n in shapes}
    states, outputs = sampled(case, computed.states, computed.outputs)
    return Golden((directory / "config.json").read_text(), shapes, states, outputs, gradients)


def _write_goldens() -> None:
    GOLDEN.mkdir(exist_ok=True)
    files: dict[Path, dict[str, np.ndarray]] = {}
    for case in CASES:
        model = reference_model(case)
        with tempfile.TemporaryDirectory() as directory:
            model.save_pretrained(directory)
            golden = golden_of(case, Path(directory), reference(case, model))
        files.setdefault(case.golden_file, {}).update(arrays_of(case, golden))
        print(case.name)
    for path, arrays in files.items():
        np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    _write_goldens()
