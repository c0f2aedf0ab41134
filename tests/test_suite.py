"""Runs of a stand-in for train.py, which does what its flag --do says, in real processes with real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import builders
from deberta_jax import config as configs
from deberta_jax.errors import Refused, Stopped
from deberta_jax.reports import suite_table
from deberta_jax.reports.suite_table import Row, Run
from deberta_jax.sweep.trial import RUNNING, Record, write_record
from deberta_jax.tools.suite import Job, Outcome, outcome_of, require_start, run_jobs, start_of
from runs import ROOT, finish, save_run, wait_for

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
workdir, do = Path(flags["workdir"]), flags["do"]
signals = []
if do in ("save", "finish"):
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    signal.signal(signal.SIGINT, lambda number, _: signals.append(number))
with open("started.txt", "a") as started:
    started.write(workdir.name + "\\n")
print("step 1\\rstep 2", flush=True)
if do == "mended":
    do = "end" if Path("mended").exists() else "refuse"
if do == "refuse":
    sys.exit("refused: no such label\\n")
if do == "stop":
    sys.exit(75)
if do == "be killed":
    os.kill(os.getpid(), signal.SIGKILL)
while do in ("save", "finish", "die") and not signals and not Path("enough").exists():
    time.sleep(0.01)
if do == "save" and signals:
    time.sleep(0.3)
    Path("signals.txt").write_text(str(len(signals)))
    sys.exit(75)
(workdir / "validation").mkdir()
scores = {"task": "any", "step": 7, "score": 0.5, "scores": {"validation": {"accuracy": 0.5}}}
(workdir / "validation" / "scores.json").write_text(json.dumps(scores))
(workdir / "environment.json").write_text(json.dumps({"processes": 1}))
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with the stand-in, which is the current one."""
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(**does: str) -> list[Job]:
    return [Job(f"task/{name}", (f"--do={do}", "--x=1")) for name, do in does.items()]


def started(root: Path) -> list[str]:
    note = root / "started.txt"
    return note.read_text().split() if note.is_file() else []


def test_a_failed_run_stops_nothing_and_only_it_is_tried_again(root):
    asked = jobs(first="end", second="mended", third="end")
    found = run_jobs(asked, root / "suite")
    assert [outcome.job for outcome in found] == asked
    assert [outcome.error for outcome in found] == ["", "refused: no such label", ""]
    assert [outcome.result is None for outcome in found] == [False, True, False]
    assert started(root) == ["first", "second", "third"]
    (root / "mended").write_text("")
    for _ in range(2):
        assert [outcome.error for outcome in run_jobs(asked, root / "suite")] == ["", "", ""]
        assert started(root) == ["first", "second", "third", "second"]


def test_a_result_says_all_about_the_run(root):
    (outcome,) = run_jobs(jobs(only="end"), root / "suite")
    seconds = outcome.result.pop("seconds")
    assert 0 <= seconds < 60
    assert outcome.result == {
        "flags": ["--do=end", "--x=1"],
        "environment": {"processes": 1},
        "task": "any",
        "step": 7,
        "score": 0.5,
        "scores": {"validation": {"accuracy": 0.5}},
    }
    assert (root / "suite" / "task" / "only" / "log.txt").read_bytes() == b"step 1\rstep 2\n"


def test_only_the_best_parameters_are_kept_and_the_time_of_a_part_is_not_told(root):
    begun = root / "suite" / "task" / "begun"
    (begun / "checkpoints" / "5").mkdir(parents=True)
    write_record(begun, Record(RUNNING, None, "", None, ["--do=end", "--x=1"]))
    (begun / "best" / "5").mkdir(parents=True)
    (outcome,) = run_jobs(jobs(begun="end"), root / "suite")
    assert outcome.result["seconds"] is None
    assert not (begun / "checkpoints").exists() and (begun / "best" / "5").is_dir()


def test_a_run_whose_score_is_no_number_has_failed(root):
    (root / "train.py").write_text(STAND_IN.replace('"score": 0.5', '"score": None'))
    for _ in range(2):
        (outcome,) = run_jobs(jobs(only="end"), root / "suite")
        assert outcome.result is None
        assert outcome.error == "failed: the best score on validation is no number"
        shutil.rmtree(root / "suite" / "task" / "only" / "validation")


