"""Ends a process in which nothing moves any more, saying where it stood."""

import faulthandler
import os
import sys
import threading
import time

from deberta_jax.errors import PeerDied


class Watchdog:
    """A context that must see `beat` every so many minutes; otherwise it prints all stacks and ends the process.

    With 0 minutes it never does. A step that hangs cannot be ended otherwise: it hangs inside the device's runtime.
    """

    def __init__(self, minutes: float):
        self._seconds = minutes * 60
        self._beaten = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._seconds:
            self._thread.join()

    def beat(self) -> None:
        """Something moved."""
        self._beaten = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(min(self._seconds / 10, 10)):
            silent = time.monotonic() - self._beaten
            if silent > self._seconds:
                faulthandler.dump_traceback(all_threads=True)
                said = f"no step has ended for {silent / 60:.1f} minutes (watchdog_minutes); the stacks are above"
                print(f"{PeerDied.__name__.lower()}: {said}", file=sys.stderr, flush=True)
                os._exit(PeerDied.exit_code)
