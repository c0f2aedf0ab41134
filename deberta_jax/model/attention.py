"""Disentangled self-attention with v2/v3's shared position projections."""

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
        self.query = HeadProjection(self.cfg)
        self.key = HeadProjection(self.cfg)
        self.value = HeadProjection(self.cfg)
        self.output = MergeProjection(self.cfg)

    def memory(self, x_bke: jax.Array, table_re: jax.Array | None, noise: Noise | None) -> Memory:
        """Keys and values; the table goes through the content projections, biases included (share_att_key)."""
        cfg = self.cfg
        pos_k_rhd = pos_q_rhd = None
        if cfg.pos_att_type:
            table_re = shared_dropout(table_re, cfg.hidden_dropout, noise and noise.at(SITE_TABLE))
            pos_k_rhd = self.key(table_re) if "c2p" in cfg.pos_att_type else None
            pos_q_rhd = self.query(table_re) if "p2c" in cfg.pos_att_type else None
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
        rows = buckets.row_of_distance(np.arange(-length, length), cfg.position_buckets, cfg.max_relative_positions)
        common = (q_bqhd, memory.k_bkhd, memory.pos_k_rhd, memory.pos_q_rhd, rows)
        if chosen is None:
            s_hbqk = constrain(attention.scores(*common), "heads", "batch", "length", "key")
        else:
            s_hbqk = attention.scores_at(*common, chosen.select_bpk, chosen.position_bp)
        p_hbqk = attention.masked_softmax(s_hbqk, allowed_bqk)
        p_hbqk = dropout(p_hbqk, cfg.attention_dropout, noise and noise.at(SITE_PROBABILITIES), batch_axis=1)
        y_bqe = self.output(attention.mix(p_hbqk, memory.v_bkhd))
        return dropout(y_bqe, cfg.hidden_dropout, noise and noise.at(SITE_OUTPUT))
