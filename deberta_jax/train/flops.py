"""Model FLOPs, for MFU: multiplications and additions of the model's definition, not of one implementation.

Matrix products only, 2 per multiply-add, training = 3 times the forward pass, no recomputation counted. The relative
table counts with all its rows at every length (a convention, so that figures compare across lengths); position to
position, a vector per head, does not count.
"""

from deberta_jax.config import Config, ModelConfig

# Vendor dense bfloat16 peaks, FLOP/s per JAX device.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def flops_per_row(config: Config, length: int, predictions: int, rows: int) -> float:
    """Training FLOPs of a row of `length` tokens, `predictions` of them predicted; a device computes `rows` at once."""
    if config.rtd is None:
        return mlm_flops_per_row(config.model, length, predictions, rows)
    generator = mlm_flops_per_row(config.rtd.generator, length, predictions, rows)
    return generator + detector_flops_per_row(config.model, length, rows)


def mlm_flops_per_row(cfg: ModelConfig, length: int, predictions: int, rows: int) -> float:
    """Of a masked language model."""
    n, p, d, f, e = length, predictions, cfg.hidden_size, cfg.intermediate_size, cfg.embedding_width
    a = cfg.num_heads * cfg.head_size  # width of the attention; d in every published model
    table = cfg.relative_rows
    c2p, p2c = "c2p" in cfg.pos_att_type, "p2c" in cfg.pos_att_type
    queries = 4 * p * d * a + 4 * p * d * f + 4 * p * n * a + 2 * c2p * p * table * a
    passes = 2 if cfg.decoder == "emd" else 1
    last = 4 * n * d * a + 2 * p2c * n * table * a + _table_products(cfg, rows) + passes * queries
    head = 2 * p * d * e + 2 * p * e * cfg.vocab_rows
    return 3 * ((cfg.num_layers - 1) * _layer(cfg, n, rows) + last + head + _around_layers(cfg, n))


def detector_flops_per_row(cfg: ModelConfig, length: int, rows: int) -> float:
    """Of a discriminator, which judges every token."""
    n, d = length, cfg.hidden_size
    head = 2 * n * d * d + 2 * n * d
    return 3 * (cfg.num_layers * _layer(cfg, n, rows) + head + _around_layers(cfg, n))


def _layer(cfg: ModelConfig, n: int, rows: int) -> float:
    d, f, a, table = cfg.hidden_size, cfg.intermediate_size, cfg.num_heads * cfg.head_size, cfg.relative_rows
    terms = ("c2p" in cfg.pos_att_type) + ("p2c" in cfg.pos_att_type)
    products = 8 * n * d * a + 4 * n * d * f + 4 * n * n * a + 2 * terms * n * table * a
    return products + _table_products(cfg, rows)


def _table_products(cfg: ModelConfig, rows: int) -> float:
    """A row's share of projecting the relative table."""
    terms = ("c2p" in cfg.pos_att_type) + ("p2c" in cfg.pos_att_type)
    return 2 * terms * cfg.relative_rows * cfg.hidden_size * cfg.num_heads * cfg.head_size / rows


def _around_layers(cfg: ModelConfig, n: int) -> float:
    """The convolution and the projection of narrow embeddings."""
    d, e = cfg.hidden_size, cfg.embedding_width
    convolution = 2 * n * cfg.conv_kernel_size * d * d / cfg.conv_groups
    return convolution + (2 * n * e * d if e != d else 0)
