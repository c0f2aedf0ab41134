"""Replaced token detection on two CPU cores, models of 7.7M and 5.9M parameters. With configs/laptop.py's data,

    python train.py --config=configs/laptop_rtd.py --config.model.dtype=bfloat16 --workdir=runs/laptop-rtd

takes 13 minutes where the CPU has avx512_bf16, and the same with --config.steps=1464 afterwards 8 more. On replaced
tokens of held-out Wikipedia it then reaches an F1 of 0.40 to 0.44, 1.6 to 1.7 times what always saying "replaced" gets
(docs/results.md).
"""

from ml_collections import ConfigDict

from configs import laptop, rtd


def get_config() -> ConfigDict:
    """Two million tokens in small steps, and a generator that learns slowly: see docs/results.md."""
    c = rtd.as_pair(laptop.get_config())
    c.batch_size = 16
    c.steps = 976  # x 16 x 128 = 2.0M tokens
    c.optimizer.learning_rate = 1e-3
    c.rtd.optimizer.learning_rate = 1e-4  # at the discriminator's rate it is ahead, and nothing it draws is found
    c.eval.every = 122
    return c
