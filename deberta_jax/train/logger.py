"""Where a run's numbers go. A logger is anything with the three methods of `Logger`; the loop knows no more.

    scalars(step, values)      numbers after `step` optimizer steps
    text(step, name, text)     words, e.g. fill-mask samples
    close()

Every logger here is told at which step the run starts, so that a resumed run leaves what an uninterrupted one leaves.
"""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tqdm import tqdm

from deberta_jax.errors import Failed, Refused

SHOWN = ("loss", "accuracy", "eval/loss", "eval/accuracy", "tokens_per_second")  # on the progress bar
QUIET_SECONDS = 30  # between two states of the bar where nobody is watching
FLUSH_SECONDS = 60  # until TensorBoard sees what was written


class Logger(Protocol):
    """What the training loop writes to."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raises Failed, with the path and the reason, where the disk refuses."""
    try:
        yield
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from error


class JsonLines:
    """One JSON object a line, each with its "step". A non-finite number is written as null: JSON has no NaN."""

    def __init__(self, path: str | Path, start: int):
        """Appends to `path`, without what an earlier process wrote there after step `start`; afresh where `start` is 0.

        Raises Refused for a line that is not JSON.
        """
        self._path = Path(path)
        _keep_until(self._path, start)
        self._file = self._path.open("a", buffering=1)  # by line: whoever follows the file sees each step at once

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._write({"step": step} | {key: _json_number(value) for key, value in values.items()})

    def text(self, step: int, name: str, text: str) -> None:
        self._write({"step": step, name: text})

    def close(self) -> None:
        with _named(self._path):
            self._file.close()

    def _write(self, values: dict) -> None:
        with _named(self._path):
            self._file.write(json.dumps(values, allow_nan=False) + "\n")


def _json_number(value: float) -> int | float | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def _keep_until(path: Path, start: int) -> None:
    """Rewrites `path` with its lines up to step `start` only; a killed process may have left half a line at the end."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True) if start else []
    kept = [line for number, line in enumerate(lines, 1) if line.endswith("\n") and _step(line, path, number) <= start]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)


def _step(line: str, path: Path, number: int) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{path} line {number} is no JSON object with a step: {line[:60]!r}") from error


class TensorBoard:
    """TensorBoard events, written without TensorFlow; later events of an interrupted run are hidden.

    Written here and not by tensorboardX's SummaryWriter: when its thread dies of a full disk, the run waits for ever.
    """

    def __init__(self, directory: str | Path, start: int):
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"  # as TensorBoard looks for
        self._file = RecordWriter(str(self._directory / name))
        self._flushed = time.monotonic()
        self._write(Event(file_version="brain.Event:2"))
        if start:
            self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(key, value)))

    def text(self, step: int, name: str, text: str) -> None:
        as_code = "    " + text.replace("\n", "\n    ")  # TensorBoard reads Markdown; a code block keeps the lines
        self._write(Event(step=step, summary=summary.text(name, as_code)))

    def close(self) -> None:
        with _named(self._directory):
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with _named(self._directory):
            self._file.write(event.SerializeToString())
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                self._file.flush()
                self._flushed = time.monotonic()


class Progress:
    """A bar on standard error with the newest numbers, the rate and the time left."""

    def __init__(self, total: int, start: int):
        wait = 0.2 if sys.stderr.isatty() else QUIET_SECONDS
        self._bar = tqdm(total=total, initial=start, unit="step", mininterval=wait, maxinterval=max(wait, 10))
        self._shown: dict[str, str] = {}

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._shown |= {key: f"{values[key]:.4g}" for key in SHOWN if key in values}
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def text(self, step: int, name: str, text: str) -> None:
        tqdm.write(f"{name} at step {step}:\n{text}", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class Loggers:
    """Several loggers as one."""

    def __init__(self, loggers: Sequence[Logger]):
        self._loggers = tuple(loggers)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for logger in self._loggers:
            logger.scalars(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        for logger in self._loggers:
            logger.text(step, name, text)

    def close(self) -> None:
        """Closes every one, also after an error in another."""
        with contextlib.ExitStack() as closing:
            for logger in reversed(self._loggers):
                closing.callback(logger.close)
