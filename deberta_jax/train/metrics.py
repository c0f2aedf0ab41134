"""From the device's sums to numbers for people."""

import math
from collections.abc import Callable
from typing import Any

import jax


def ratios(sums: dict[str, tuple[Any, Any]]) -> dict[str, float]:
    """sum / weight of each metric; those without weight (nothing was counted) are left out."""
    host = jax.device_get(sums)
    return {name: float(total) / float(weight) for name, (total, weight) in host.items() if weight > 0}


def perplexity(loss: float) -> float:
    """exp of a loss in nats; infinite beyond float range."""
    return math.inf if loss >= 700 else math.exp(loss)


class Lagged:
    """Holds one step's device values back, so that reading them never makes the device wait for Python."""

    def __init__(self, consume: Callable[..., None]):
        self._consume = consume
        self._held: tuple | None = None

    def push(self, *values: Any) -> None:
        """Consumes the values held so far and holds these."""
        self.flush()
        self._held = values

    def flush(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._consume(*held)
