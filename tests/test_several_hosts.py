"""Runs of several real processes on one machine: they train as one, stop as one, and say who was lost."""

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import meshes
from deberta_jax.dist.supervise import CHILD
from deberta_jax.train import checkpoint
from runs import finish, metrics, start, tiny_flags, wait_for
from task_files import task_flags, write_task

pytestmark = [pytest.mark.two_process, pytest.mark.slow]
DEVICES = 4  # of all processes together
SPREAD = {"mesh": (("data", -1), ("fsdp", 2), ("tensor", 1)), "rules": meshes.fsdp, "eval__samples": 0}
TIMEOUT = 10  # seconds until a silent process is taken for dead


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


@pytest.fixture
def begin(launch: Callable) -> Callable[..., list[subprocess.Popen]]:
    """Starts a program in so many processes; `program` and `flags` are for all, or one for each."""

    def all_of(program: str | Sequence[str], flags: Sequence[str] | Sequence[Sequence[str]], count: int) -> list:
        programs = [program] * count if isinstance(program, str) else program
        of_each = [flags] * count if isinstance(flags[0], str) else flags
        port = free_port()
        joining = [f"--coordinator_address=localhost:{port}", f"--num_processes={count}", f"--peer_timeout={TIMEOUT}"]
        return [
            launch(*programs[i].split(), *of_each[i], *joining, f"--process_id={i}", devices=DEVICES // count)
            for i in range(count)
        ]

    return all_of


def finished(processes: Sequence[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    return [finish(process) for process in processes]


def last_line(done: subprocess.CompletedProcess) -> str:
    return done.stderr.splitlines()[-1]


def assert_close(workdir: Path, other: Path, step: int) -> None:
    """The same parameters, optimizer state and logged numbers, to 1e-6."""
    found, wanted = arrays(workdir, step), arrays(other, step)
    assert found.keys() == wanted.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), found, wanted)
    for line, expected in zip(metrics(workdir), metrics(other), strict=True):
        assert line.keys() == expected.keys()
        numbers = [name for name, value in line.items() if not isinstance(value, str)]
        assert [line[name] for name in numbers] == pytest.approx(
            [expected[name] for name in numbers], rel=1e-6, abs=1e-6
        )


def arrays(workdir: Path, step: int) -> dict:
    path = (workdir / "checkpoints" / str(step) / "state").absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


@pytest.fixture(scope="module")
def alone(launch, prepared, tmp_path_factory) -> Path:
    """The workdir of the run of six steps in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    done = finish(launch("train.py", *tiny_flags(prepared, **SPREAD), f"--workdir={workdir}", devices=DEVICES))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one_does(count, begin, alone, prepared, tmp_path):
    flags = [*tiny_flags(prepared, **SPREAD), f"--workdir={tmp_path / 'run'}"]
    ended = finished(begin("train.py", flags, count))
    assert [done.returncode for done in ended] == [0] * count, ended
    assert "held out after step 6" in ended[0].stdout
    assert not any("held out" in done.stdout + done.stderr for done in ended[1:])
    assert_close(tmp_path / "run", alone, step=6)


@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_is_killed_the_other_names_it_and_the_job_goes_on_in_any_number(
    lost, begin, alone, launch, prepared, tmp_path
):
    flags = [*tiny_flags(prepared, **SPREAD), f"--workdir={tmp_path / 'run'}"]
    moment = f"tests/troubled_train.py SIGKILL training:6 {tmp_path / 'notes'}"
    ended = finished(begin([moment if i == lost else "train.py" for i in range(2)], flags, 2))
    assert ended[lost].returncode == 128 + signal.SIGKILL
    assert last_line(ended[lost]).startswith("failed: ended by SIGKILL")
    assert ended[1 - lost].returncode == 5, ended[1 - lost].stderr
    assert last_line(ended[1 - lost]).startswith(f"peerdied: process {lost} ({socket.gethostname()}) is gone")
    if lost == 0:
        return  # what is left is the same
    again = finish(launch("train.py", *flags, devices=DEVICES))
    assert again.returncode == 0, again.stderr
    assert_close(tmp_path / "run", alone, step=6)


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_by_itself_says_why_and_the_other_names_it(failing, begin, prepared, tmp_path):
    """It does not wait at the end for those who wait for it."""
    flags = [*tiny_flags(prepared, steps=100_000, eval__every=0), f"--workdir={tmp_path / 'run'}"]
    troubled = f"tests/troubled_train.py EIO training:6 {tmp_path / 'notes'}"
    ended = finished(begin([troubled if i == failing else "train.py" for i in range(2)], flags, 2))
    assert [ended[failing].returncode, ended[1 - failing].returncode] == [1, 5], ended
    assert last_line(ended[failing]) == "OSError: [Errno 5] Input/output error: 'rows/train-00000.array_record'"
    assert last_line(ended[1 - failing]).startswith(f"peerdied: process {failing} (")


def test_a_signal_to_one_stops_all_at_the_same_step_saved_once(begin, prepared, tmp_path):
    flags = [*tiny_flags(prepared, steps=100_000, eval__every=0), f"--workdir={tmp_path / 'run'}"]
    running = begin("train.py", flags, 2)
    wait_for(lambda: (tmp_path / "run" / "checkpoints" / "3" / checkpoint.DIGEST).exists(), running[0])
    running[1].send_signal(signal.SIGTERM)
    ended = finished(running)
    assert [done.returncode for done in ended] == [75, 75], ended
    step = checkpoint.steps_in(tmp_path / "run" / "checkpoints")[0]
    assert last_line(ended[1]).startswith(f"stopped: SIGTERM at step {step}: the state is saved")
    assert last_line(ended[0]).startswith(
        f"stopped: another process was told to stop at step {step}: the state is saved"
    )
    assert checkpoint.newest_good(tmp_path / "run" / "checkpoints") == step


def test_seven_examples_over_four_processes_are_seven(begin, launch, documents, spm_dir, tmp_path):
    """While training and by eval.py; scored and predicted as by one process."""
    words = sorted({word.lower().strip(".") for word in documents[0].split()})
    folder = write_task(tmp_path / "task", "classification", words, count=7)
    flags = task_flags("classification", folder, spm_dir, epochs=1, batch_size=4, eval__batch_size=4)
    run = tmp_path / "run"
    for program, its in (("train.py", [*flags, f"--workdir={run}"]), ("eval.py", [f"--workdir={run}"])):
        ended = finished(begin(program, its, 4))
        assert [done.returncode for done in ended] == [0] * 4, ended
        assert "train.jsonl: 7 examples" in ended[0].stdout
    done = finish(launch("eval.py", f"--workdir={run}", f"--output={tmp_path / 'alone'}"))
    assert done.returncode == 0, done.stderr
    assert "train.jsonl: 7 examples" in done.stdout
    alone = json.loads((tmp_path / "alone" / "scores.json").read_text())["scores"]["train.jsonl"]
    assert alone["examples"] == 7
    for place in (run / "validation", run / "eval"):
        found = json.loads((place / "scores.json").read_text())["scores"]["train.jsonl"]
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-6)
        lines = [json.loads(line) for line in (place / "predictions-train.jsonl").read_text().splitlines()]
        assert [line["id"] for line in lines] == [f"n{number}" for number in range(7)]


def test_a_host_that_would_train_something_else_is_named(begin, prepared, tmp_path):
    same, odd = (tiny_flags(prepared, optimizer__learning_rate=rate) for rate in (1e-3, 2e-3))
    workdir = f"--workdir={tmp_path / 'run'}"
    ended = finished(begin("train.py", [[*same, workdir], [*odd, workdir]], 2))
    assert [done.returncode for done in ended] == [2, 2], ended
    said = f"refused: process 1 ({socket.gethostname()}): config optimizer.learning_rate is 0.002, on process 0 0.001"
    assert [last_line(done) for done in ended] == [said, said]


def test_a_workdir_that_is_another_folder_on_another_host_is_refused(begin, prepared, tmp_path):
    flags = tiny_flags(prepared)
    ended = finished(begin("train.py", [[*flags, f"--workdir={tmp_path / name}"] for name in ("a", "b")], 2))
    assert [done.returncode for done in ended] == [2, 2], ended
    assert (
        f"process 1 ({socket.gethostname()}): workdir {tmp_path / 'b'} is not the one of process 0" in ended[0].stderr
    )


def test_a_run_that_cannot_find_its_first_process_is_refused(prepared, tmp_path):
    joining = ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=1"]
    done = finish(start("train.py", *tiny_flags(prepared), f"--workdir={tmp_path}", "--coordinator_adress=x", *joining))
    assert (done.returncode, last_line(done)) == (
        2,
        "refused: unknown flag --coordinator_adress, did you mean '--coordinator_address'?",
    )
    assert CHILD not in done.stderr
