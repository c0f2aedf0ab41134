"""Trials on this machine, some at a time, each with its share of the cores and GPUs."""

import glob
import itertools
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from deberta_jax.dist.processes import cluster_of
from deberta_jax.errors import Refused
from deberta_jax.sweep.process import Start
from deberta_jax.sweep.trial import Record, Trial

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GPUS = "CUDA_VISIBLE_DEVICES"
GPU_PREFIX = "/dev/nvidia"
REFRESH = 0.5  # seconds between looks at the trials


class Part(NamedTuple):
    """What of this machine a trial may use."""

    cores: frozenset[int]  # empty = all
    gpus: str | None  # CUDA_VISIBLE_DEVICES; None = as it is


def parts_of_machine(workers: int, environment: Mapping[str, str]) -> list[Part]:
    """The machine in as many parts. Raises Refused where its accelerators cannot be divided so."""
    if workers < 1:
        raise Refused(f"--parallel must be at least 1, got {workers}")
    if workers == 1:
        return [Part(frozenset(), None)]
    if cluster_of(environment) == "tpu":
        raise Refused("--parallel=1 on a TPU host: its chips belong to one process at a time")
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    gpus = gpus_of(environment)
    if gpus and workers > len(gpus):
        raise Refused(f"--parallel={workers}, but this machine has {len(gpus)} GPUs: at most one trial a GPU")
    return [
        Part(
            frozenset(_share(cores, number, workers)) if len(cores) >= workers else frozenset(),
            ",".join(_share(gpus, number, workers)) if gpus else None,
        )
        for number in range(workers)
    ]


def gpus_of(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process started here would use."""
    platforms = environment["JAX_PLATFORMS"].split(",") if "JAX_PLATFORMS" in environment else []
    if any(platforms) and not {"cuda", "gpu"} & set(platforms):
        return []
    if GPUS in environment:
        return list(itertools.takewhile(_is_gpu, environment[GPUS].split(",")))
    numbers = (path.removeprefix(GPU_PREFIX) for path in glob.glob(f"{GPU_PREFIX}[0-9]*"))
    return sorted(filter(str.isdigit, numbers), key=int)


def _is_gpu(entry: str) -> bool:
    """Of CUDA_VISIBLE_DEVICES: a number, or a GPU-... or MIG-...; -1 and anything else end the list."""
    return entry.strip().isdigit() or entry.startswith(("GPU-", "MIG-"))


def _share(things: Sequence, number: int, parts: int) -> Sequence:
    """Part number `number`: neighbours, which share caches and links."""
    return things[number * len(things) // parts : (number + 1) * len(things) // parts]


def run_here(
    trials: Sequence[Trial], workdir: Path, workers: int, show: Callable[[], None]
) -> tuple[dict[str, Record], bool]:
    """Starts each trial once, `workers` at a time; returns their records by name and whether a signal came.

    After a signal no trial is begun, and those that run are asked to save and end. `show` is called now and then.
    """
    parts: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in parts_of_machine(workers, os.environ):
        parts.put(part)
    with Signals() as signals, ThreadPoolExecutor(workers) as pool:
        running: dict[str, Future[Record]] = {}
        for trial in trials:
            running[trial.name] = pool.submit(_run_on_a_part, trial, workdir / trial.name, parts, signals)
        while wait_for(running.values(), timeout=REFRESH).not_done:
            show()
        return {name: future.result() for name, future in running.items()}, signals.came.is_set()


def _run_on_a_part(trial: Trial, folder: Path, parts: queue.SimpleQueue, signals: "Signals") -> Record:
    part = parts.get()
    environment = os.environ if part.gpus is None else os.environ | {GPUS: part.gpus}
    start = Start(trial, folder, environment, part.cores)
    try:
        return signals.watching(start)
    finally:
        parts.put(part)


class Signals:
    """Passes SIGTERM, Ctrl-C and the end of the terminal on to the runs, which save their states, and remembers them.

    Signals that the process was started to ignore, as nohup does, stay ignored.
    """

    def __init__(self):
        self.came = threading.Event()
        self._starts: set[Start] = set()

    def __enter__(self) -> "Signals":
        heeded = (number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
        self._previous = {number: signal.signal(number, self._pass_on) for number in heeded}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def watching(self, start: Start) -> Record:
        """Runs `start`, and stops it where a signal comes or has come; a full disk or lost folder stops it alone."""
        self._starts.add(start)
        try:
            if self.came.is_set():
                start.stop()
            return start.run()
        except OSError as error:
            return start.lost(error)
        finally:
            self._starts.discard(start)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.came.set()
        for start in list(self._starts):
            start.stop()
