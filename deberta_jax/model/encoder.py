"""Embeddings and the stack of blocks (BERT's, post-LayerNorm) with disentangled attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from deberta_jax.config import ModelConfig
from deberta_jax.dist.axes import constrain, constrain_looked_up, named
from deberta_jax.errors import Refused
from deberta_jax.model.attention import Chosen, DisentangledAttention, Memory
from deberta_jax.model.layers import LayerNorm, dense, weight_init
from deberta_jax.ops.activations import ACTIVATIONS
from deberta_jax.ops.convolution import convolve
from deberta_jax.ops.dropout import Noise, drop_rows, dropout
from deberta_jax.ops.lookup import lookup
from deberta_jax.ops.perturbation import perturbed

SITE_MLP, SITE_ATTENTION_PATH, SITE_MLP_PATH = 3, 4, 5  # follow the attention's sites
REMAT_POLICIES = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
# Noise of what is no layer: numbers no stack reaches.
EMBEDDING_LAYER, CONVOLUTION_LAYER, HEAD_LAYER = 1 << 16, (1 << 16) + 1, (1 << 16) + 2
PERTURBATION = "perturbation"  # collection of what SiFT adds to the normalised word vectors; absent but in its training


class Embeddings(nn.Module):
    """Word vectors (with token types, and positions if the input is biased by them) to the stack's input."""

    cfg: ModelConfig
    frequent_id: int | None = None  # that stands at many places, as [MASK] does: its gradient is summed by itself

    def setup(self):
        cfg = self.cfg
        init = functools.partial(weight_init, cfg)
        self.word = self.param("word", init("vocab", "embed"), (cfg.vocab_rows, cfg.embedding_width))
        if cfg.has_absolute_positions:
            shape = (cfg.max_position_embeddings, cfg.embedding_width)
            self.position = self.param("position", init("position", "embed"), shape)
        if cfg.type_vocab_size:
            shape = (cfg.type_vocab_size, cfg.embedding_width)
            self.token_type = self.param("token_type", init("position", "embed"), shape)
        if cfg.embedding_width != cfg.hidden_size:
            self.projection = dense(cfg, cfg.hidden_size, ("embed", "mlp"), use_bias=False)
        self.norm = LayerNorm(cfg)

    def __call__(
        self,
        id_bl: jax.Array,
        real_bl: jax.Array,
        position_bl: jax.Array,
        type_bl: jax.Array | None,
        noise: Noise | None,
    ) -> jax.Array:
        """[b, l, e]: normalised, zero at padding, then dropped out. Without `type_bl` every token is of type 0."""
        cfg = self.cfg
        x_ble = self._words(id_bl)
        if cfg.position_biased_input:
            x_ble += jnp.take(self.position, position_bl, axis=0)
        if cfg.type_vocab_size:
            x_ble += jnp.take(self.token_type, jnp.zeros_like(id_bl) if type_bl is None else type_bl, axis=0)
        x_ble = self._projected(_looked_up(x_ble))
        if self.has_variable(PERTURBATION, "words"):
            x_ble = perturbed(x_ble, self.get_variable(PERTURBATION, "words"), cfg.layer_norm_eps)
        x_ble = self.norm(x_ble) * real_bl[..., None].astype(cfg.dtype)
        return constrain(dropout(x_ble, cfg.hidden_dropout, noise), "batch", "length", "embed")

    def _words(self, id_bl: jax.Array) -> jax.Array:
        if self.frequent_id is None:
            return jnp.take(self.word, id_bl, axis=0)
        return lookup(self.word, id_bl, self.frequent_id)

    def positions(self, position_bp: jax.Array) -> jax.Array:
        """Absolute position vectors [b, p, e], not normalised (what the released decoder adds to its queries).

        Projected where embedding_size differs from hidden_size; the released code fails there.
        """
        return self._projected(_looked_up(jnp.take(self.position, position_bp, axis=0))).astype(self.cfg.dtype)

    def _projected(self, x_ble: jax.Array) -> jax.Array:
        if self.cfg.embedding_width == self.cfg.hidden_size:
            return x_ble
        return constrain(self.projection(x_ble), "batch", "length", "embed")


def _looked_up(x_ble: jax.Array) -> jax.Array:
    return constrain(constrain_looked_up(x_ble), "batch", "length", "embed")


