"""How train.py and eval.py become one of several processes; what this file imports at its top needs no jax."""

import argparse
import contextlib
import logging
import os
import time
from collections.abc import Iterator

from deberta_jax.dist import processes, supervise

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
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError:
        if not hosts.several():
            raise
        # A collective that fails tells at once that some process is gone. Which one jax's coordinator knows a little
        # later, and ends this process with it.
        logging.exception("a collective failed; waiting for the word who is gone")
        time.sleep(wanted.peer_timeout + VERDICT)
        raise
