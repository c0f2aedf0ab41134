"""How train.py and eval.py become one of several processes; what this file imports at its top needs no jax."""

import argparse
import atexit
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator

from deberta_jax import errors
from deberta_jax.dist import processes, supervise

ENDS_OF_ALL = (errors.Refused, errors.Diverged, errors.Stopped)
VERDICT = 10  # seconds more than a peer's timeout in which jax says who is gone


@contextlib.contextmanager
def joined(arguments: argparse.Namespace) -> Iterator[None]:
    """A context in which this process is one of its run's; jax must not have been imported before.

    Only the first process logs less than errors. Raises Refused for flags that do not make sense and where the others
    are not found; PeerDied and SystemExit where a child ran in this process's place.
    """
    wanted, parent = processes.processes_of(arguments, os.environ), supervise.parent_of_this()
    if wanted is not None and parent is None:
        supervise.supervise()
    from deberta_jax.dist import hosts

    hosts.join(wanted, parent)
    logging.basicConfig(format="%(message)s", level=logging.WARNING if hosts.is_lead() else logging.ERROR)
    try:
        with _word_awaited(wanted):
            yield
    except (Exception, KeyboardInterrupt) as error:
        if hosts.several():
            _leave(parent, error)
        raise
    if parent is not None:
        supervise.tell(parent, ended=(0, ""))


@contextlib.contextmanager
def _word_awaited(wanted: processes.Processes | None) -> Iterator[None]:
    """A collective that fails tells at once that some process is gone. Which one jax's coordinator knows a little
    later, and ends this process with it."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError:
        if wanted is not None:
            logging.exception("a collective failed; waiting for the word who is gone")
            time.sleep(wanted.peer_timeout + VERDICT)
        raise


def _leave(parent: socket.socket | None, error: BaseException) -> None:
    """Before an end with an error, of one of several processes.

    Where all end so (as they agreed, or from equal configs), jax waits at the end until all are there. One that fails by
    itself must not: it leaves at once, and the others see that it is gone.
    """
    is_ending = isinstance(error, errors.RunError)
    code = error.exit_code if is_ending else 1
    if parent is not None:
        supervise.tell(parent, ended=(code, errors.line_of(error) if is_ending else ""))
    if not isinstance(error, ENDS_OF_ALL):
        atexit.register(_exit_now, code)  # after jax's own, so it comes before


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
