"""A tiny DeBERTa on the documentation strings of Python's standard library.

    make quickstart

2 CPU cores, about two and a half minutes of training after installation; needs no network but the package index.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """The quickstart run: everything that makes a DeBERTa, small."""
    c = base.get_config("tiny")
    c.steps = 600
    c.batch_size = 32
    c.model.dtype = "float32"  # bfloat16 is slow on CPUs
    c.model.hidden_dropout = 0.0
    c.model.attention_dropout = 0.0
    c.data.paths = ("runs/quickstart/data",)
    c.data.read_threads = 1
    c.data.mask.unit = "token"
    c.data.mask.max_ngram = 1
    c.optimizer.learning_rate = 2e-3
    c.optimizer.warmup_steps = 60
    c.optimizer.schedule = "cosine"
    c.optimizer.b2 = 0.98
    c.eval.every = 200
    c.eval.batch_size = 32
    c.checkpoint.every_steps = 300
    c.checkpoint.every_minutes = 0.0
    return c
