"""train.py in a process that sends itself a real signal at a chosen moment, and notes which rows each step was given.

    python tests/troubled_train.py SIGTERM compiling NOTES --config=... --workdir=...

In place of a signal: FULL (from then on the system writes no file beyond 64 KB), DAMAGED:DIRECTORY (the files under it
are emptied) and EIO (what the system says of a disk that is gone). Moments: never, compiling, training:N (batch N, from
0, is read; it is 1 without a number), evaluating, saving, and saved:N (step N is complete on disk).
"""

import errno
import functools
import json
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax  # noqa: E402

import train  # noqa: E402
from deberta_jax import errors  # noqa: E402
from deberta_jax.train import checkpoint, loop, pretrain  # noqa: E402


def strike_while_compiling(strike: Callable[[], None]) -> None:
    """Strikes from another thread, shortly after XLA was given the training step."""

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Compiling jit(train_step)" in record.getMessage():
                threading.Timer(0.1, strike).start()

    jax.config.update("jax_log_compiles", True)
    logging.getLogger("jax").addHandler(Watch())


def strike_at_entry(strike: Callable[[], None], number: int, module, name: str, argument: int) -> None:
    """Strikes when the iterator that `module.name` takes as its positional `argument` gives entry `number`, from 0."""
    original = getattr(module, name)

    def struck(entries):
        for index, entry in enumerate(entries):
            if index == number:
                strike()
            yield entry

    def wrapper(*arguments):
        arguments = list(arguments)
        arguments[argument] = struck(arguments[argument])
        return original(*arguments)

    setattr(module, name, wrapper)


def strike_around_seal(strike: Callable[[], None], step: str) -> None:
    """Strikes before any step's digest is written, or once that of `step` is."""
    original = checkpoint.seal

    def seal(directory: Path) -> None:
        if not step:
            strike()
        original(directory)
        if directory.name == step:
            strike()

    checkpoint.seal = seal


def note_examples(notes: Path) -> None:
    """Appends the example numbers of each batch that the loop takes as a line to `notes`."""
    original = loop._placed_ahead

    def noted(*arguments):
        for batch, examples in original(*arguments):
            with notes.open("a") as file:
                file.write(json.dumps(examples.tolist()) + "\n")
            yield batch, examples

    loop._placed_ahead = noted


def lose_the_disk() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "rows/train-00000.array_record")


def strike_of(name: str) -> Callable[[], None]:
    """What happens at the moment."""
    name, _, directory = name.partition(":")
    if name == "FULL":
        return functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    if name == "EIO":
        return lose_the_disk
    if name == "DAMAGED":
        return lambda: [os.truncate(path, 0) for path in Path(directory).rglob("*") if path.is_file()]
    return functools.partial(os.kill, os.getpid(), signal.Signals[name])


def main(name: str, moment: str, notes: str) -> None:
    note_examples(Path(notes))
    strike = strike_of(name)
    moment, _, number = moment.partition(":")
    if moment == "compiling":
        strike_while_compiling(strike)
    elif moment == "training":
        strike_at_entry(strike, int(number or 1), loop, "_placed_ahead", 1)
    elif moment == "evaluating":
        strike_at_entry(strike, 1, pretrain, "evaluate", 2)
    elif moment in ("saving", "saved"):
        strike_around_seal(strike, number)


if __name__ == "__main__":
    main(*sys.argv[1:4])
    sys.exit(errors.run(train.main, sys.argv[4:]))
