"""Sums and weights, from the device to numbers for people."""

import math
from typing import Any

import jax

Sums = dict[str, tuple[Any, Any]]  # name -> (sum, weight); they add over micro-batches, devices and batches


def ratios(sums: Sums) -> dict[str, float]:
    """sum / weight of each metric; those without weight (nothing was counted) are left out."""
    host = jax.device_get(sums)
    return {name: float(total) / float(weight) for name, (total, weight) in host.items() if weight > 0}


def perplexity(loss: float) -> float:
    """exp of a loss in nats; infinite beyond float range."""
    return math.inf if loss >= 700 else math.exp(loss)
