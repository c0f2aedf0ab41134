"""Which processes a run has, from flags and from the environment."""

import importlib.util

import pytest

from deberta_jax.dist import processes
from deberta_jax.dist.processes import Processes, cluster_of, processes_of
from deberta_jax.errors import Refused
from deberta_jax.flags import Arguments

TASK = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


def parsed(*flags: str):
    arguments = Arguments()
    processes.add_flags(arguments)
    return arguments.parse_args(list(flags))


@pytest.fixture
def machine(monkeypatch):
    """Sets what this machine looks like: with TPU devices or without, with their driver or without."""

    def looks(*, devices: bool, driver: bool) -> None:
        monkeypatch.setattr(processes, "TPU_DEVICES", ("/dev/null",) if devices else ("/dev/there-is-none*",))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: driver or None)

    return looks


def test_without_flags_or_cluster_a_process_is_by_itself(machine):
    machine(devices=False, driver=False)
    assert processes_of(parsed(), {}) is None


def test_flags_name_all_of_them():
    flags = parsed("--coordinator_address=host:1234", "--num_processes=4", "--process_id=3", "--peer_timeout=30")
    assert processes_of(flags, TASK) == Processes("host:1234", 4, 3, 30)


@pytest.mark.parametrize("flags", [("--num_processes=1",), ("--num_processes=1", "--process_id=0")])
def test_one_process_needs_no_others_whatever_the_cluster(flags):
    assert processes_of(parsed(*flags), TASK | {"SLURM_NTASKS": "8"}) is None


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_processes=2"], "belong together"),
        (["--process_id=0"], "belong together"),
        (["--coordinator_address=host:1"], "belong together"),
        (["--coordinator_address=host:1", "--num_processes=2", "--process_id=2"], "from 0 to .* got 2 of 2"),
        (["--coordinator_address=host:1", "--num_processes=2", "--process_id=-1"], "from 0 to .* got -1 of 2"),
        (["--coordinator_address=host:1", "--num_processes=0", "--process_id=0"], "got 0 of 0"),
        (["--coordinator_address=host", "--num_processes=2", "--process_id=1"], "must be HOST:PORT, got 'host'"),
        (["--coordinator_address=:80", "--num_processes=2", "--process_id=1"], "must be HOST:PORT, got ':80'"),
        (["--coordinator_address=host:http", "--num_processes=2", "--process_id=1"], "must be HOST:PORT"),
        (["--peer_timeout=4"], "at least 5 seconds, got 4"),
        (["--num_processes=two"], "invalid int value"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, said):
    with pytest.raises(Refused, match=said):
        processes_of(parsed(*flags), {})


def test_a_task_of_srun_asks_jax_for_the_others():
    several = TASK | {"SLURM_NTASKS": "8"}
    assert processes_of(parsed(), several) == Processes(None, None, None, 100)


@pytest.mark.parametrize(
    "environment",
    [
        TASK | {"SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # a shell of salloc, or sbatch without srun
    ],
)
def test_one_task_and_a_shell_within_a_job_ask_nobody(environment, machine):
    machine(devices=False, driver=False)
    assert cluster_of(environment) == ""


@pytest.mark.parametrize(
    ("environment", "devices", "driver", "found"),
    [
        ({}, True, True, "tpu"),
        ({}, True, False, ""),  # a GPU passed through to a virtual machine
        ({}, False, True, ""),  # the compiler alone
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False, True, "tpu"),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True, True, ""),
        ({"JAX_PLATFORMS": "cpu"}, True, True, ""),
        ({"JAX_PLATFORMS": "tpu,cpu"}, True, True, "tpu"),
    ],
)
def test_hosts_of_tpus_ask_jax_for_the_others(environment, devices, driver, found, machine):
    machine(devices=devices, driver=driver)
    assert cluster_of(environment) == found
