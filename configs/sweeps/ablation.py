"""The ablation of the paper (DeBERTa, section 5.3), small: what each part of the model is worth on real text.

    python -m deberta_jax.tools.train_tokenizer --input='text/train*.txt' --vocab_size=4096 --output=data/tokenizer
    python -m deberta_jax.tools.prepare --input='text/train*.txt' --tokenizer=data/tokenizer --length=128 \
        --output=data/rows
    python -m deberta_jax.tools.prepare --input='text/valid.txt' --tokenizer=data/tokenizer --length=128 --holdout=0% \
        --output=data/valid
    python -m deberta_jax.tools.sweep --config=configs/sweeps/ablation.py --metric=eval/loss:min --parallel=2 \
        --workdir=runs/ablation
"""

from ml_collections import ConfigDict

from configs import base

SEEDS = (0, 1, 2)
VARIATIONS = {
    "full": {},
    "no_emd": {"model.decoder": "none"},
    "no_c2p": {"model.pos_att_type": ("p2c",)},
    "no_p2c": {"model.pos_att_type": ("c2p",)},
    "no_c2p_p2c": {"model.pos_att_type": ()},
    "bert": {"model.pos_att_type": (), "model.decoder": "none", "model.position_biased_input": True},
    "linear_positions": {"model.position_buckets": 0},
    "convolution": {"model.conv_kernel_size": 3},
}


def get_config() -> ConfigDict:
    """The full model: 4 layers of 256, a million tokens, no dropout."""
    c = base.get_config("mini")
    c.steps = 976  # x 8 x 128 = 999,424 tokens
    c.batch_size = 8
    c.log_every = 16
    c.model.dtype = "float32"
    c.model.position_buckets = 64  # the released 256 of 512, at length 128
    c.model.max_relative_positions = 128
    c.model.max_position_embeddings = 128
    c.model.hidden_dropout = 0.0
    c.model.attention_dropout = 0.0
    c.model.initializer_range = 0.04  # narrow layers: 0.02 is made for widths of 768 and more
    c.data.paths = ("data/rows",)
    c.data.read_threads = 1
    c.data.mask.unit = "token"
    c.data.mask.max_ngram = 1
    c.optimizer.learning_rate = 1.5e-3
    c.optimizer.warmup_steps = 100
    c.optimizer.schedule = "cosine"
    c.optimizer.b2 = 0.98
    c.eval.every = 0  # at the end
    c.eval.paths = ("data/valid",)
    c.eval.max_rows = 2048
    c.eval.batch_size = 64
    c.checkpoint.every_steps = 0
    c.checkpoint.every_minutes = 3.0
    return c


def get_sweep() -> list[dict]:
    """Every variation with every seed, seed by seed."""
    return [
        {"name": f"{name},seed={seed}", "seed": seed} | values for seed in SEEDS for name, values in VARIATIONS.items()
    ]
