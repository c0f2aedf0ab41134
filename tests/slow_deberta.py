"""DeBERTa written a second time: one row at a time, in float64, with loops over query and key.

Written from the formulas of the paper (arXiv 2006.03654) and the behaviour of the released code, not from the package;
it shares nothing with the package but the names in the parameter tree.
"""

import math
from typing import Any

import jax
import numpy as np

from deberta_jax.config import ModelConfig


def bucket(distance: int, buckets: int, limit: int, clamp: bool = True) -> int:
    """Signed log bucket of one distance, by the released code's formula; unclamped, by that of transformers."""
    exact = buckets // 2
    magnitude = min(abs(distance), limit - 1) if clamp else abs(distance)
    if magnitude > exact:
        magnitude = exact + math.ceil(math.log(magnitude / exact) / math.log((limit - 1) / exact) * (exact - 1))
    return int(math.copysign(magnitude, distance))


def table_row(query: int, key: int, buckets: int, limit: int, clamp: bool = True) -> int:
    if buckets == 0:  # v1: a row per distance
        return min(max(query - key + limit, 0), 2 * limit - 1)
    return min(max(bucket(query - key, buckets, limit, clamp) + buckets, 0), 2 * buckets - 1)


def scores(
    q_qhd, k_khd, pos_k_rhd, pos_q_rhd, buckets: int, limit: int, clamp: bool = True, terms=("c2p", "p2c")
) -> np.ndarray:
    """[h, q, k] for one row, position by position."""
    queries, heads, size = q_qhd.shape
    out_hqk = np.zeros((heads, queries, len(k_khd)))
    for i in range(queries):
        for j in range(len(k_khd)):
            row = table_row(i, j, buckets, limit, clamp)
            for h in range(heads):
                total = q_qhd[i, h] @ k_khd[j, h]
                if "c2p" in terms:
                    total += q_qhd[i, h] @ pos_k_rhd[row, h]
                if "p2c" in terms:
                    total += k_khd[j, h] @ pos_q_rhd[row, h]
                if "p2p" in terms:
                    total += pos_q_rhd[row, h] @ pos_k_rhd[row, h]
                out_hqk[h, i, j] = total / math.sqrt(size * (1 + len(terms)))
    return out_hqk


def encoder_states(cfg: ModelConfig, params: Any, ids, documents, positions, types=None) -> list[np.ndarray]:
    """Embeddings and the output of each layer, [b, l, e] each, of an encoder with these parameters."""
    params = _float64(params)
    types = np.zeros_like(ids) if types is None else types
    rows = [_states_of_row(cfg, params, *row) for row in zip(ids, documents, positions, types, strict=True)]
    return [np.stack(state) for state in zip(*rows, strict=True)]


def masked_lm_logits(cfg: ModelConfig, params: Any, ids, documents, positions) -> np.ndarray:
    """Logits [b, l, v] of every position: the decoder runs over whole rows, nothing is picked."""
    params = _float64(params)
    encoder = params["encoder"]
    out = []
    for row in zip(ids, documents, positions, strict=True):
        states = _states_of_row(cfg, encoder, *row, np.zeros_like(row[0]))
        stream_le = states[-1]
        if cfg.decoder == "emd":
            stream_le = states[-2] + _projected(encoder["embeddings"], encoder["embeddings"]["position"][row[2]])
            for _ in range(2):
                stream_le = _block(cfg, encoder["last"], stream_le, states[-2], _table(cfg, encoder), row[1])
        out.append(_head(cfg, params["head"], stream_le, encoder["embeddings"]["word"]))
    return np.stack(out)


def _states_of_row(cfg, p, ids, documents, positions, types):
    e = p["embeddings"]
    x_le = e["word"][ids]
    if cfg.position_biased_input:
        x_le = x_le + e["position"][positions]
    if cfg.type_vocab_size:
        x_le = x_le + e["token_type"][types]
    states = [_norm(cfg, e["norm"], _projected(e, x_le)) * (documents > 0)[:, None]]
    for number, layer in enumerate(_layers(cfg, p)):
        y_le = _block(cfg, layer, states[-1], states[-1], _table(cfg, p), documents)
        if number == 0 and cfg.conv_kernel_size:
            y_le = _norm(cfg, p["convolution"]["norm"], y_le + _convolved(cfg, p["convolution"], states[0], documents))
            y_le = y_le * (documents > 0)[:, None]
        states.append(y_le)
    return states


