"""Model FLOPs, for MFU: multiplications and additions of the model's definition, not of one implementation.

Matrix products only, 2 per multiply-add, training = 3 times the forward pass, no recomputation counted. The relative
table counts as 2 * position_buckets columns at every length (a convention, so that figures compare across lengths).
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
    n, p, d, f = length, predictions, cfg.hidden_size, cfg.intermediate_size
    table = 2 * cfg.position_buckets
    terms = len(cfg.pos_att_type)
    table_products = 2 * terms * table * d * d / rows
    layer = 8 * n * d * d + 4 * n * d * f + 4 * n * n * d + 2 * terms * n * table * d + table_products
    queries = 4 * p * d * d + 4 * p * d * f + 4 * p * n * d + 2 * ("c2p" in cfg.pos_att_type) * p * table * d
    passes = 2 if cfg.decoder == "emd" else 1
    last = 4 * n * d * d + 2 * ("p2c" in cfg.pos_att_type) * n * table * d + table_products + passes * queries
    head = 2 * p * d * d + 2 * p * d * cfg.vocab_rows
    return 3 * ((cfg.num_layers - 1) * layer + last + head)
