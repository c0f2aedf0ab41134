"""XLA's compiler for TPUs that are not there (requirements-libtpu.txt), and what it writes about a program.

It dumps text, because `Compiled.as_text` fails where v5p and v6e gather beside the TensorCore (jaxlib 0.10.2 does not
know such instructions of libtpu 0.0.51), and because a program that does not fit leaves nothing else.
"""

import importlib.util
import multiprocessing
import os
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from deberta_jax.config import RunConfig
from deberta_jax.errors import Failed, Refused
from deberta_jax.objectives import Lexicon
from deberta_jax.train.build import build_run
from deberta_jax.train.shapes import masked_batch

_WITH_ONE_CORE = {"v4": {"chip_config_name": "megacore"}}  # both cores of a chip as one device, as JAX runs it
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
_ROOM = re.compile(r"available HBM \(([\d.]+)G\)|of ([\d.]+)G hbm")
_FITS, _TOO_LARGE = "after_optimizations_after_buffer_assignment.txt", "oom_intermediate_module.txt"
POLL_SECONDS = 0.2


DUMPS = {
    "program": "after_optimizations_before_buffer_assignment.txt",
    "assigned": "after_optimizations.txt",
    "buffers": "after_optimizations-buffer-assignment.txt",
}


class Job(NamedTuple):
    """A training step to compile; it can travel to another process."""

    config: RunConfig
    known: Lexicon
    topology: str
    slices: int
    length: int  # of rows

    def lower(self) -> jax.stages.Lowered:
        run = build_run(self.config, self.known, devices(self.topology, self.slices))
        return run.train_step.lower(run.abstract, masked_batch(run, self.length))


class Compilation(NamedTuple):
    """What the compiler made of a step, as far as it was let go."""

    seconds: float
    fits: bool
    code: int | None  # bytes of the program itself; None where it was stopped before
    program: str  # optimised HLO before memory is assigned
    assigned: str  # and with it
    buffers: str  # buffer assignment


def is_installed() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """The devices of "v5e:16x16", for a mesh. Raises Refused for a topology that does not exist."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # nobody is there to answer what machine this is
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # else it complains at length
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # several processes may share the TPU that is not there
    options = dict(_WITH_ONE_CORE.get(topology.partition(":")[0], {}))
    if slices > 1:
        options["num_slices"] = slices
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise Refused(f"topology {topology!r}: {error}") from error


def compiled(job: Job, whole: bool) -> Compilation:
    """Compiles in a process of its own: to the end, or until memory is assigned, a tenth of the time, unless `whole`.

    Raises Failed where the compiler does for another reason than memory.
    """
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        listening, speaking = context.Pipe(duplex=False)
        process = context.Process(target=_compile, args=(job, folder, speaking))
        process.start()
        speaking.close()
        try:
            while not (whole or _is_assigned(folder)) and not listening.poll(POLL_SECONDS):
                pass
            code = None if _is_assigned(folder) and not whole else _answer(listening)
        finally:
            process.kill()
            process.join()
        fits = bool(list(Path(folder).glob(f"*.{_FITS}")))
        texts = {name: dumped(folder, ending) for name, ending in DUMPS.items()}
    return Compilation(time.perf_counter() - start, fits, code, **texts)


def _is_assigned(folder: str) -> bool:
    """Whether the compiler knows if the program fits; these files are written after all that we read."""
    return any(Path(folder).glob(f"*.{_FITS}")) or any(Path(folder).glob(f"*.{_TOO_LARGE}"))


def _answer(listening: Connection) -> int | None:
    try:
        code, error = listening.recv()
    except EOFError as end:
        raise Failed(
            "the compiler's process ended without a word; it may have run out of this machine's memory"
        ) from end
    if error:
        raise Failed(f"the step does not compile: {error}")
    return code


def _compile(job: Job, folder: str, speaking: Connection) -> None:
    """Sends (bytes of code, "") or, where it does not fit, (None, ""), or (None, what went wrong)."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # what it holds is not dumped
    try:
        stats = job.lower().compile(compiler_options=options(folder)).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        speaking.send((None, "" if _OUT_OF_MEMORY in str(error) else str(error).splitlines()[0]))
    else:
        speaking.send((stats.generated_code_size_in_bytes, ""))


def options(folder: str) -> dict[str, str | bool]:
    """Compiler options to dump into `folder`."""
    return {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}


def dumped(folder: str, ending: str) -> str:
    """The one file of the jitted function in `folder` with this ending."""
    (path,) = Path(folder).glob(f"*.jit_*.{ending}")
    return path.read_text()


def room(topology: str) -> int:
    """Bytes of main memory that a program may have on a chip, in the compiler's own words: it is asked for too much."""
    alone = jax.sharding.SingleDeviceSharding(devices(topology)[0])
    huge = jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32, sharding=alone)
    try:
        jax.jit(lambda x: x.T @ x).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        return room_in(str(error))
    raise ValueError(f"{topology} has room for 4 TiB")


def room_in(refusal: str) -> int:
    """16911433728 of "... exceeds available HBM (15.75G)." and of "... Used 30.1G of 15.75G hbm."."""
    found = _ROOM.search(refusal)
    if not found:
        raise ValueError(f"no size of the main memory in {refusal[:300]!r}")
    return int(float(found[1] or found[2]) * 2**30)
