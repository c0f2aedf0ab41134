"""Disentangled self-attention; the relative table is projected by its own weights (v1) or the content's (v2, v3)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain, mesh_axes_of, parts_of
from deberta_jax.dist.mesh import platform
from deberta_jax.model.layers import HeadProjection, MergeProjection
from deberta_jax.ops import buckets
from deberta_jax.ops.attention import choice, chosen
from deberta_jax.ops.attention.by_device import Split
from deberta_jax.ops.attention.problem import Problem, allowed_pairs
from deberta_jax.ops.attention.softmax import masked_softmax, mix
from deberta_jax.ops.dropout import Noise, dropout, shared_dropout

SITE_TABLE, SITE_PROBABILITIES, SITE_OUTPUT = 0, 1, 2  # where in a layer a dropout stands; 3 is the block's own
ALIGNED = 8
ASKED = "asked"  # in Flax's collection "intermediates": (queries, Memory) of each call in which all positions ask


class Memory(struct.PyTreeNode):
    """What queries look at: keys and values of every position, and the rows of the relative table that they see,
    projected."""

    k_bkhd: jax.Array
    v_bkhd: jax.Array
    pos_k_rhd: jax.Array | None
    pos_q_rhd: jax.Array | None


class Chosen(struct.PyTreeNode):
    """Query positions, when not all of them ask: their numbers, the same as one-hot rows, their documents."""

    position_bp: jax.Array
    select_bpk: jax.Array
    document_bp: jax.Array
    of_keys_hbpk: jax.Array | None  # what position to content gives them, whatever they hold


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
            table_re = table_re[_rows_seen(cfg, x_bke.shape[1])]
        if _uses_keys(cfg):
            pos_k_rhd = (self.key if cfg.share_att_key else self.position_key)(table_re)
        if _uses_queries(cfg):
            pos_q_rhd = (self.query if cfg.share_att_key else self.position_query)(table_re)
        k_bkhd = constrain(self.key(x_bke), "batch", "length", "heads", "head_size")
        v_bkhd = constrain(self.value(x_bke), "batch", "length", "heads", "head_size")
        return Memory(k_bkhd, v_bkhd, pos_k_rhd, pos_q_rhd)

    def choose(self, memory: Memory, position_bp, select_bpk, document_bp) -> Chosen:
        """Queries at these positions, for any number of calls."""
        of_keys_hbpk = None
        if "p2c" in self.cfg.pos_att_type:
            length = memory.k_bkhd.shape[1]
            rows = _rows(self.cfg, length)
            of_keys_hbpk = chosen.position_to_content(
                *(memory.k_bkhd, memory.pos_q_rhd, rows, position_bp, select_bpk),
                heads=choice.decoder_heads_at_once(platform()[0], length, heads_split=parts_of("heads") > 1),
            )
        return Chosen(position_bp, select_bpk, document_bp, of_keys_hbpk)

    def __call__(
        self,
        x_bqe: jax.Array,
        memory: Memory,
        document_bk: jax.Array,
        noise: Noise | None,
        queries: Chosen | None = None,
    ) -> jax.Array:
        """Mixed values [b, q, e] after the output layer and its dropout: of all positions, or of chosen `queries`."""
        q_bqhd = self.query(x_bqe)
        mixed_bqhd = (
            self._of_all(q_bqhd, memory, document_bk, noise)
            if queries is None
            else self._of_chosen(q_bqhd, memory, document_bk, noise, queries)
        )
        return dropout(self.output(mixed_bqhd), self.cfg.hidden_dropout, noise and noise.at(SITE_OUTPUT))

    def _of_all(self, q_bqhd, memory: Memory, document_bk: jax.Array, noise: Noise | None) -> jax.Array:
        cfg = self.cfg
        length, seed_bhq = q_bqhd.shape[1], None
        rate = cfg.attention_dropout if noise else 0.0
        if rate:
            seed_bhq = noise.at(SITE_PROBABILITIES).line_seeds(cfg.num_heads, length)
        q_bqhd = constrain(q_bqhd, "batch", "length", "heads", "head_size")
        self.sow("intermediates", ASKED, (q_bqhd, memory))  # does nothing unless the collection is asked for
        problem = problem_of(cfg, q_bqhd, memory, document_bk, seed_bhq, rate)
        mixed_bqhd = choice.attend(problem, cfg.attention, facts_of(cfg, *q_bqhd.shape[:2], rate))
        return constrain(mixed_bqhd, "batch", "length", "heads", "head_size")

    def _of_chosen(self, q_bphd, memory: Memory, document_bk, noise: Noise | None, queries: Chosen) -> jax.Array:
        cfg = self.cfg
        rows = _rows(cfg, memory.k_bkhd.shape[1])
        tables = (memory.pos_k_rhd, memory.pos_q_rhd, rows, cfg.pos_att_type)
        s_hbpk = chosen.scores(q_bphd, memory.k_bkhd, *tables, queries.of_keys_hbpk, queries.position_bp)
        p_hbpk = masked_softmax(s_hbpk, allowed_pairs(queries.document_bp, document_bk))
        p_bhpk = dropout(p_hbpk.swapaxes(0, 1), cfg.attention_dropout, noise and noise.at(SITE_PROBABILITIES))
        return mix(p_bhpk.swapaxes(0, 1), memory.v_bkhd)


def problem_of(
    cfg: ModelConfig,
    q_bqhd: jax.Array,
    memory: Memory,
    document_bk: jax.Array,
    seed_bhq: jax.Array | None = None,
    rate: float = 0.0,
) -> Problem:
    """What is to be solved when every position asks: see `Problem` for the last two, which are of dropout."""
    return Problem(
        q_bqhd,
        memory.k_bkhd,
        memory.v_bkhd,
        memory.pos_k_rhd,
        memory.pos_q_rhd,
        _rows(cfg, q_bqhd.shape[1]),
        cfg.pos_att_type,
        document_bk,
        seed_bhq,
        rate,
    )


def facts_of(cfg: ModelConfig, rows: int, length: int, rate: float) -> choice.Facts:
    """What the choice of an implementation goes by in the mesh in force: `rows` of `length`, dropout at `rate`."""
    kind, devices = platform()
    return choice.Facts(
        platform=kind,
        rows=rows,
        length=length,
        heads=cfg.num_heads,
        head_size=cfg.head_size,
        terms=cfg.pos_att_type,
        dtype=jnp.dtype(cfg.dtype),
        rate=rate,
        hardware_bits=cfg.dropout_bits == "hardware",
        devices=devices,
        split=Split(mesh_axes_of("batch"), mesh_axes_of("heads"), parts_of("batch"), parts_of("heads")),
    )


def _uses_keys(cfg: ModelConfig) -> bool:
    return "c2p" in cfg.pos_att_type or "p2p" in cfg.pos_att_type


def _uses_queries(cfg: ModelConfig) -> bool:
    return "p2c" in cfg.pos_att_type or "p2p" in cfg.pos_att_type


def _rows(cfg: ModelConfig, length: int) -> np.ndarray:
    """For each distance -length .. length - 1 the row of the part of the table that is seen."""
    return _table_rows(cfg, length) - _rows_seen(cfg, length).start


def _rows_seen(cfg: ModelConfig, length: int) -> slice:
    """The part of the table that rows of `length` see: half of the released 512 in rows of 128.

    A multiple of 8 lines where the table has as many: GPUs copy what they multiply to fill it up to that.
    """
    rows = _table_rows(cfg, length)
    start, end = int(rows.min()), int(rows.max()) + 1
    return slice(start // ALIGNED * ALIGNED, min(-(-end // ALIGNED) * ALIGNED, cfg.relative_rows))


def _table_rows(cfg: ModelConfig, length: int) -> np.ndarray:
    distances = np.arange(-length, length)
    return buckets.row_of_distance(
        distances, cfg.position_buckets, cfg.max_relative_positions, clamp=cfg.clamp_distance
    )