def _projected(p, x_le):
    return x_le @ p["projection"]["kernel"] if "projection" in p else x_le


def _layers(cfg, p):
    """Each layer's parameters, in order."""
    stacked = jax.tree.leaves(p["blocks"])[0].shape[0] if "blocks" in p else 0
    first = [p["first"]] if "first" in p else []
    return [*first, *(jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"]) for n in range(stacked)), p["last"]]


def _convolved(cfg, p, x_le, documents):
    """Position by position, output by output; neighbours outside the document are zeros."""
    taps, inputs, outputs = p["kernel"].shape
    per_group = outputs // cfg.conv_groups
    c_le = np.zeros((len(x_le), outputs))
    for i in range(len(x_le)):
        for o in range(outputs):
            total = p["bias"][o]
            for tap in range(taps):
                j = i + tap - taps // 2
                if 0 <= j < len(x_le) and documents[j] == documents[i]:
                    group = o // per_group
                    total += x_le[j, group * inputs : (group + 1) * inputs] @ p["kernel"][tap, :, o]
            c_le[i, o] = total if documents[i] > 0 else 0
    return ACTIVATIONS[cfg.conv_act](c_le)


def _table(cfg, p):
    if not cfg.pos_att_type:
        return None
    return _norm(cfg, p["relative_norm"], p["relative"]) if cfg.norm_rel_ebd == "layer_norm" else p["relative"]


def _block(cfg, p, stream_le, memory_le, table_re, documents):
    """One layer: queries and residual from the stream, keys and values from the memory."""
    a = p["attention"]
    q_lhd, k_lhd, v_lhd = (_heads(a[n], x) for n, x in (("query", stream_le), ("key", memory_le), ("value", memory_le)))
    key, query = ("key", "query") if cfg.share_att_key else ("position_key", "position_query")
    terms = cfg.pos_att_type
    pos_k_rhd = _heads(a[key], table_re) if {"c2p", "p2p"} & set(terms) else None
    pos_q_rhd = _heads(a[query], table_re) if {"p2c", "p2p"} & set(terms) else None
    distances = (cfg.position_buckets, cfg.max_relative_positions, cfg.clamp_distance)
    s_hqk = scores(q_lhd, k_lhd, pos_k_rhd, pos_q_rhd, *distances, terms)
    mixed_le = np.tile(a["output"]["bias"], (len(stream_le), 1))
    for i, document in enumerate(documents):
        seen = [j for j, other in enumerate(documents) if other == document and document > 0]
        if not seen:
            continue  # padding asks nobody
        for h in range(cfg.num_heads):
            weight = np.exp(s_hqk[h, i, seen] - s_hqk[h, i, seen].max())
            mixed_le[i] += (weight / weight.sum()) @ v_lhd[seen, h] @ a["output"]["kernel"][h]
    x_le = _norm(cfg, p["attention_norm"], stream_le + mixed_le)
    y_le = _dense(p["mlp_out"], ACTIVATIONS[cfg.activation](_dense(p["mlp_in"], x_le)))
    return _norm(cfg, p["mlp_norm"], x_le + y_le)


def _head(cfg, p, x_le, word_ve):
    logits_lv = _norm(cfg, p["norm"], ACTIVATIONS[cfg.activation](_dense(p["dense"], x_le))) @ word_ve.T + p["bias"]
    return logits_lv[:, : cfg.vocab_size]


def _norm(cfg, p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + cfg.layer_norm_eps) * p["scale"] + p["bias"]


def _dense(p, x):
    return x @ p["kernel"] + p["bias"]


def _heads(p, x_le):
    return np.einsum("le,ehd->lhd", x_le, p["kernel"]) + p.get("bias", 0)


def _gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": _gelu,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "swish": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}


def _float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
