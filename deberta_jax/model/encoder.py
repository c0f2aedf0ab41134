"""Embeddings and the stack of blocks (BERT's, post-LayerNorm) with disentangled attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain
from deberta_jax.model.attention import Chosen, DisentangledAttention, Memory
from deberta_jax.model.layers import dense, layer_norm, weight_init
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.dropout import Noise, dropout

SITE_MLP = 3  # follows the attention's sites
REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
EMBEDDING_LAYER = 1 << 16  # noise of the embeddings: a layer number no stack reaches


class Embeddings(nn.Module):
    """Word vectors (and absolute positions, if the input is biased by them) to the stack's input."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        init = functools.partial(weight_init, cfg)
        self.word = self.param("word", init("vocab", "embed"), (cfg.vocab_rows, cfg.hidden_size))
        if cfg.has_absolute_positions:
            shape = (cfg.max_position_embeddings, cfg.hidden_size)
            self.position = self.param("position", init("position", "embed"), shape)
        self.norm = layer_norm(cfg)

    def __call__(self, id_bl: jax.Array, real_bl: jax.Array, position_bl: jax.Array, noise: Noise | None) -> jax.Array:
        """[b, l, e]: normalised, zero at padding, then dropped out."""
        cfg = self.cfg
        x_ble = jnp.take(self.word, id_bl, axis=0)
        if cfg.position_biased_input:
            x_ble += jnp.take(self.position, position_bl, axis=0)
        x_ble = self.norm(x_ble) * real_bl[..., None].astype(cfg.dtype)
        return constrain(dropout(x_ble, cfg.hidden_dropout, noise), "batch", "length", "embed")

    def positions(self, position_bp: jax.Array) -> jax.Array:
        """Raw absolute position vectors, neither projected nor normalised (what the released decoder adds)."""
        return jnp.take(self.position, position_bp, axis=0).astype(self.cfg.dtype)


class Block(nn.Module):
    """Attention and MLP, each followed by dropout, residual and LayerNorm."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.attention = DisentangledAttention(cfg)
        self.attention_norm = layer_norm(cfg)
        self.mlp_in = dense(cfg, cfg.intermediate_size, ("embed", "mlp"))
        self.mlp_out = dense(cfg, cfg.hidden_size, ("mlp", "embed"))
        self.mlp_norm = layer_norm(cfg)

    def __call__(self, x_ble, layer, table_re, allowed_bqk, noise, keep_hidden=False):
        """(output, output or None): the pair that a scan over layers carries and stacks."""
        noise = noise and noise.at(layer)
        memory = self.attention.memory(x_ble, table_re, noise)
        y_ble = constrain(self.ask(x_ble, memory, allowed_bqk, noise), "batch", "length", "embed")
        return y_ble, y_ble if keep_hidden else None

    def memory(self, x_bke: jax.Array, table_re: jax.Array | None, noise: Noise | None) -> Memory:
        return self.attention.memory(x_bke, table_re, noise)

    def ask(
        self,
        x_bqe: jax.Array,
        memory: Memory,
        allowed_bqk: jax.Array,
        noise: Noise | None,
        chosen: Chosen | None = None,
    ) -> jax.Array:
        """The block's output for the query stream `x_bqe`, which is also its residual."""
        mixed_bqe = self.attention(x_bqe, memory, allowed_bqk, noise, chosen)
        x_bqe = self.attention_norm(x_bqe + mixed_bqe)
        h_bqm = ACTIVATIONS[self.cfg.activation](self.mlp_in(x_bqe))
        h_bqm = constrain(h_bqm, "batch", "length" if chosen is None else "prediction", "mlp")
        y_bqe = dropout(self.mlp_out(h_bqm), self.cfg.hidden_dropout, noise and noise.at(SITE_MLP))
        return self.mlp_norm(x_bqe + y_bqe)


class Encoder(nn.Module):
    """DeBERTa's backbone. All layers but the last are scanned; the enhanced mask decoder uses the last on its own."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.embeddings = Embeddings(cfg)
        if cfg.pos_att_type:
            shape = (2 * cfg.position_buckets, cfg.hidden_size)
            self.relative = self.param("relative", weight_init(cfg, "relative", "embed"), shape)
            self.relative_norm = layer_norm(cfg)
        self.blocks = _scanned(cfg)(cfg)
        self.last = Block(cfg)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        position_ids: jax.Array | None = None,
        *,
        deterministic: bool,
        rows: jax.Array | None = None,
        all_hidden_states: bool = False,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Output of the last layer [b, l, e]; with `all_hidden_states` also [layers + 1, b, l, e], embeddings first.

        attention_mask [b, l]: 0 is padding; tokens attend to tokens of the same positive number, so it may be a mask of
        ones or the document numbers of a packed row. `rows` [b] are global row numbers (dropout bits depend on them).
        """
        noise = self.noise(rows, input_ids, deterministic)
        x_ble, states = self.below_last(input_ids, attention_mask, position_ids, noise, keep_hidden=all_hidden_states)
        allowed_bqk = allowed_pairs(attention_mask, attention_mask)
        y_ble, _ = self.last(x_ble, self.cfg.num_layers - 1, self.table(), allowed_bqk, noise)
        return (y_ble, jnp.concatenate([*states, y_ble[None]])) if all_hidden_states else y_ble

    def noise(self, rows: jax.Array | None, input_ids: jax.Array, deterministic: bool) -> Noise | None:
        """The source of all dropout bits of one application; None when deterministic."""
        if deterministic:
            return None
        return Noise(self.make_rng("dropout"), jnp.arange(input_ids.shape[0]) if rows is None else rows)

    def table(self) -> jax.Array | None:
        """The relative table [r, e], normalised; shared by all layers."""
        if not self.cfg.pos_att_type:
            return None
        return self.relative_norm(self.relative)

    def below_last(self, input_ids, attention_mask, position_ids, noise, *, keep_hidden=False):
        """(input of the last layer [b, l, e], [embeddings, stacked outputs] or None)."""
        cfg = self.cfg
        if position_ids is None:
            position_ids = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
        e_ble = self.embeddings(input_ids, attention_mask > 0, position_ids, noise and noise.at(EMBEDDING_LAYER))
        allowed_bqk = allowed_pairs(attention_mask, attention_mask)
        layers = np.arange(cfg.num_layers - 1)
        x_ble, stacked = self.blocks(e_ble, layers, self.table(), allowed_bqk, noise, keep_hidden)
        return x_ble, [e_ble[None], stacked] if keep_hidden else None


def allowed_pairs(of_queries: jax.Array, of_keys: jax.Array) -> jax.Array:
    """[b, q, k]: whether query and key carry the same positive number (document, or 1 for every real token)."""
    return (of_queries[:, :, None] == of_keys[:, None, :]) & (of_keys[:, None, :] > 0)


def _scanned(cfg: ModelConfig):
    """Block over num_layers - 1 stacked layers: compile time is flat in depth."""
    block = Block
    if cfg.remat != "none":
        block = nn.remat(Block, policy=REMAT_POLICIES[cfg.remat], prevent_cse=False, static_argnums=(6,))
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
        length=cfg.num_layers - 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
