"""Which processes make up a run: as flags say, or as the machine's own environment tells jax. Needs no jax.

On Cloud TPUs (TPU VM and GKE) and under Slurm's srun nothing has to be said. Elsewhere every process is told all:

    python train.py ... --coordinator_address=HOST:PORT --num_processes=4 --process_id=0
"""

import argparse
import glob
import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

from deberta_jax.errors import Refused

SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # what srun tells each of its tasks
TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")


class Processes(NamedTuple):
    """Arguments of jax.distributed.initialize; None is for jax to find out."""

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None
    peer_timeout: int  # seconds without a sign of life after which a process is taken for dead


def add_flags(arguments: argparse.ArgumentParser) -> None:
    """Flags for `processes_of`; on Cloud TPUs and under Slurm none is needed."""
    arguments.add_argument("--coordinator_address", help="HOST:PORT of process 0, where nothing finds it by itself")
    arguments.add_argument("--num_processes", type=int, help="how many processes train together; 1 = this one alone")
    arguments.add_argument("--process_id", type=int, help="which of them this is, from 0")
    arguments.add_argument("--peer_timeout", type=int, default=100, help="seconds until a silent one is taken for dead")


def processes_of(flags: argparse.Namespace, environment: Mapping[str, str]) -> Processes | None:
    """The processes of this run, None where it is one by itself. Raises Refused for flags that do not make sense."""
    address, count, number = flags.coordinator_address, flags.num_processes, flags.process_id
    if flags.peer_timeout < 5:
        raise Refused(f"--peer_timeout must be at least 5 seconds, got {flags.peer_timeout}")
    if (address, count, number) == (None, None, None):
        found = cluster_of(environment)
        return Processes(None, None, None, flags.peer_timeout) if found else None
    if count == 1 and number in (None, 0):
        return None
    if None in (address, count, number):
        raise Refused("--coordinator_address, --num_processes and --process_id belong together: give all three or none")
    if count < 1 or not 0 <= number < count:
        raise Refused(f"--process_id must be from 0 to --num_processes - 1, got {number} of {count}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Refused(f"--coordinator_address must be HOST:PORT, got {address!r}")
    return Processes(address, count, number, flags.peer_timeout) if count > 1 else None


def cluster_of(environment: Mapping[str, str]) -> str:
    """The surroundings that jax.distributed.initialize knows how to ask: "slurm", "tpu", or "" for none."""
    if all(name in environment for name in SLURM) and environment["SLURM_NTASKS"] != "1":
        return "slurm"
    if "JAX_PLATFORMS" in environment and "tpu" not in environment["JAX_PLATFORMS"]:
        return ""
    on_gke = "TPU_WORKER_HOSTNAMES" in environment
    on_tpu_vm = "TPU_SKIP_MDS_QUERY" not in environment and any(map(glob.glob, TPU_DEVICES))
    has_driver = importlib.util.find_spec("libtpu") is not None
    return "tpu" if has_driver and (on_gke or on_tpu_vm) else ""
