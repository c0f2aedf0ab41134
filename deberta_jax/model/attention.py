"""Disentangled self-attention; the relative table is projected by its own weights (v1) or the content's (v2, v3)."""

import jax
import numpy as np
from flax import linen as nn
from flax import struct

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.layers import HeadProjection, MergeProjection
from deberta_jax.ops import attention, buckets
from deberta_jax.ops.dropout import Noise, dropout, shared_dropout

SITE_TABLE, SITE_PROBABILITIES, SITE_OUTPUT = 0, 1, 2  # where in a layer a dropout stands; 3 is the block's own


class Memory(struct.PyTreeNode):
    """What queries look at: keys and values of every position, and the projected relative table."""

    k_bkhd: jax.Array
    v_bkhd: jax.Array
    pos_k_rhd: jax.Array | None
    pos_q_rhd: jax.Array | None


class Chosen(struct.PyTreeNode):
    """Query positions, when not all of them ask: their numbers and the same as one-hot rows."""

    position_bp: jax.Array
    select_bpk: jax.Array


class DisentangledAttention(nn.Module):
    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.query = HeadProjection(cfg)
        self.key = HeadProjection(cfg, use_bias=cfg.key_bias)
        self.value = HeadProjection(cfg)
        self.output = MergeProjection(cfg)
        if not cfg.share_att_key and _uses_keys(cfg):
            self.position_key = HeadProjection(cfg, use_bias=cfg.key_bias)
        if not cfg.share_att_key and _uses_queries(cfg):
            self.position_query = HeadProjection(cfg)

    def memory(self, x_bke: jax.Array, table_re: jax.Array | None, noise: Noise | None) -> Memory:
        """Keys and values of every position, and the table as keys and as queries where a term needs them."""
        cfg = self.cfg
        pos_k_rhd = pos_q_rhd = None
        if cfg.pos_att_type:
            table_re = shared_dropout(table_re, cfg.hidden_dropout, noise and noise.at(SITE_TABLE))
        if _uses_keys(cfg):
            pos_k_rhd = (self.key if cfg.share_att_key else self.position_key)(table_re)
        if _uses_queries(cfg):
            pos_q_rhd = (self.query if cfg.share_att_key else self.position_query)(table_re)
        k_bkhd = constrain(self.key(x_bke), "batch", "length", "heads", "head_size")
        v_bkhd = constrain(self.value(x_bke), "batch", "length", "heads", "head_size")
        return Memory(k_bkhd, v_bkhd, pos_k_rhd, pos_q_rhd)

    def __call__(
        self,
        x_bqe: jax.Array,
        memory: Memory,
        allowed_bqk: jax.Array,
        noise: Noise | None,
        chosen: Chosen | None = None,
    ) -> jax.Array:
        """Mixed values [b, q, e] after the output layer and its dropout; queries are all positions, or `chosen`."""
        cfg = self.cfg
        q_bqhd = self.query(x_bqe)
        length = memory.k_bkhd.shape[1]
        rows = _rows(cfg, length)
        common = (q_bqhd, memory.k_bkhd, memory.pos_k_rhd, memory.pos_q_rhd, rows, cfg.pos_att_type)
        if chosen is None:
            s_hbqk = constrain(attention.scores(*common), "heads", "batch", "length", "key")
        else:
            s_hbqk = attention.scores_at(*common, chosen.select_bpk, chosen.position_bp)
        p_hbqk = attention.masked_softmax(s_hbqk, allowed_bqk)
        p_hbqk = dropout(p_hbqk, cfg.attention_dropout, noise and noise.at(SITE_PROBABILITIES), batch_axis=1)
        y_bqe = self.output(attention.mix(p_hbqk, memory.v_bkhd))
        return dropout(y_bqe, cfg.hidden_dropout, noise and noise.at(SITE_OUTPUT))


def _uses_keys(cfg: ModelConfig) -> bool:
    return "c2p" in cfg.pos_att_type or "p2p" in cfg.pos_att_type


def _uses_queries(cfg: ModelConfig) -> bool:
    return "p2c" in cfg.pos_att_type or "p2p" in cfg.pos_att_type


def _rows(cfg: ModelConfig, length: int) -> np.ndarray:
    """The table's row for each distance -length .. length - 1."""
    distances = np.arange(-length, length)
    return buckets.row_of_distance(
        distances, cfg.position_buckets, cfg.max_relative_positions, clamp=cfg.clamp_distance
    )
