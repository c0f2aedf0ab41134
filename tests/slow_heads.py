"""Task heads, and the first DeBERTa's attention as its file stores it, written a second time: float64, with loops.

From the released code's formulas, not from the package. The heads take the encoder's states and our parameter names;
the attention takes the tensors of a file as they lie there, so that nothing about turning them has to be trusted.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from slow_deberta import ACTIVATIONS


def replaced_token_logits(
    params: Any, activation: str, eps: float, x_ble: np.ndarray, document_bl: np.ndarray
) -> np.ndarray:
    """[b, l]: what the head says about each real token, which it sees together with the first of its document."""
    p = _float64(params)
    logits_bl = np.zeros(x_ble.shape[:2])
    for b, row_le in enumerate(np.asarray(x_ble, np.float64)):
        for i, x_e in enumerate(row_le):
            if not document_bl[b, i]:
                continue
            first = list(document_bl[b]).index(document_bl[b, i])
            y_e = _norm(p["norm"], eps, row_le[first] + x_e)
            y_e = ACTIVATIONS[activation](_linear(p["dense"], y_e))
            logits_bl[b, i] = _linear(p["classifier"], y_e)[0]
    return logits_bl


def sequence_logits(params: Any, activation: str, x_ble: np.ndarray) -> np.ndarray:
    """[b, labels], from the first token's state through the context pooler."""
    p = _float64(params)
    pooled = [ACTIVATIONS[activation](_linear(p["pooler"]["dense"], row_le[0])) for row_le in np.asarray(x_ble, float)]
    return np.stack([_linear(p["classifier"], pooled_e) for pooled_e in pooled])


def choice_logits(params: Any, activation: str, x_ble: np.ndarray, choices: int) -> np.ndarray:
    """[b, c]: rows come question by question, the choices of one after one another."""
    scores = sequence_logits(params, activation, x_ble)
    return np.array([[scores[q * choices + c, 0] for c in range(choices)] for q in range(len(scores) // choices)])


def token_logits(params: Any, x_ble: np.ndarray) -> np.ndarray:
    """[b, l, labels]"""
    p = _float64(params)
    return np.stack([[_linear(p["classifier"], x_e) for x_e in row_le] for row_le in np.asarray(x_ble, np.float64)])


def span_logits(params: Any, x_ble: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each token as the first and as the last of the answer, [b, l] each."""
    p = _float64(params)
    both = np.stack([[_linear(p["outputs"], x_e) for x_e in row_le] for row_le in np.asarray(x_ble, np.float64)])
    return both[:, :, 0], both[:, :, 1]


def first_generation_states(
    file: Mapping[str, np.ndarray], fields: Mapping[str, Any], ids: np.ndarray, mask: np.ndarray
) -> list[np.ndarray]:
    """v1's embeddings and each layer's output, [b, l, e] each, from the tensors of a file with `in_proj`."""
    file = {name.removeprefix("deberta."): np.asarray(values, np.float64) for name, values in file.items()}
    rows = [_first_generation_row(file, fields, *row) for row in zip(ids, mask, strict=True)]
    return [np.stack(state) for state in zip(*rows, strict=True)]


def _first_generation_row(file, fields, ids, mask):
    x_le = _layer_norm(file, fields, "embeddings.LayerNorm", file["embeddings.word_embeddings.weight"][ids])
    states = [x_le * mask[:, None]]
    for layer in range(fields["num_hidden_layers"]):
        name = f"encoder.layer.{layer}."
        mixed_le = first_generation_attention(file, fields, name + "attention.self.", states[-1], mask)
        x_le = states[-1] + _dense(file, name + "attention.output.dense", mixed_le)
        x_le = _layer_norm(file, fields, name + "attention.output.LayerNorm", x_le)
        y_le = ACTIVATIONS[fields["hidden_act"]](_dense(file, name + "intermediate.dense", x_le))
        y_le = _dense(file, name + "output.dense", y_le)
        states.append(_layer_norm(file, fields, name + "output.LayerNorm", x_le + y_le))
    return states


def first_generation_attention(file, fields, name: str, x_le: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mixed values [l, e] of one row, the heads side by side, before the output layer."""
    heads, span = fields["num_attention_heads"], fields["max_relative_positions"]
    size = fields["hidden_size"] // heads
    table_re = file["encoder.rel_embeddings.weight"]
    pos_key_re = table_re @ file[name + "pos_proj.weight"].T
    pos_query_re = _dense(file, name + "pos_q_proj", table_re)
    mixed = []
    for h in range(heads):
        ours = slice(h * size, (h + 1) * size)
        # 3 * size rows of in_proj belong to this head: first its queries', then its keys', then its values'.
        rows = file[name + "in_proj.weight"][3 * h * size : 3 * (h + 1) * size]
        query_ld = x_le @ rows[:size].T + file[name + "q_bias"][ours]
        key_ld = x_le @ rows[size : 2 * size].T
        value_ld = x_le @ rows[2 * size :].T + file[name + "v_bias"][ours]
        mixed_ld = np.zeros_like(value_ld)
        for i in np.flatnonzero(mask):
            scores = {}
            for j in np.flatnonzero(mask):
                row = min(max(i - j + span, 0), 2 * span - 1)
                score = query_ld[i] @ key_ld[j]
                score += query_ld[i] @ pos_key_re[row, ours]
                score += key_ld[j] @ pos_query_re[row, ours]
                scores[j] = score / math.sqrt(3 * size)
            most = max(scores.values())
            total = sum(math.exp(score - most) for score in scores.values())
            mixed_ld[i] = sum(math.exp(score - most) / total * value_ld[j] for j, score in scores.items())
        mixed.append(mixed_ld)
    return np.concatenate(mixed, axis=1)


def _dense(file, name, x):
    return x @ file[name + ".weight"].T + file[name + ".bias"]


def _layer_norm(file, fields, name, x):
    named = {"scale": file[name + ".weight"], "bias": file[name + ".bias"]}
    return _norm(named, fields["layer_norm_eps"], x)


def _norm(p, eps, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def _linear(p, x_e):
    return x_e @ p["kernel"] + p["bias"]


def _float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