class Block(nn.Module):
    """Attention and MLP, each followed by dropout, residual and LayerNorm."""

    cfg: ModelConfig

    def setup(self):
        cfg = self.cfg
        self.attention = DisentangledAttention(cfg)
        self.attention_norm = LayerNorm(cfg)
        self.mlp_in = dense(cfg, cfg.intermediate_size, ("embed", "mlp"))
        self.mlp_out = dense(cfg, cfg.hidden_size, ("mlp", "embed"))
        self.mlp_norm = LayerNorm(cfg)

    def __call__(self, x_ble, layer, table_re, document_bl, noise, keep_hidden=False):
        """(output, output or None): the pair that a scan over layers carries and stacks."""
        noise = noise and noise.at(layer)
        memory = self.attention.memory(x_ble, table_re, noise)
        y_ble = constrain(self.ask(x_ble, layer, memory, document_bl, noise), "batch", "length", "embed")
        return y_ble, y_ble if keep_hidden else None

    def memory(self, x_bke: jax.Array, table_re: jax.Array | None, noise: Noise | None) -> Memory:
        return self.attention.memory(x_bke, table_re, noise)

    def choose(self, memory: Memory, position_bp, select_bpk, document_bp) -> Chosen:
        return self.attention.choose(memory, position_bp, select_bpk, document_bp)

    def ask(
        self,
        x_bqe: jax.Array,
        layer: int | jax.Array,
        memory: Memory,
        document_bk: jax.Array,
        noise: Noise | None,
        chosen: Chosen | None = None,
    ) -> jax.Array:
        """The block's output for the query stream `x_bqe`, which is also its residual."""
        mixed_bqe = self.attention(x_bqe, memory, document_bk, noise, chosen)
        x_bqe = self.attention_norm(x_bqe + self._some_rows(mixed_bqe, layer, noise, SITE_ATTENTION_PATH))
        h_bqm = ACTIVATIONS[self.cfg.activation](self.mlp_in(x_bqe))
        h_bqm = constrain(h_bqm, "batch", "length" if chosen is None else "prediction", "mlp")
        y_bqe = dropout(self.mlp_out(h_bqm), self.cfg.hidden_dropout, noise and noise.at(SITE_MLP))
        return self.mlp_norm(x_bqe + self._some_rows(y_bqe, layer, noise, SITE_MLP_PATH))

    def _some_rows(self, branch_bqe: jax.Array, layer: int | jax.Array, noise: Noise | None, site: int) -> jax.Array:
        """Stochastic depth: layer n of N (from 1) drops a row's branch with probability n / N times the rate."""
        if self.cfg.stochastic_depth == 0:
            return branch_bqe
        rate = self.cfg.stochastic_depth * (layer + 1) / self.cfg.num_layers
        return drop_rows(branch_bqe, rate, noise and noise.at(site))


