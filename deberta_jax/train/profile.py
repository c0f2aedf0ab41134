"""A profiler trace of chosen steps, for TensorBoard or Perfetto."""

from pathlib import Path
from typing import Any

import jax


class Profile:
    """Traces the steps [first, end) into `directory`; with () it does nothing."""

    def __init__(self, steps: tuple[int, ...], directory: Path):
        self._steps = steps
        self._directory = directory
        self._running = False

    def at(self, step: int, state: Any) -> None:
        """Called before each step with the state so far, which is waited for: steps are dispatched ahead."""
        if self._steps and step in self._steps:
            jax.block_until_ready(state)
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._directory)
            self._running = True
        if self._running and step >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
