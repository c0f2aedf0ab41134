"""Model FLOPs, for MFU: multiplications and additions of the model's definition, not of one implementation.

Matrix products only, 2 per multiply-add, training = 3 times the forward pass, no recomputation counted. The relative
table counts with all its rows at every length (a convention, so that figures compare across lengths); position to
position, a vector per head, does not count.
"""

from deberta_jax.config import ModelConfig

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


def mlm_flops_per_row(cfg: ModelConfig, length: int, predictions: int, rows: int) -> float:
    """Training FLOPs of a row of `length` tokens, `predictions` of them predicted; a device computes `rows` at once."""
    n, p, d, f, e = length, predictions, cfg.hidden_size, cfg.intermediate_size, cfg.embedding_width
    a = cfg.num_heads * cfg.head_size  # width of the attention; d in every published model
    table = cfg.relative_rows
    c2p, p2c = "c2p" in cfg.pos_att_type, "p2c" in cfg.pos_att_type
    table_products = 2 * (c2p + p2c) * table * d * a / rows
    layer = 8 * n * d * a + 4 * n * d * f + 4 * n * n * a + 2 * (c2p + p2c) * n * table * a + table_products
    queries = 4 * p * d * a + 4 * p * d * f + 4 * p * n * a + 2 * c2p * p * table * a
    passes = 2 if cfg.decoder == "emd" else 1
    last = 4 * n * d * a + 2 * p2c * n * table * a + table_products + passes * queries
    head = 2 * p * d * e + 2 * p * e * cfg.vocab_rows
    convolution = 2 * n * cfg.conv_kernel_size * d * d / cfg.conv_groups
    projection = 2 * n * e * d if e != d else 0
    return 3 * ((cfg.num_layers - 1) * layer + last + head + convolution + projection)
