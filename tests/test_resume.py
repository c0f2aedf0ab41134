"""A run that is stopped or killed, at any moment, ends as the run that was left alone. Real processes, real signals."""

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deberta_jax.train import checkpoint
from deberta_jax.train.loop import last_evaluated
from kill_often import Target, caching, finish_run, kill_often, saving, sealing
from runs import arrays, assert_same_run, finish, start, tiny_flags, tiny_pair_flags

pytestmark = [pytest.mark.two_process, pytest.mark.slow]
STEPS = 24  # of the runs that are stopped more than once


def examples(notes: Path) -> list[list[int]]:
    """The rows that each step of a troubled_train run was given."""
    return [json.loads(line) for line in notes.read_text().splitlines()]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """A cache of what the runs of 24 steps compile, and of nothing else: they are one program."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture
def troubled(compiled: Path, programs: Path, prepared: Path, tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Starts a tiny run under WORKDIR that strikes itself; its notes go to WORKDIR.notes."""

    def begin(workdir: str, name: str, moment: str, flags_of=tiny_flags, **changes) -> subprocess.Popen:
        notes = tmp_path / f"{workdir}.notes"
        flags = [*flags_of(prepared, **changes), f"--workdir={tmp_path / workdir}"]
        cache = programs if changes.get("steps") == STEPS else compiled
        cache = None if moment == "compiling" else cache  # there must be something to compile
        return start("tests/troubled_train.py", name, moment, str(notes), *flags, cache=cache)

    return begin


def test_killed_after_three_steps_and_run_again_it_equals_six_in_one_go(troubled, tmp_path):
    whole = finish(troubled("whole", "SIGTERM", "never", micro_batches=2))
    killed = finish(troubled("killed", "SIGKILL", "saved:3", micro_batches=2))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = finish(troubled("killed", "SIGTERM", "never", micro_batches=2))
    assert whole.returncode == again.returncode == 0, whole.stderr + again.stderr
    assert f"resuming {tmp_path / 'killed'} at step 3" in again.stderr
    assert_same_run(tmp_path / "killed", tmp_path / "whole", step=6)
    given = examples(tmp_path / "whole.notes")
    assert len(given) == 6
    assert len({row for batch in given for row in batch}) == 6 * 8  # none twice in an epoch
    assert examples(tmp_path / "killed.notes")[-3:] == given[3:]


PAIR = {"flags_of": tiny_pair_flags, "micro_batches": 2, "rtd__scheme": "decoupled", "rtd__embedding_sharing": "gdes"}


def test_a_pair_that_is_killed_then_stopped_and_run_again_equals_the_one_left_alone(troubled, tmp_path):
    """Both models, the optimizers of both (their learning rates differ), dropout and draws of both."""
    whole = finish(troubled("whole", "SIGTERM", "never", **PAIR))
    assert whole.returncode == 0, whole.stderr
    assert arrays(tmp_path / "whole" / "checkpoints", 6)["opt_state"].keys() == {"generator", "discriminator"}
    at = 0
    for name, moment, ends in [("SIGKILL", "saved:3", -signal.SIGKILL), ("SIGTERM", "training", 75)]:
        stopped = finish(troubled("run", name, moment, **PAIR))
        assert stopped.returncode == ends, stopped.stderr
        before, at = at, checkpoint.newest_good(tmp_path / "run" / "checkpoints")
        assert at == 3 if before == 0 else before < at < 6
    again = finish(troubled("run", "SIGTERM", "never", **PAIR))
    assert again.returncode == 0, again.stderr
    assert f"resuming {tmp_path / 'run'} at step {at}" in again.stderr
    assert_same_run(tmp_path / "run", tmp_path / "whole", step=6)