class Convolution(nn.Module):
    """v2's nGiE layer: a convolution over the stack's input, added to the first layer's output and normalised."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_ble, y_ble: jax.Array, document_bl: jax.Array, noise: Noise | None) -> jax.Array:
        """LayerNorm(y + act(dropout(convolution of x))), zero at padding; dropout before the activation as released."""
        cfg = self.cfg
        shape = (cfg.conv_kernel_size, cfg.hidden_size // cfg.conv_groups, cfg.hidden_size)
        kernel_kio = self.param("kernel", named(_conv_init, "taps", "embed", "mlp"), shape)
        bias_o = self.param("bias", named(nn.initializers.zeros, "mlp"), (cfg.hidden_size,))
        c_ble = convolve(x_ble, kernel_kio.astype(x_ble.dtype), bias_o, cfg.conv_groups, document_bl)
        c_ble = constrain(c_ble, "batch", "length", "embed")
        c_ble = ACTIVATIONS[cfg.conv_act](dropout(c_ble, cfg.hidden_dropout, noise))
        return LayerNorm(cfg, name="norm")(y_ble + c_ble) * (document_bl > 0)[..., None].astype(cfg.dtype)


class Encoder(nn.Module):
    """DeBERTa's backbone.

    Layers of one kind are scanned: all but the last, which the enhanced mask decoder uses on its own, and but the first
    where a convolution follows it.
    """

    cfg: ModelConfig
    origin: str = ""  # directory its weights were loaded from, which `save_pretrained` takes names and labels from
    frequent_id: int | None = None  # see Embeddings

    def setup(self):
        cfg = self.cfg
        self.embeddings = Embeddings(cfg, self.frequent_id)
        if cfg.pos_att_type:
            shape = (cfg.relative_rows, cfg.hidden_size)
            self.relative = self.param("relative", weight_init(cfg, "relative", "embed"), shape)
            if cfg.norm_rel_ebd == "layer_norm":
                self.relative_norm = LayerNorm(cfg)
        if cfg.conv_kernel_size:
            self.first = _block(cfg)(cfg)
            self.convolution = Convolution(cfg)
        if scanned_layers(cfg):
            self.blocks = _scanned(cfg)(cfg)
        self.last = Block(cfg)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        position_ids: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
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
        inputs = (input_ids, attention_mask, position_ids, token_type_ids)
        x_ble, states = self.below_last(*inputs, noise, keep_hidden=all_hidden_states)
        y_ble, _ = self.last(x_ble, self.cfg.num_layers - 1, self.table(), attention_mask, noise)
        return (y_ble, jnp.concatenate([*states, y_ble[None]])) if all_hidden_states else y_ble

    def noise(self, rows: jax.Array | None, input_ids: jax.Array, deterministic: bool) -> Noise | None:
        """The source of all dropout bits of one application; None when deterministic."""
        if deterministic:
            return None
        rows = jnp.arange(input_ids.shape[0]) if rows is None else rows
        return Noise(self.make_rng("dropout"), rows, hardware=self.cfg.dropout_bits == "hardware")

    def table(self) -> jax.Array | None:
        """The relative table [r, e], normalised in v2 and v3; shared by all layers."""
        if not self.cfg.pos_att_type:
            return None
        return self.relative_norm(self.relative) if self.cfg.norm_rel_ebd == "layer_norm" else self.relative

    def below_last(self, input_ids, attention_mask, position_ids, token_type_ids, noise, *, keep_hidden=False):
        """(input of the last layer [b, l, e], [embeddings, stacked outputs] or None)."""
        cfg = self.cfg
        if position_ids is None:
            position_ids = positions_of(input_ids, cfg, used=cfg.position_biased_input)
        embedding_noise = noise and noise.at(EMBEDDING_LAYER)
        e_ble = self.embeddings(input_ids, attention_mask > 0, position_ids, token_type_ids, embedding_noise)
        context = (self.table(), attention_mask, noise)
        x_ble, states = e_ble, [e_ble[None]]
        if cfg.conv_kernel_size:
            x_ble, _ = self.first(x_ble, 0, *context, False)
            x_ble = self.convolution(e_ble, x_ble, attention_mask, noise and noise.at(CONVOLUTION_LAYER))
            states.append(x_ble[None])
        if scanned_layers(cfg):
            layers = np.arange(cfg.num_layers - 1 - scanned_layers(cfg), cfg.num_layers - 1)
            x_ble, stacked = self.blocks(x_ble, layers, *context, keep_hidden)
            states.append(stacked)
        return x_ble, states if keep_hidden else None


def positions_of(input_ids: jax.Array, cfg: ModelConfig, *, used: bool) -> jax.Array:
    """[b, l]: each token's place in its row.

    Raises Refused where the absolute table is `used` and ends before the row does: the rest would be NaN.
    """
    length, rows = input_ids.shape[1], cfg.max_position_embeddings
    if used and length > rows:
        remedy = "decoder 'none' needs no table" if cfg.decoder == "emd" else "cut the rows"
        raise Refused(f"{length} tokens, but the absolute position table has {rows} rows; {remedy}")
    return jnp.broadcast_to(jnp.arange(input_ids.shape[1])[None], input_ids.shape)


def scanned_layers(cfg: ModelConfig) -> int:
    """How many layers are alike: neither followed by a convolution nor the last."""
    return cfg.num_layers - 1 - (cfg.conv_kernel_size > 0)


def _conv_init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """torch.nn.Conv1d's own: uniform within 1 / sqrt(fan in), which the released code leaves as it is."""
    bound = 1 / np.sqrt(shape[0] * shape[1])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _block(cfg: ModelConfig):
    if cfg.remat == "none":
        return Block
    return nn.remat(Block, policy=REMAT_POLICIES[cfg.remat], prevent_cse=False, static_argnums=(6,))


def _scanned(cfg: ModelConfig):
    """Block over the stacked layers: compile time is flat in depth, or without `scan_layers` grows with it."""
    return nn.scan(
        _block(cfg),
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
        length=scanned_layers(cfg),
        unroll=1 if cfg.scan_layers else scanned_layers(cfg),
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
