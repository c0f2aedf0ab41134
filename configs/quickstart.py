"""A tiny DeBERTa on the documentation strings of Python's standard library.

    make quickstart

2 CPU cores, about two and a half minutes of training after installation; needs no network but the package index.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The quickstart run: everything that makes a DeBERTa, small."""
    c = base.get_config("tiny")
    c.steps = 1200  # x 32 x 64 = 2.5M tokens, six passes
    c.batch_size = 32
    c.model.dtype = "float32"  # bfloat16 is faster where the CPU has it (avx512_bf16, amx), far slower elsewhere
    c.model.hidden_dropout = 0.0
    c.model.attention_dropout = 0.0
    c.model.initializer_range = 0.06  # 0.02 is made for widths of 768 and more: it doubles the steps to the same loss
    c.data.paths = ("runs/quickstart/data",)
    c.data.read_threads = 1
    c.data.mask.unit = "token"
    c.data.mask.max_ngram = 1
    c.optimizer.learning_rate = 3e-3
    c.optimizer.warmup_steps = 60
    c.optimizer.schedule = "cosine"
    c.optimizer.b2 = 0.98
    c.eval.every = 400
    c.eval.batch_size = 64
    c.checkpoint.every_steps = 400
    c.checkpoint.every_minutes = 0.0
    return c
