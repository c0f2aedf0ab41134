"""DeBERTa written a second time: one row at a time, in float64, with loops over query and key.

Written from the formulas of the paper (arXiv 2006.03654) and the behaviour of the released code, not from the package;
it shares nothing with the package but the names in the parameter tree.
"""

import math
from typing import Any

import jax
import numpy as np

from deberta_jax.config import ModelConfig


def bucket(distance: int, buckets: int, limit: int) -> int:
    """Signed log bucket of one distance, by the released code's formula."""
    exact = buckets // 2
    magnitude = min(abs(distance), limit - 1)
    if magnitude > exact:
        magnitude = exact + math.ceil(math.log(magnitude / exact) / math.log((limit - 1) / exact) * (exact - 1))
    return int(math.copysign(magnitude, distance))


def table_row(query: int, key: int, buckets: int, limit: int) -> int:
    return min(max(bucket(query - key, buckets, limit) + buckets, 0), 2 * buckets - 1)


def scores(q_qhd, k_khd, pos_k_rhd, pos_q_rhd, buckets: int, limit: int) -> np.ndarray:
    """[h, q, k] for one row, position by position."""
    queries, heads, size = q_qhd.shape
    terms = 1 + (pos_k_rhd is not None) + (pos_q_rhd is not None)
    out_hqk = np.zeros((heads, queries, len(k_khd)))
    for i in range(queries):
        for j in range(len(k_khd)):
            row = table_row(i, j, buckets, limit)
            for h in range(heads):
                total = q_qhd[i, h] @ k_khd[j, h]
                if pos_k_rhd is not None:
                    total += q_qhd[i, h] @ pos_k_rhd[row, h]
                if pos_q_rhd is not None:
                    total += k_khd[j, h] @ pos_q_rhd[row, h]
                out_hqk[h, i, j] = total / math.sqrt(size * terms)
    return out_hqk


def encoder_states(cfg: ModelConfig, params: Any, ids, documents, positions) -> list[np.ndarray]:
    """Embeddings and the output of each layer, [b, l, e] each, of an encoder with these parameters."""
    params = _float64(params)
    rows = [_states_of_row(cfg, params, *row) for row in zip(ids, documents, positions, strict=True)]
    return [np.stack(state) for state in zip(*rows, strict=True)]


def masked_lm_logits(cfg: ModelConfig, params: Any, ids, documents, positions) -> np.ndarray:
    """Logits [b, l, v] of every position: the decoder runs over whole rows, nothing is picked."""
    params = _float64(params)
    encoder = params["encoder"]
    out = []
    for row in zip(ids, documents, positions, strict=True):
        states = _states_of_row(cfg, encoder, *row)
        stream_le = states[-1]
        if cfg.decoder == "emd":
            stream_le = states[-2] + encoder["embeddings"]["position"][row[2]]
            for _ in range(2):
                stream_le = _block(cfg, encoder["last"], stream_le, states[-2], _table(cfg, encoder), row[1])
        out.append(_head(cfg, params["head"], stream_le, encoder["embeddings"]["word"]))
    return np.stack(out)


def _states_of_row(cfg, p, ids, documents, positions):
    x_le = p["embeddings"]["word"][ids]
    if cfg.position_biased_input:
        x_le = x_le + p["embeddings"]["position"][positions]
    states = [_norm(cfg, p["embeddings"]["norm"], x_le) * (documents > 0)[:, None]]
    stacked = [jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"]) for n in range(cfg.num_layers - 1)]
    for layer in [*stacked, p["last"]]:
        states.append(_block(cfg, layer, states[-1], states[-1], _table(cfg, p), documents))
    return states


def _table(cfg, p):
    return _norm(cfg, p["relative_norm"], p["relative"]) if cfg.pos_att_type else None


def _block(cfg, p, stream_le, memory_le, table_re, documents):
    """One layer: queries and residual from the stream, keys and values from the memory."""
    a = p["attention"]
    q_lhd, k_lhd, v_lhd = (_heads(a[n], x) for n, x in (("query", stream_le), ("key", memory_le), ("value", memory_le)))
    pos_k_rhd = _heads(a["key"], table_re) if "c2p" in cfg.pos_att_type else None
    pos_q_rhd = _heads(a["query"], table_re) if "p2c" in cfg.pos_att_type else None
    s_hqk = scores(q_lhd, k_lhd, pos_k_rhd, pos_q_rhd, cfg.position_buckets, cfg.max_relative_positions)
    mixed_le = np.tile(a["output"]["bias"], (len(stream_le), 1))
    for i, document in enumerate(documents):
        seen = [j for j, other in enumerate(documents) if other == document and document > 0]
        if not seen:
            continue  # padding asks nobody
        for h in range(cfg.num_heads):
            weight = np.exp(s_hqk[h, i, seen] - s_hqk[h, i, seen].max())
            mixed_le[i] += (weight / weight.sum()) @ v_lhd[seen, h] @ a["output"]["kernel"][h]
    x_le = _norm(cfg, p["attention_norm"], stream_le + mixed_le)
    y_le = _dense(p["mlp_out"], _gelu(_dense(p["mlp_in"], x_le)))
    return _norm(cfg, p["mlp_norm"], x_le + y_le)


def _head(cfg, p, x_le, word_ve):
    logits_lv = _norm(cfg, p["norm"], _gelu(_dense(p["dense"], x_le))) @ word_ve.T + p["bias"]
    return logits_lv[:, : cfg.vocab_size]


def _norm(cfg, p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + cfg.layer_norm_eps) * p["scale"] + p["bias"]


def _dense(p, x):
    return x @ p["kernel"] + p["bias"]


def _heads(p, x_le):
    return np.einsum("le,ehd->lhd", x_le, p["kernel"]) + p["bias"]


def _gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def _float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
