"""A 7.7M-parameter DeBERTa on your own text, in 20 minutes on two CPU cores: configs/laptop.py, after

    python -m deberta_jax.tools.train_tokenizer --input='text/*.txt' --vocab_size=16000 --output=data/tokenizer
    python -m deberta_jax.tools.prepare --input='text/*.txt' --tokenizer=data/tokenizer --length=128 --output=data/rows
    python train.py --config=configs/laptop.py --workdir=runs/laptop

docs/results.md has what it reached on 51 MB of English Wikipedia.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Five million tokens, less than one pass: no dropout."""
    c = base.get_config("mini")
    c.steps = 1221  # x 32 x 128 = 5.0M tokens
    c.batch_size = 32
    c.log_every = 10
    c.model.dtype = "float32"  # bfloat16 is faster where the CPU has it (avx512_bf16, amx), far slower elsewhere
    c.model.hidden_dropout = 0.0
    c.model.attention_dropout = 0.0
    c.model.initializer_range = 0.04  # narrow layers: 0.02 is made for widths of 768 and more
    c.data.paths = ("data/rows",)
    c.data.read_threads = 1
    c.data.mask.unit = "token"
    c.data.mask.max_ngram = 1
    c.optimizer.learning_rate = 2e-3
    c.optimizer.warmup_steps = 100
    c.optimizer.schedule = "cosine"
    c.optimizer.b2 = 0.98
    c.eval.every = 0  # at the end
    c.eval.batch_size = 64
    c.checkpoint.every_steps = 0
    c.checkpoint.every_minutes = 5.0
    return c
