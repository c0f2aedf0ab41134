"""Trials as real processes of a stand-in for train.py, which does what its flag --do says: records, signals, locks."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deberta_jax.errors import Refused
from deberta_jax.sweep.local import GPUS, Part, Signals, gpus_of, parts_of_machine, run_here
from deberta_jax.sweep.process import Start, held
from deberta_jax.sweep.trial import DONE, FAILED, RUNNING, STOPPED, Record, Trial, read_record
from runs import ROOT, finish, wait_for

STAND_IN = """
import os, shutil, signal, sys, time
from pathlib import Path

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
workdir, do = Path(flags["workdir"]), flags["do"]
came = []
if do == "save":
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
with open("started.txt", "a") as started:
    started.write(workdir.name + "\\n")
print("step 1", flush=True)
if do == "garble":
    os.write(1, b"\\xff\\n")
if do in ("refuse", "garble"):
    sys.exit("refused: no such label")
if do == "vanish":
    shutil.rmtree(workdir)
    sys.exit()
if do == "be killed":
    os.kill(os.getpid(), signal.SIGKILL)
while do in ("save", "wait") and not came and not Path("enough").exists():
    time.sleep(0.01)
if came:
    time.sleep(0.2)
    Path("signals.txt").write_text(str(len(came)))
    sys.exit(75)
