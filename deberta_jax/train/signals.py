"""SIGTERM and SIGINT become a wish to stop that the loop honours between steps."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 1.0  # seconds in which a second signal is the first once more: schedulers tell every process, parents too


class StopRequest:
    """A context in which the first signal is remembered and a later one acts as it always did."""

    def __init__(self):
        self.name = ""  # of the signal; "" while nobody has asked
        self._asked = 0.0

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _remember(self, number: int, _: FrameType | None) -> None:
        if not self.name:
            self.name, self._asked = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._asked > ECHO:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