def test_runs_from_two_starts_are_not_put_together(root):
    workdir, start = root / "suite", {"path": "pretrained", "step": 10, "digest": "ab"}
    require_start(start, workdir)
    require_start(start | {"step": 20}, workdir)  # nothing has been run yet
    run_jobs(jobs(only="end"), workdir)
    require_start(start | {"step": 20, "path": "./pretrained"}, workdir)
    for change, said in (({"step": 30}, "step was 20, is 30"), ({"digest": "cd"}, "digest was ab, is cd")):
        with pytest.raises(Refused, match=rf"has runs that began elsewhere \({said}\): choose another --workdir"):
            require_start(start | {"step": 20} | change, workdir)
    require_start(start | {"step": 20}, workdir)


def test_a_start_is_a_checkpoint_with_its_digest(root):
    config = builders.tiny_config()
    said = []
    for value in (0.0, 1.0, 1.0):
        shutil.rmtree(root / "run", ignore_errors=True)
        save_run(root / "run", config, {"x": value}, {"config": configs.to_dict(config)}, step=3)
        said.append(start_of(root / "run"))
    assert said[0]["step"] == 3 and said[0]["digest"] != said[1]["digest"]
    with pytest.raises(Refused, match="holds no complete checkpoint"):
        start_of(root)


def test_a_killed_run_has_failed(root):
    killed, other = run_jobs(jobs(one="be killed", two="end"), root / "suite")
    assert killed == Outcome(killed.job, None, "ended by signal 9 (Killed); the same command goes on with it")
    assert other.error == ""


def test_a_run_that_somebody_else_stopped_stops_the_suite(root):
    with pytest.raises(Stopped, match="stopped in task/one: run the same command to go on"):
        run_jobs(jobs(one="stop", two="end"), root / "suite")
    assert started(root) == ["one"]


def test_a_finished_run_with_other_flags_is_refused_before_anything_is_run(root):
    run_jobs(jobs(done="end"), root / "suite")
    changed = Job("task/done", ("--do=end", "--x=2"))
    with pytest.raises(Refused, match=r"task/done was run with other flags \(--x=1, --x=2\): choose another --workdir"):
        run_jobs([*jobs(new="end"), changed], root / "suite")
    swapped = Job("task/done", ("--x=1", "--do=end"))
    with pytest.raises(Refused, match=r"other flags \(in another order\)"):
        run_jobs([swapped], root / "suite")
    assert started(root) == ["done"]


def test_other_flags_may_mend_a_failed_run_unless_it_would_go_on_from_a_checkpoint(root):
    run_jobs(jobs(run="refuse"), root / "suite")
    checkpoints = root / "suite" / "task" / "run" / "checkpoints"
    checkpoints.mkdir()
    (outcome,) = run_jobs([Job("task/run", ("--do=refuse", "--x=2"))], root / "suite")
    assert outcome.error
    (checkpoints / "3").mkdir()
    with pytest.raises(Refused, match=r"\(--do=end, --do=refuse\)"):
        run_jobs([Job("task/run", ("--do=end", "--x=2"))], root / "suite")
    assert started(root) == ["run", "run"]


def test_it_must_be_run_where_train_py_is(root, monkeypatch):
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / "elsewhere")
    with pytest.raises(Refused, match="train.py is not here: run this in the repository's root"):
        run_jobs(jobs(one="end"), root / "suite")
    assert not (root / "suite").exists()


def test_a_run_without_a_record_was_not_run(tmp_path):
    assert outcome_of(Job("a", ()), tmp_path).error == "it was not run"


SUITE = """
import signal, sys
from pathlib import Path
from deberta_jax import errors
from deberta_jax.sweep.trial import RUNNING, Record, write_record
from deberta_jax.tools.suite import Job, run_jobs

do, ignore = sys.argv[1:]
if ignore == "ignore":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
jobs = [Job("one", (f"--do={do}",)), Job("two", (f"--do={do}",))]
sys.exit(errors.run(lambda _: print(len(run_jobs(jobs, Path("suite")))), []))
"""


@pytest.fixture
def suite(root) -> Callable[..., subprocess.Popen]:
    """Starts a suite of two runs that do the same, in a process group like that of a terminal."""

    def start(do: str, hangup: str = "heed") -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SUITE, do, hangup],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    return start


