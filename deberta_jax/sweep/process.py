"""One start of a trial: train.py in a process of its own, its output in log.txt, its end in trial.json."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from deberta_jax.reports.last_words import error_in
from deberta_jax.sweep.trial import DONE, LOG, RUNNING, STOPPED, Record, Trial, record_of, state_after, write_record

LOCK = "trial.lock"  # held by the process of a trial, which may outlive the sweep's
POLL = 0.1  # seconds
STOPPED_BEFORE = "it was stopped before it began"


class Start:
    """A start of a trial, which another thread may stop."""

    def __init__(self, trial: Trial, folder: Path, environment: Mapping[str, str], cores: frozenset[int]):
        self.trial, self.folder = trial, folder
        self._environment = dict(environment)
        self._cores = cores  # that the process may run on; empty = all
        self._process: subprocess.Popen | None = None
        self._stopping = False

    def run(self) -> Record:
        """Trains to the end, or until `stop`; the record is on disk as well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _alone(self.folder / LOCK, lambda: self._stopping) as lock:
            if lock is None or self._stopping:
                return record_of(self.trial, STOPPED, None, STOPPED_BEFORE, None)
            self._began = time.perf_counter()
            write_record(self.folder, record_of(self.trial, RUNNING, None, "", None))
            with (self.folder / LOG).open("w") as log:
                self._start(log, lock)
            while self.alive():  # `wait` would keep a signal's handler from waiting for the end, too
                time.sleep(POLL)
            return self.note_end()

    def stop(self) -> None:
        """Asks the run to save its state and end."""
        self._stopping = True
        if self.alive():
            self._process.send_signal(signal.SIGTERM)

    def lost(self, error: OSError) -> Record:
        """The record of a start whose own files could not be written or read; it is on disk if that can be.

        The process ends first, if there is one.
        """
        self.stop()
        while self.alive():
            time.sleep(POLL)
        record = record_of(self.trial, STOPPED, None, f"{words_of(error)}; the same command goes on with it", None)
        with contextlib.suppress(OSError):
            write_record(self.folder, record)
        return record

    def begun(self) -> bool:
        """Whether the process was started."""
        return self._process is not None

    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.begun() and self._process.poll() is None

    def note_end(self) -> Record:
        """The record of the process that has ended, written beside its log."""
        code = self._process.returncode
        state = state_after(code)
        error = "" if state == DONE else error_in((self.folder / LOG).read_text(errors="replace"))
        if code < 0:
            error = f"ended by signal {-code} ({signal.strsignal(-code)}); the same command goes on with it"
        seconds = round(time.perf_counter() - self._began, 1)
        record = record_of(self.trial, state, code, error, seconds)
        write_record(self.folder, record)
        return record

    def _start(self, log: TextIO, lock: int) -> None:
        """Begins train.py.

        It has a process group of its own: a terminal sends Ctrl-C to the whole group of the sweep, and a run takes a
        second signal for the wish to end at once.
        """
        command = [sys.executable, "train.py", *self.trial.flags, f"--workdir={self.folder}"]
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        kept = {"env": self._environment, "pass_fds": (lock,)}
        self._process = subprocess.Popen(command, process_group=0, **kept, **streams)
        if self._cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self._process.pid, self._cores)
        if self._stopping:  # while it was being started
            self.stop()


def words_of(error: OSError) -> str:
    """No space left on device: FILE."""
    return f"{error.strerror or error}: {error.filename or 'a file that was being written'}"


@contextlib.contextmanager
def _alone(path: Path, stopping: Callable[[], bool]) -> Iterator[int | None]:
    """A locked descriptor, waited for; None once `stopping()`.

    The process of a trial inherits it: where a sweep was killed and its trials were not, the next sweep waits for them.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not (locked := _try_lock(descriptor)) and not stopping():
            time.sleep(POLL)
        yield descriptor if locked else None
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def held(folder: Path) -> bool:
    """Whether the process of a trial, of this sweep or of one before, is alive in `folder`."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except FileNotFoundError:
            return False
        stack.callback(os.close, descriptor)
        return not _try_lock(descriptor)
