"""A parent for each process of a run with several: it says how the process ended, whatever ended it. Needs no jax.

When a process of a run is lost, jax ends the others with an abort deep inside its runtime: exit code 134 and a stack of
C++ below the one line that matters. So a program that is one of several runs itself once more, as a child, passes its
words and signals on, and has the last word: which process was lost, and exit code 5.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from deberta_jax.errors import PeerDied

CHILD = "DEBERTA_JAX_PARENT"  # in a child's environment: the socket to its parent
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
REMEMBERED = 1 << 16  # characters of what the child said last
# What the coordination service of jax says, in every version since 0.4 and in that of 0.10.
_SILENT = re.compile(r"stopped sending heartbeats\)?:\s*\n(.*?)\n?The tasks have crashed", re.DOTALL)
_FATAL = re.compile(r"JAX distributed service detected fatal errors")
_NOT_MET = re.compile(r"DEADLINE_EXCEEDED.*RegisterTask", re.DOTALL)
_AT_THE_END = re.compile(r"first task at the barrier: *(\d+)")  # it waits there for the others, who never come
_NO_COORDINATOR = re.compile(r"Failed to send RPC to coordination service|leader task was preempted", re.IGNORECASE)


def parent_of_this() -> socket.socket | None:
    """In a child the line to its parent; None in any other process. To be asked once: grandchildren are no children."""
    descriptor = os.environ.pop(CHILD, None)
    return None if descriptor is None else socket.socket(fileno=int(descriptor))


def supervise() -> None:
    """Runs this very command as a child and ends as it does.

    Raises PeerDied, naming the lost process, when jax ended the child because of it; SystemExit with the child's own
    exit code otherwise, 128 + n where signal n ended it.
    """
    ours, theirs = socket.socketpair()
    os.set_inheritable(theirs.fileno(), True)
    process = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {CHILD: str(theirs.fileno())},
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # Ctrl-C reaches the child once, from here
        stderr=subprocess.PIPE,
    )
    theirs.close()

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    said = _relayed(process)
    code = process.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    told = _told(ours)
    if code < 0 and "ended" in told:  # it had come to its end: what followed is jax waiting for the others
        code, line = told["ended"]
        if line:
            print(line, file=sys.stderr)
    if code == -signal.SIGABRT and _FATAL.search(said):
        raise PeerDied(verdict(said, told.get("hosts", [])))
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory, or somebody's kill -9)" if code == -signal.SIGKILL else ""
        print(f"failed: ended by {name}{hint}", file=sys.stderr)
    raise SystemExit(code if code >= 0 else 128 - code)


def lost_processes(said: str) -> list[int]:
    """The processes that jax's coordination service gave up, from what it printed; process 0 coordinates."""
    silent = {number for block in _SILENT.findall(said) for number in _numbers(block)}
    if not silent and _NO_COORDINATOR.search(said):
        return [0]
    return sorted(silent or {int(number) for number in _AT_THE_END.findall(said)})


def _numbers(block: str) -> Iterator[int]:
    """The last number of each line: "1", or "/job:jax_worker/replica:0/task:1"."""
    for line in block.splitlines():
        if numbers := re.findall(r"\d+", line):
            yield int(numbers[-1])


def verdict(said: str, hosts: list[str]) -> str:
    """What jax's last words mean: who is gone, as far as they tell."""
    lost = lost_processes(said)
    if not lost and _NOT_MET.search(said):
        return "the processes did not all find each other in 300 seconds: are all started, with the same address?"
    if not lost:
        return "another process is gone; start the same command again on every host"
    names = [f"process {number}" + (f" ({hosts[number]})" if number < len(hosts) else "") for number in lost]
    what = " and ".join(names) + (" is gone" if len(names) == 1 else " are gone")
    return f"{what}: its own last words say why; start the same command again on every host"


def _relayed(process: subprocess.Popen) -> str:
    """Passes the child's standard error on until it ends; its last words."""
    said = b""
    while chunk := process.stderr.read1():
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        said = (said + chunk)[-REMEMBERED:]
    if said and not said.endswith(b"\n"):  # a progress bar: what comes next is a line of its own
        print(file=sys.stderr, flush=True)
    return said.decode(errors="replace")


def _told(child: socket.socket) -> dict[str, Any]:
    """What the child told by `tell`; nothing where it never came so far."""
    text = b""
    while chunk := child.recv(REMEMBERED):
        text += chunk
    return {name: value for line in text.splitlines() for name, value in json.loads(line).items()}


def tell(parent: socket.socket, **said: Any) -> None:
    """From a child to its parent: `hosts`, that of each process of the run; `ended`, (exit code, last line or "")."""
    parent.sendall(json.dumps(said).encode() + b"\n")


def die_with(parent: socket.socket) -> None:
    """Ends this process as soon as its parent is gone, however that ended."""
    threading.Thread(target=_wait_for_end, args=(parent,), daemon=True, name="parent").start()


def _wait_for_end(parent: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):  # as the end is called where the parent had not read all
        parent.recv(1)  # nothing is ever sent: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGKILL)
