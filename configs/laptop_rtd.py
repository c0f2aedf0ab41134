"""Replaced token detection on two CPU cores, models of 7.7M and 5.9M parameters. With configs/laptop.py's data,

python train.py --config=configs/laptop_rtd.py --workdir=runs/laptop-rtd
"""

from ml_collections import ConfigDict

from configs import laptop, rtd


def get_config() -> ConfigDict:
    """Two million tokens."""
    c = rtd.as_pair(laptop.get_config())
    c.steps = 489  # x 32 x 128 = 2.0M tokens
    return c