@pytest.fixture(scope="module")
def left_alone(programs: Path, prepared: Path, tmp_path_factory) -> Path:
    """The workdir of 24 steps in one go."""
    workdir = tmp_path_factory.mktemp("left_alone") / "run"
    done = finish(start("train.py", *tiny_flags(prepared, steps=STEPS), f"--workdir={workdir}", cache=programs))
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_signal_at_any_moment_saves_and_the_next_start_goes_on(troubled, left_alone, tmp_path):
    at = 0
    for name, moment in [
        ("SIGTERM", "compiling"),
        ("SIGINT", "training"),
        ("SIGTERM", "saving"),
        ("SIGTERM", "evaluating"),
    ]:
        stopped = finish(troubled("run", name, moment, steps=STEPS))
        assert stopped.returncode == 75, (moment, stopped.stderr)
        said = stopped.stderr.splitlines()[-1]
        assert said.startswith(f"stopped: {name} at step "), said
        before, at = at, checkpoint.newest_good(tmp_path / "run" / "checkpoints")
        assert f"{name} at step {at}: the state is saved" in said
        assert before < at < STEPS or moment == "evaluating"
    assert last_evaluated(tmp_path / "run") < at  # the evaluation was broken off, not waited for
    done = finish(troubled("run", "SIGTERM", "never", steps=STEPS))
    assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'run'} at step {at}" in done.stderr
    assert_same_run(tmp_path / "run", left_alone, STEPS)


def test_a_full_disk_keeps_the_last_good_checkpoint_and_the_next_start_goes_on(troubled, left_alone, tmp_path):
    full = finish(troubled("run", "FULL", "saved:3", steps=STEPS))
    assert full.returncode == 1, full.stderr
    said = said_of(full)
    assert said.startswith(
        f"failed: checkpoint {tmp_path / 'run' / 'checkpoints' / '6'} was not saved: File too large; "
    )
    assert checkpoint.newest_good(tmp_path / "run" / "checkpoints") == 3
    done = finish(troubled("run", "SIGTERM", "never", steps=STEPS))
    assert done.returncode == 0, done.stderr
    assert f"resuming {tmp_path / 'run'} at step 3" in done.stderr
    assert_same_run(tmp_path / "run", left_alone, STEPS)


def said_of(ended: subprocess.CompletedProcess) -> str:
    """What a process says of its end, one line: all but what it says on its way."""
    usual = ("attention of", "no MFU", "parameters;", "step/s", "s/step", "samples at step", " | ")
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    said = [line for line in lines if not any(words in line for words in usual)]
    assert len(said) == 1, ended.stderr
    return said[0]


SMALL_DISK = """
mount -t tmpfs -o size=1400k none "$0" && "$@"
code=$?
cp -r "$0/run/checkpoints" "$0-kept"
exit $code
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # where anybody may mount


@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode != 0,
    reason="the system lets nobody but root mount",
)
def test_a_file_system_without_room_is_one_line_and_what_was_good_is_left(programs, prepared, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    flags = [*tiny_flags(prepared, steps=STEPS), f"--workdir={disk / 'run'}"]
    under = [*NAMESPACE, "sh", "-c", SMALL_DISK, str(disk)]
    full = finish(start("train.py", *flags, cache=programs, under=under))
    assert full.returncode == 1, full.stderr
    said = said_of(full)
    assert said.startswith(f"failed: {disk / 'run'}") or said.startswith(f"failed: checkpoint {disk / 'run'}"), said
    assert "No space left on device" in said
    assert checkpoint.newest_good(tmp_path / "disk-kept") >= 3


def test_data_that_are_lost_in_the_third_step_end_the_process_in_one_line(troubled, prepared, tmp_path):
    """`finish` returns when nobody holds the pipes any more: no thread, no child is left over."""
    rows = shutil.copytree(prepared, tmp_path / "rows")
    ended = finish(troubled("run", f"DAMAGED:{rows}", "training:3", data__paths=(str(rows),), steps=STEPS))
    assert ended.returncode == 1, ended.stderr
    said = said_of(ended)
    assert said.startswith(f"failed: {rows}: rows cannot be read any more: ")


def test_killed_at_delicate_instants_each_restart_goes_on(prepared, programs, left_alone, tmp_path):
    """`python tests/kill_often.py --kills=50` does it longer."""
    target = Target(tiny_flags(prepared, steps=STEPS), tmp_path / "run", programs, random.Random(0))
    fell = kill_often(target, [saving, caching, sealing])
    assert fell.total() == 3
    finish_run(target)
    assert_same_run(tmp_path / "run", left_alone, STEPS)