(workdir / "saw.txt").write_text(f"{sorted(os.sched_getaffinity(0))} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
with open("ended.txt", "a") as ended:
    ended.write(workdir.name + "\\n")
"""
SWEEP = """
import os, sys
from pathlib import Path
from deberta_jax.sweep.local import run_here
from deberta_jax.sweep.trial import Trial

do, workers, *names = sys.argv[1:]
trials = [Trial(name, {}, (f"--do={do}",)) for name in names]
records, stopped = run_here(trials, Path("sweep"), int(workers), Path(f"shown-{os.getpid()}").touch)
print(stopped, {name: record.state for name, record in records.items()})
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with the stand-in, which is the current one."""
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(root) -> Callable[..., subprocess.Popen]:
    """Starts a sweep of trials that all do the same, in a process group like that of a terminal."""

    def start(do: str, workers: int, *names: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SWEEP, do, str(workers), *names],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    return start


def trials(**does: str) -> list[Trial]:
    return [Trial(name, {}, (f"--do={do}", "--x=1")) for name, do in does.items()]


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def test_one_that_fails_or_is_killed_stops_nothing_and_all_is_on_record(root):
    asked = trials(first="end", second="refuse", third="be killed", fourth="end")
    found, stopped = run_here(asked, root / "sweep", 1, lambda: None)
    assert not stopped
    assert lines(root / "started.txt") == ["first", "second", "third", "fourth"]
    ends = {name: (record.state, record.exit_code, record.error) for name, record in found.items()}
    assert ends == {
        "first": (DONE, 0, ""),
        "second": (FAILED, 1, "refused: no such label"),
        "third": (STOPPED, -9, "ended by signal 9 (Killed); the same command goes on with it"),
        "fourth": (DONE, 0, ""),
    }
    for name, record in found.items():
        assert read_record(root / "sweep" / name) == record
        assert record.flags[1] == "--x=1" and 0 <= record.seconds < 60
    assert (root / "sweep" / "second" / "log.txt").read_text() == "step 1\nrefused: no such label\n"


def test_a_full_disk_and_a_lost_folder_stop_their_own_trials_only_and_are_words(root):
    (root / "sweep" / "full").mkdir(parents=True)
    (root / "sweep" / "full" / "trial.json.tmp").symlink_to("/dev/full")
    (root / "sweep" / "file").write_text("")
    asked = trials(full="end", file="end", gone="vanish", last="end")
    found, stopped = run_here(asked, root / "sweep", 2, lambda: None)
    assert not stopped and {name: record.state for name, record in found.items()} == {
        **{"full": STOPPED, "file": STOPPED, "gone": STOPPED, "last": DONE}
    }
    assert found["full"].error.startswith("No space left on device: ")
    assert found["file"].error.startswith(f"File exists: {root}/sweep/file; the same command goes on with it")
    assert found["gone"].error.startswith(f"No such file or directory: {root}/sweep/gone/")
    assert found["last"] == read_record(root / "sweep" / "last") and lines(root / "ended.txt") == ["last"]


def test_of_a_start_that_went_wrong_no_process_is_left_and_the_record_is_on_disk(root):
    (trial,) = trials(one="wait")
    start = Start(trial, root / "one", os.environ, frozenset({10**6}))  # a core that no machine has
    with Signals() as signals:
        record = signals.watching(start)
    assert not held(root / "one") and lines(root / "ended.txt") == []
    assert (record.state, record.error.partition(":")[0]) == (STOPPED, "Invalid argument")
    assert read_record(root / "one") == record


def test_what_a_run_prints_need_not_be_text(root):
    found, _ = run_here(trials(one="garble"), root / "sweep", 1, lambda: None)
    assert (found["one"].state, found["one"].error) == (FAILED, "refused: no such label")


def test_as_many_run_at_a_time_as_asked_each_on_its_own_cores(root, monkeypatch):
    monkeypatch.setenv(GPUS, "4,5,7")
    monkeypatch.delenv("JAX_PLATFORMS")
    cores = sorted(os.sched_getaffinity(0))
    run_here(trials(a="end", b="end"), root / "one", 1, lambda: None)
    assert {(root / "one" / name / "saw.txt").read_text() for name in "ab"} == {f"{cores} 4,5,7"}
    if len(cores) > 1:
        most, asked = [], trials(a="wait", b="wait", c="wait", d="wait")

        def look():
            most.append(sum(held(root / "two" / name) for name in "abcd"))
            if most[-1] == 2:
                (root / "enough").write_text("")

        run_here(asked, root / "two", 2, look)
        assert max(most) == 2
        half = len(cores) // 2
        saw = {(root / "two" / name / "saw.txt").read_text() for name in "abcd"}
        assert saw == {f"{cores[:half]} 4", f"{cores[half:]} 5,7"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.two_process
def test_a_signal_reaches_each_run_once_and_nothing_more_is_begun(number, root, sweep):
    process = sweep("save", 2, "one", "two", "three")
    wait_for(lambda: len(lines(root / "started.txt")) == 2, process)
    os.killpg(process.pid, number)  # as a terminal does: to all that it started
    done = finish(process)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "True {'one': 'stopped', 'two': 'stopped', 'three': 'stopped'}\n"
    assert (root / "signals.txt").read_text() == "1"
    assert sorted(lines(root / "started.txt")) == ["one", "two"]
    assert read_record(root / "sweep" / "one").exit_code == 75
    assert read_record(root / "sweep" / "three") is None


@pytest.mark.two_process
def test_a_sweep_waits_for_the_trials_that_a_killed_one_left_running(root, sweep):
    process = sweep("wait", 1, "one")
    wait_for(lambda: lines(root / "started.txt") == ["one"], process)
    (orphan,) = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    assert orphan.is_running() and held(root / "sweep" / "one")
    assert read_record(root / "sweep" / "one").state == RUNNING
    again = sweep("wait", 1, "one")
    wait_for((root / f"shown-{again.pid}").exists, again)
    assert again.poll() is None and lines(root / "started.txt") == ["one"]
    (root / "enough").write_text("")
    assert finish(again).stdout == "False {'one': 'done'}\n"
    assert lines(root / "ended.txt") == ["one", "one"]  # the second start of a finished run is train.py's to see
    assert not held(root / "sweep" / "one")


@pytest.mark.two_process
def test_a_sweep_that_waits_for_another_trial_can_be_stopped(root, sweep):
    first = sweep("wait", 1, "one")
    wait_for(lambda: lines(root / "started.txt") == ["one"], first)
    second = sweep("wait", 1, "one")
    wait_for((root / f"shown-{second.pid}").exists, second)  # it heeds signals by now
    second.send_signal(signal.SIGTERM)
    assert finish(second).stdout == "True {'one': 'stopped'}\n"
    assert read_record(root / "sweep" / "one").state == RUNNING
    (root / "enough").write_text("")
    assert finish(first).stdout == "False {'one': 'done'}\n"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_that_comes_while_a_process_is_being_started_stops_it(moment, root, monkeypatch):
    class Interrupted(subprocess.Popen):
        """Whom the signal meets when nothing is there to be stopped yet, or nobody knows of it."""

        def __init__(self, *args, **settings):
            if moment == "before":
                os.kill(os.getpid(), signal.SIGTERM)
            super().__init__(*args, **settings)
            if moment == "after":
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    late = threading.Timer(20, (root / "enough").touch)  # what nobody stops comes to its end, too
    late.start()
    with Signals() as signals:
        record = signals.watching(Start(trials(one="wait")[0], root / "one", os.environ, frozenset()))
        assert signals.came.is_set()
        after = signals.watching(Start(trials(two="end")[0], root / "two", os.environ, frozenset()))
    late.cancel()
    assert (record.state, record.exit_code) == (STOPPED, -signal.SIGTERM)
    assert after.error == "it was stopped before it began" and "two" not in lines(root / "started.txt")


def test_a_start_that_was_stopped_before_begins_nothing(root):
    start = Start(trials(one="end")[0], root / "one", os.environ, frozenset())
    start.stop()
    record = start.run()
    assert (record.state, record.error, lines(root / "started.txt")) == (STOPPED, "it was stopped before it began", [])


def test_the_machine_is_divided_into_neighbouring_shares(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 8})
    gpus = {GPUS: "0,1,2,3,4,5,6,7"}
    assert parts_of_machine(1, gpus) == [Part(frozenset(), None)]
    assert parts_of_machine(2, gpus) == [Part(frozenset({0, 1}), "0,1,2,3"), Part(frozenset({2, 3, 8}), "4,5,6,7")]
    assert [part.gpus for part in parts_of_machine(8, gpus)] == list("01234567")
    assert {part.cores for part in parts_of_machine(8, gpus)} == {frozenset()}  # more workers than cores: the system's
    assert {part.gpus for part in parts_of_machine(2, {GPUS: ""})} == {None}


def test_what_cannot_be_divided_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Refused, match="--parallel must be at least 1, got 0"):
        parts_of_machine(0, {})
    with pytest.raises(Refused, match="--parallel=3, but this machine has 2 GPUs: at most one trial a GPU"):
        parts_of_machine(3, {GPUS: "0,1"})
    (tmp_path / "accel0").write_text("")
    monkeypatch.setattr("deberta_jax.sweep.local.cluster_of", lambda environment: "tpu")
    with pytest.raises(Refused, match="--parallel=1 on a TPU host"):
        parts_of_machine(2, {})
    assert parts_of_machine(1, {}) == [Part(frozenset(), None)]


def test_gpus_are_those_of_the_environment_or_of_the_machine(tmp_path, monkeypatch):
    assert gpus_of({GPUS: "1,3"}) == ["1", "3"]
    assert gpus_of({GPUS: "GPU-8932f937,MIG-2a"}) == ["GPU-8932f937", "MIG-2a"]
    assert gpus_of({GPUS: "0,-1,1"}) == ["0"]  # as CUDA reads it
    assert gpus_of({GPUS: "-1"}) == gpus_of({GPUS: ""}) == gpus_of({GPUS: "0,1", "JAX_PLATFORMS": "cpu"}) == []
    assert (
        gpus_of({GPUS: "1,3", "JAX_PLATFORMS": "cuda,cpu"}) == gpus_of({GPUS: "1,3", "JAX_PLATFORMS": ""}) == ["1", "3"]
    )
    monkeypatch.setattr("deberta_jax.sweep.local.GPU_PREFIX", f"{tmp_path}/nvidia")
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidia2", "nvidiactl"):
        (tmp_path / name).write_text("")
    assert gpus_of({}) == ["0", "1", "2", "10"]


def test_a_record_on_disk_is_json(root):
    run_here(trials(one="end"), root / "sweep", 1, lambda: None)
    found = json.loads((root / "sweep" / "one" / "trial.json").read_text())
    assert Record(**found) == read_record(root / "sweep" / "one")
