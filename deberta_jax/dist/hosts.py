"""The processes of a run, one on each host: joining them, and what they must agree on.

Everything here is called by all processes in the same order, and returns at once where there is only one. Processes
talk as the devices do, through jax: there is no other channel.
"""

import json
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deberta_jax import errors
from deberta_jax.dist import supervise
from deberta_jax.dist.processes import Processes
from deberta_jax.errors import Refused, RunError

NAME_BYTES = 64  # of a host's name that the others learn
FAULT_BYTES = 512  # of what is wrong on a host
T = TypeVar("T")


def join(processes: Processes | None, parent: socket.socket | None) -> None:
    """Joins the other processes, before anything else is asked of jax. With None this one is by itself.

    Raises Refused where the others cannot be found.
    """
    if processes is None:
        return
    # SIGTERM is the loop's: it saves where jax's own notifier would only tell.
    jax.config.update("jax_enable_preemption_service", False)
    *who, timeout = processes
    try:
        jax.distributed.initialize(*who, heartbeat_timeout_seconds=timeout, shutdown_timeout_seconds=timeout)
    except (RuntimeError, ValueError) as error:
        raise Refused(f"the other processes cannot be joined: {str(error).splitlines()[0]}") from error
    if parent is not None:
        supervise.die_with(parent)
        supervise.tell(parent, hosts=names())


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def is_lead() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def names() -> list[str]:
    """The name of each process's host."""
    return gathered(socket.gethostname(), NAME_BYTES)


def gathered(text: str, size: int) -> list[str]:
    """The text of every process, in their order; of each at most `size` bytes."""
    if not several():
        return [text]
    own = np.zeros(size, np.uint8)
    data = np.frombuffer(text.encode()[:size], np.uint8)
    own[: len(data)] = data
    found = multihost_utils.process_allgather(own)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in np.asarray(found, np.uint8)]


def wait_for_all(name: str) -> None:
    """Returns once every process is here."""
    if several():
        multihost_utils.sync_global_devices(name)


def by_lead(function: Callable[[], Any]) -> Any:
    """What `function` returns on the lead, on every process: something that JSON holds.

    It runs on the lead alone. A RunError that it raises there is raised everywhere.
    """
    if not several():
        return function()
    answer = _answer(function) if is_lead() else {}
    length, data = _sent(json.dumps(answer).encode())
    answer = json.loads(bytes(data[:length]))
    if "error" in answer:
        raise _ENDINGS[answer["error"]](answer["said"])
    return answer["value"]


_ENDINGS = {kind.__name__: kind for kind in (errors.Failed, errors.Refused, errors.DoesNotFit, errors.Diverged)}


def _answer(function: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": function()}
    except RunError as error:
        return {"error": type(error).__name__, "said": str(error)}


def _sent(data: bytes) -> tuple[int, np.ndarray]:
    """(length, at least so many bytes) of the lead's `data`."""
    length = int(multihost_utils.broadcast_one_to_all(np.int64(len(data))))
    room = np.zeros(length, np.uint8)
    if is_lead():
        room[:] = np.frombuffer(data, np.uint8)
    return length, np.asarray(multihost_utils.broadcast_one_to_all(room), np.uint8)


def together(function: Callable[[], T]) -> T:
    """What `function` returns, on every process. Raises Refused on all, naming hosts, when it raised Refused on any.

    Where most are refused it is the lead, which they compare with, that is probably the odd one.
    """
    if not several():
        return function()
    fault, found = "", None
    try:
        found = function()
    except Refused as error:
        fault = str(error)
    faults = gathered(fault, FAULT_BYTES)
    wrong = [number for number, fault in enumerate(faults) if fault]
    if wrong:
        raise Refused(_said(wrong, faults, names()))
    return found


def _said(wrong: list[int], faults: list[str], hosts: list[str]) -> str:
    """One line for whatever number of hosts: each kind of fault once."""
    kinds: dict[str, list[int]] = {}
    for number in wrong:
        kinds.setdefault(faults[number], []).append(number)
    told = [f"{_listed(numbers, hosts)}: {fault}" for fault, numbers in kinds.items()]
    lead_is_odd = 0 not in wrong and len(wrong) > len(hosts) / 2
    return "; ".join(told) + (f"; so it may be process 0 ({hosts[0]}) that is odd" if lead_is_odd else "")


def _listed(numbers: list[int], hosts: list[str]) -> str:
    some = ", ".join(f"{number} ({hosts[number]})" for number in numbers[:3])
    more = f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    return f"process {some}{more}"


class Agreement:
    """Turns the wish of any process into a decision of all, one call later: nothing waits for a network.

    All processes call it equally often, between steps. By itself a process gets its wish at once.
    """

    def __init__(self):
        self._asked: jax.Array | None = None
        if several():
            every = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(AxisType.Auto,))
            self._by_device = NamedSharding(every, PartitionSpec("device"))
            self._any = jax.jit(lambda wishes: wishes.any(), out_shardings=NamedSharding(every, PartitionSpec()))

    def __call__(self, wish: bool) -> bool:
        """Whether any process wished at the last call, or, by itself, whether this one wishes."""
        if not several():
            return wish
        decided = self._asked is not None and bool(self._asked)
        own = np.full(jax.local_device_count(), wish and not decided)
        self._asked = self._any(jax.make_array_from_process_local_data(self._by_device, own))
        return decided
