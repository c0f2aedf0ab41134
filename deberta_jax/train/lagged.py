"""Reading device values without making the device wait."""

from collections.abc import Callable
from typing import Any


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
