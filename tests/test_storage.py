"""Workdirs in a bucket, which a thread of this process serves."""

import os
import time

import numpy as np
import pytest

pytest.importorskip("gcsfs")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import gcs_server  # noqa: E402
from deberta_jax.config import CheckpointConfig  # noqa: E402
from deberta_jax.errors import Refused  # noqa: E402
from deberta_jax.train import checkpoint, session, storage  # noqa: E402
from deberta_jax.train.checkpoint import Checkpoints  # noqa: E402
from runs import finish, metrics, tiny_flags, wait_for  # noqa: E402

KEPT = CheckpointConfig(every_steps=1, every_minutes=0.0, keep_last=2, keep_every=0)


@pytest.fixture(scope="module")
def server():
    """Set for the whole process: tensorstore and gcsfs look once."""
    server = gcs_server.serve(0, "bucket")
    address = f"http://127.0.0.1:{server.server_port}"
    addresses = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    os.environ |= addresses | {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "none", "NO_GCE_CHECK": "true"}
    yield server
    server.shutdown()


@pytest.fixture
def stored(server):
    """The objects of an empty bucket, by name."""
    objects = gcs_server.Handler.buckets["bucket"].objects
    objects.clear()
    return objects


def save(directory, *steps: int) -> None:
    state = {"params": {"kernel": jnp.arange(8.0)}}
    with Checkpoints(directory, KEPT, time.monotonic) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, {"step": step})
        checkpoints.wait()


def test_a_checkpoint_in_a_bucket_counts_once_it_is_vouched_for_and_as_long_as_it_is_unchanged(stored):
    directory = storage.path_of("gs://bucket/run") / "checkpoints"
    assert checkpoint.newest_good(directory) is None
    save(directory, 1, 2, 3)
    assert checkpoint.steps_in(directory) == [3, 2]
    assert checkpoint.newest_good(directory) == 3
    shapes = {
        "kernel": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    }
    found = checkpoint.restore_params(directory, 3, shapes)
    np.testing.assert_array_equal(found["kernel"], np.arange(8.0))
    largest = max((name for name in stored if "/3/" in name), key=lambda name: len(stored[name].data))
    data = bytearray(stored[largest].data)
    data[len(data) // 2] ^= 1
    gcs_server.Handler.buckets["bucket"].put(largest, bytes(data))
    assert checkpoint.newest_good(directory) == 2
    checkpoint.set_aside(directory, after=2)
    assert checkpoint.steps_in(directory) == [2]
    assert any(name.startswith("run/rejected/3-0/") for name in stored)


def test_what_orbax_had_not_finished_in_a_bucket_is_deleted(stored):
    directory = storage.path_of("gs://bucket/run") / "checkpoints"
    save(directory, 1, 2)
    del stored["run/checkpoints/2/digest.json"]
    assert checkpoint.newest_good(directory) == 1
    checkpoint.set_aside(directory, after=1)
    assert not [name for name in stored if name.startswith(("run/checkpoints/2/", "run/rejected/"))]
    save(directory, 2)
    assert checkpoint.newest_good(directory) == 2


def test_files_are_fetched_and_copied_once_each_time_they_were_written(stored):
    states = storage.path_of("gs://bucket/run")
    with storage.opened(states) as workdir:
        (workdir.files / "plots").mkdir()
        (workdir.files / "plots" / "curves.png").write_bytes(b"picture")
        (workdir.files / "metrics.jsonl").write_text("1\n")
        storage.push(workdir)
        first = stored["run/plots/curves.png"].generation
        with (workdir.files / "metrics.jsonl").open("a") as file:
            file.write("2\n")
    assert stored["run/metrics.jsonl"].data == b"1\n2\n"
    gcs_server.Handler.buckets["bucket"].put("run/checkpoints/1/large", b"")
    with storage.opened(states) as workdir:
        assert (workdir.files / "metrics.jsonl").read_text() == "1\n2\n"
        assert not (workdir.files / "checkpoints").exists()
    assert stored["run/plots/curves.png"].generation == first
    assert not workdir.files.exists()


@pytest.mark.slow
@pytest.mark.two_process
def test_a_run_in_a_bucket_that_is_killed_and_taken_up_again_is_that_of_a_folder(stored, prepared, tmp_path, launch):
    flags = tiny_flags(prepared)
    ended = finish(launch("train.py", *flags, f"--workdir={tmp_path / 'whole'}"))
    assert ended.returncode == 0, ended.stderr
    killed = launch("train.py", *flags, "--workdir=gs://bucket/runs/a")
    wait_for(lambda: "runs/a/checkpoints/3/digest.json" in stored, killed)
    killed.kill()
    finish(killed)
    ended = finish(launch("train.py", *flags, "--workdir=gs://bucket/runs/a"))
    assert ended.returncode == 0, ended.stderr
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "metrics.jsonl").write_bytes(stored["runs/a/metrics.jsonl"].data)
    assert metrics(tmp_path / "bucket") == metrics(tmp_path / "whole")
    assert {"runs/a/config.json", "runs/a/tokenizer/spm.model", "runs/a/plots/curves.png"} <= stored.keys()


def test_a_bucket_that_is_not_there_is_refused_by_name(server):
    with pytest.raises(Refused, match="workdir gs://missing/run cannot be written"):
        session.open_workdir("gs://missing/run")