@pytest.mark.two_process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_run_once_and_the_same_command_goes_on(number, root, suite):
    process = suite("save")
    wait_for(lambda: started(root) == ["one"], process)
    os.killpg(process.pid, number)  # as a terminal does: to all that it started
    done = finish(process)
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines() == ["[1/2] one", "stopped: stopped in one: run the same command to go on"]
    assert (root / "signals.txt").read_text() == "1"
    assert started(root) == ["one"]
    (root / "enough").write_text("")
    done = finish(suite("save"))
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert started(root) == ["one", "one", "two"]


@pytest.mark.two_process
@pytest.mark.parametrize("do", ["die", "finish"])
def test_after_a_signal_nothing_more_is_run_however_the_run_ended(do, root, suite):
    process = suite(do)
    wait_for(lambda: started(root) == ["one"], process)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.returncode == 75, done.stderr
    assert started(root) == ["one"]
    assert (root / "suite" / "one" / "result.json").is_file() == (do == "finish")


@pytest.mark.two_process
def test_a_signal_that_was_ignored_stays_ignored(root, suite):
    process = suite("die", "ignore")
    wait_for(lambda: started(root) == ["one"], process)
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(0.1)
    (root / "enough").write_text("")
    done = finish(process)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_signals_are_as_before_afterwards(root):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    run_jobs(jobs(one="end"), root / "suite")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


THREE = Row(
    "mrpc",
    ("accuracy", "f1"),
    (Run(0, 0.75, (0.8, 0.7)), Run(1, 0.925, (0.9, 0.95)), Run(4, 0.875, (0.85, 0.9))),
    (2, 3),
)
TWO = Row("cola", ("matthews",), (Run(0, 0.6, (0.6,)), Run(1, 0.6, (0.6,))), ())
ONE = Row("rte", ("accuracy",), (Run(3, -0.1, (-0.1,)),), ())
NO = Row("wnli", ("accuracy",), (), (0,))


def test_median_and_spread_by_hand():
    assert suite_table.medians(THREE) == (0.85, 0.9)
    assert suite_table.deviations(THREE) == pytest.approx((0.05, 0.0175**0.5))
    assert suite_table.medians(TWO) == (0.6,) and suite_table.deviations(TWO) == (0,)
    assert suite_table.medians(ONE) == (-0.1,) and suite_table.deviations(ONE) == ()
    assert suite_table.medians(NO) == suite_table.deviations(NO) == ()
    even = Row("cola", ("matthews",), (Run(0, 0.2, (0.2,)), Run(1, 0.5, (0.5,))), ())
    assert suite_table.medians(even) == pytest.approx((0.35,))


def test_the_best_run_is_the_first_with_the_highest_score():
    assert suite_table.best(THREE).seed == 1
    assert suite_table.best(TWO).seed == 0
    assert suite_table.best(NO) is None


def test_the_average_counts_every_task_once_and_needs_all_of_them():
    assert suite_table.average([THREE, TWO, ONE]) == pytest.approx((0.875 + 0.6 - 0.1) / 3)
    assert suite_table.average([THREE, NO]) is None
    assert suite_table.average([]) is None


def test_the_table_of_scores_in_points():
    assert suite_table.scores_table([THREE, TWO, ONE, NO]).splitlines() == [
        "| task | metric | runs | median | standard deviation | best | failed runs |",
        "|---|---|---|---|---|---|---|",
        "| mrpc | accuracy / f1 | 3 | 85.0 / 90.0 | 5.0 / 13.2 | 90.0 / 95.0 (seed 1) | 2 (seed 2, 3) |",
        "| cola | matthews | 2 | 60.0 | 0.0 | 60.0 (seed 0) | 0 |",
        "| rte | accuracy | 1 | -10.0 | – | -10.0 (seed 3) | 0 |",
        "| wnli | accuracy | 0 | – | – | – | 1 (seed 0) |",
    ]


def test_each_environment_is_said_once():
    one = {
        "devices": ["cpu"],
        "processes": 1,
        "python": "3.11.7",
        "packages": {"jax": "0.10.2", "flax": "1"},
        "git": "abc",
    }
    two = one | {"devices": ["v4", "v4", "v5"], "processes": 2}
    assert suite_table.environment_lines([one, two, one]) == [
        "1 × cpu; Python 3.11.7, jax 0.10.2, flax 1; commit abc",
        "2 × v4, 1 × v5 in 2 processes; Python 3.11.7, jax 0.10.2, flax 1; commit abc",
    ]
    json.dumps(suite_table.summary(NO))
