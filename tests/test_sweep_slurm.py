"""Trials as Slurm's jobs: through submitit's local executor, and with a pretended Slurm on the path."""

import dataclasses
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import submitit

from deberta_jax import errors
from deberta_jax.errors import Refused
from deberta_jax.sweep.process import LOCK
from deberta_jax.sweep.slurm import TrialJob, executor_of, on_their_way, run_there
from deberta_jax.sweep.trial import DONE, FAILED, STOPPED, Trial, read_record
from deberta_jax.tools import sweep
from runs import PATIENCE, ROOT
from test_sweep_local import STAND_IN, lines

# Runs each job of the array at once; `state` is what sacct says of those without an end.
SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path

script = Path(sys.argv[1]).read_text()
Path("script.sh").write_text(script)
found = re.search(r"--array=0-(\\d+)", script)
for task in range(int(found[1]) + 1 if found else 1):
    names = {{"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": str(task)}} if found else {{}}
    names |= {{"SLURM_JOB_ID": str(17 + task), "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    names |= {{"SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}}
    log = open(f"job-{{task}}.txt", "w")
    subprocess.Popen(["bash", sys.argv[1]], env=os.environ | names, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
print("Submitted batch job 17")
"""
SRUN = """#!{python}
import os, sys

words = sys.argv[1:]
first = words.index(next(word for word in words if word.endswith("python")))
os.execv(words[first], words[first:])
"""
SACCT = """#!{python}
from pathlib import Path

print("JobID|State|NodeList")
for job in ("17", "17_0", "17_1", "17_2", "18"):
    print(f"{{job}}|{{Path('state').read_text().strip()}}|here")
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A folder with a stand-in for train.py, which is the current one."""
    (tmp_path / "train.py").write_text(STAND_IN)
    (tmp_path / "state").write_text("RUNNING")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}")
    return tmp_path


@pytest.fixture
def cluster(root, monkeypatch) -> Path:
    """The same on a machine with a pretended Slurm."""
    place = root / "bin"
    place.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (place / name).write_text(text.format(python=sys.executable))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    submitit.SlurmJob.watcher.clear()
    return root


def trials(**does: str) -> list[Trial]:
    return [Trial(name, {}, (f"--do={do}", "--x=1")) for name, do in does.items()]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.two_process
def test_each_trial_is_a_job_and_one_that_fails_stops_nothing(cluster):
    asked = trials(first="end", second="refuse", third="be killed")
    executor = executor_of(cluster / "sweep", ["partition=gpu", "gpus_per_node=1", "time=90"], 2)
    found, stopped = run_there(asked, cluster / "sweep", executor, lambda: None)
    assert not stopped
    assert {name: record.state for name, record in found.items()} == {
        "first": DONE,
        "second": FAILED,
        "third": STOPPED,
    }
    assert found["second"].error == "refused: no such label"
    assert found == {name: read_record(cluster / "sweep" / name) for name in found}
    script = (cluster / "script.sh").read_text()
    options = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    assert options["array"] == "0-2%2" and options["partition"] == "gpu" and options["time"] == "90"
    assert options["gpus-per-node"] == "1" and options["job-name"] == "sweep-sweep"
    assert options["signal"].startswith("USR2@")
    assert re.search(rf"^srun .*{re.escape(sys.executable)} -u -m submitit.core._submit", script, re.MULTILINE)
    assert json.loads((cluster / "sweep" / "jobs.json").read_text()) == {
        "first": "17_0",
        "second": "17_1",
        "third": "17_2",
    }


@pytest.mark.two_process
def test_the_next_start_waits_for_jobs_that_are_on_their_way(cluster):
    asked, workdir = [dataclasses.replace(trials(one="wait")[0], settings={"steps": 2})], cluster / "sweep"
    shown = []

    def look():
        shown.append(1)
        if lines(cluster / "started.txt"):
            os.kill(os.getpid(), signal.SIGINT)

    found, stopped = run_there(asked, workdir, executor_of(workdir, [], 1), look)
    assert (found, stopped) == ({}, True) and shown
    assert list(on_their_way(asked, workdir)) == ["one"]
    with pytest.raises(Refused, match=r"one was run with other flags \(--do=end, --do=wait\)"):
        run_there(trials(one="end"), workdir, executor_of(workdir, [], 1), look)
    other = [dataclasses.replace(asked[0], settings={"steps": 3})]
    with pytest.raises(Refused, match=r"one was run with other settings \(steps was 2, is 3\)"):
        run_there(other, workdir, executor_of(workdir, [], 1), look)
    respelt = [dataclasses.replace(asked[0], flags=(*asked[0].flags, "--y=1"))]  # its settings are the same
    again, _ = run_there(respelt, workdir, executor_of(workdir, [], 1), (cluster / "enough").touch)
    assert again["one"].state == DONE
    assert lines(cluster / "started.txt") == lines(cluster / "ended.txt") == ["one"]  # it was submitted once
    assert on_their_way(asked, workdir) == {}


@pytest.mark.two_process
def test_another_command_in_the_folder_leaves_the_jobs_of_the_first_on_their_way(cluster):
    first, workdir = trials(one="wait"), cluster / "sweep"

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    run_there(first, workdir, executor_of(workdir, [], 1), interrupt)
    submitit.SlurmJob.watcher.clear()
    (cluster / "bin" / "sbatch").write_text(SBATCH.format(python=sys.executable).replace("17", "18"))
    run_there(trials(two="wait"), workdir, executor_of(workdir, [], 1), interrupt)
    assert json.loads((workdir / "jobs.json").read_text()) == {"one": "17", "two": "18"}
    assert list(on_their_way(first, workdir)) == ["one"]
    wait_until(lambda: len(lines(cluster / "started.txt")) == 2)
    (cluster / "enough").touch()
    wait_until(lambda: sorted(lines(cluster / "ended.txt")) == ["one", "two"])


@pytest.mark.two_process
@pytest.mark.parametrize("state", ["OUT_OF_MEMORY", "NODE_FAIL"])
def test_a_job_that_is_gone_without_a_word_was_stopped(state, cluster):
    asked, workdir = trials(one="wait"), cluster / "sweep"

    def lose():
        if lines(cluster / "started.txt"):
            (cluster / "state").write_text(state)

    found, _ = run_there(asked, workdir, executor_of(workdir, [], 1), lose)
    (cluster / "enough").touch()
    assert found["one"].state == STOPPED
    assert found["one"].error.startswith(f"job 17 is gone ({state}): ")
    wait_until(lambda: read_record(workdir / "one").state == DONE)  # the pretended node was alive after all


def test_a_job_that_slurm_does_not_know_is_not_waited_for(cluster):
    (cluster / "sweep").mkdir()
    (cluster / "sweep" / "jobs.json").write_text(json.dumps({"one": "99", "gone": "17"}))
    assert on_their_way(trials(one="end"), cluster / "sweep") == {}


@pytest.mark.two_process
def test_a_job_that_is_preempted_saves_its_state_and_goes_on(root):
    """submitit's local executor starts a job again after `checkpoint`, as Slurm does."""
    trial = trials(one="save")[0]
    executor = executor_of(root / "sweep", [], 1, cluster="local")
    job = executor.submit(TrialJob(trial, root / "sweep" / "one"))
    wait_until(lambda: lines(root / "started.txt") == ["one"])
    time.sleep(0.3)
    (task,) = psutil.Process(int(job.job_id)).children()
    task.send_signal(signal.SIGUSR2)
    wait_until(lambda: lines(root / "started.txt") == ["one", "one"])
    assert (root / "signals.txt").read_text() == "1"
    (root / "enough").touch()
    assert job.result() == DONE
    assert read_record(root / "sweep" / "one").state == DONE
    assert lines(root / "ended.txt") == ["one"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("partition", "--slurm=partition: KEY=VALUE is expected, as partition=gpu"),
        ("nodes=2", "--slurm=nodes=2: a trial is one process"),
        ("ntasks_per_node=8", "--slurm=ntasks_per_node=8: a trial is one process"),
        ("partitoin=gpu", "Unknown argument 'partitoin'"),
        ("tasks_per_node=4", "--slurm=tasks_per_node=4: a trial is one process"),
        ("timeout_min=1h", "--slurm=timeout_min=1h: a whole number of minutes is expected"),
        ("additional_parameters=x", "--slurm=additional_parameters=x: give each of them by itself"),
        ("time=1-00:00", "--slurm=time=1-00:00: a whole number of minutes is expected"),
    ],
)
def test_a_wrong_setting_is_refused(setting, message, cluster):
    with pytest.raises(Refused) as raised:
        executor_of(cluster / "sweep", [setting], 1)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_lines_of_the_script_add_up_and_other_settings_come_once(cluster):
    executor = executor_of(cluster / "sweep", ["setup=module load cuda", "nodes=1", "setup=ulimit -n 4096"], 1)
    assert executor.parameters["setup"] == ["module load cuda", "ulimit -n 4096"]
    for settings in (["mem=1GB", "mem=2GB"], ["time=5", "timeout_min=6"]):
        with pytest.raises(Refused, match=r"--slurm=(mem|time)=\.\.\. comes twice"):
            executor_of(cluster / "sweep", settings, 1)


def script_of(settings: list[str], parallel: int, count: int, root: Path) -> tuple[dict[str, str], list[str]]:
    """What sbatch gets for so many trials: its options, and the lines below them."""
    workdir = root / "my sweep"
    executor = executor_of(workdir, settings, parallel)
    executor.submit_array([TrialJob(trial, workdir / "x") for trial in trials(x="end") * count])
    lines_of_it = (root / "script.sh").read_text().splitlines()
    options = [line.removeprefix("#SBATCH --").partition("=") for line in lines_of_it if line.startswith("#SBATCH ")]
    return {key: value for key, _, value in options}, [line for line in lines_of_it if line and line[0] != "#"]


# What submitit says of itself, and where its logs go: everything else is a setting of a sweep.
OWN = {"open-mode": "append", "wckey": "submitit", "nodes": "1"}


def test_the_script_says_what_was_asked_for_and_no_more(cluster):
    (cluster / "bin" / "sbatch").write_text('#!/bin/sh\ncat "$1" > script.sh\necho Submitted batch job 17\n')
    log = f"{cluster}/my sweep/slurm"
    options, commands = script_of([], 3, 4, cluster)
    assert options == OWN | {
        "array": "0-3%3",
        "job-name": "'sweep-my sweep'",
        "time": "1440",
        "signal": "USR2@90",
        "output": f"'{log}/%A_%a/%A_%a_0_log.out'",  # both streams: there is no --error
    }
    logs = f"--output '{log}/%A_%a/%A_%a_%t_log.out'"
    command = f"{sys.executable} -u -m submitit.core._submit '{log}/%j'"
    assert commands == ["export SUBMITIT_EXECUTOR=slurm", f"srun --unbuffered {logs} {command}"]

    asked = {"partition": "gpu", "account": "lab", "qos": "high", "constraint": "'a100|h100'", "mem": "64GB"}
    asked |= {"gpus_per_node": "1", "cpus_per_task": "8", "exclude": "n1", "ntasks_per_node": "1"}
    settings = [f"{key}={value.strip(chr(39))}" for key, value in asked.items()]
    settings += ["setup=module load cuda", "teardown=echo end", "srun_args=--mpi=none --label", "exclusive=true"]
    options, commands = script_of([*settings, "setup=ulimit -n 4096", "timeout_min=90"], 3, 2, cluster)
    said = {key.replace("_", "-"): value for key, value in asked.items()}
    assert {key: options.pop(key) for key in (*said, "time", "exclusive", "array")} == said | {
        **{"time": "90", "exclusive": "", "array": "0-1%2"}
    }
    assert options.keys() == OWN.keys() | {"job-name", "signal", "output"}
    assert commands == [
        *["module load cuda", "ulimit -n 4096", "export SUBMITIT_EXECUTOR=slurm"],
        *[f"srun --unbuffered {logs} --mpi=none --label {command}", "echo end"],
    ]
    options, commands = script_of(["use_srun=False", "time=5", "signal_delay_s=30"], 1, 2, cluster)
    assert commands == ["export SUBMITIT_EXECUTOR=slurm", command]
    assert (options["time"], options["signal"], options["array"]) == ("5", "USR2@30", "0-1%1")


def test_the_command_s_flags_reach_the_script(cluster, capsys):
    (cluster / "train.py").write_text(
        "import sys\nfrom pathlib import Path\n"
        "folder = Path(sys.argv[-1].removeprefix('--workdir='))\n"
        """(folder / "metrics.jsonl").write_text('{"step": 1, "eval/loss": 1.5}\\n')\n"""
    )
    command = [f"--config={ROOT}/configs/quickstart.py", "--metric=eval/loss:min", "--workdir=sweep"]
    command += ["--grid=seed=0,1,2", "--executor=slurm", "--parallel=2", "--slurm=partition=gpu"]
    assert errors.run(sweep.main, command) == 0
    assert capsys.readouterr().out.splitlines()[0] == "3 runs: 3 done"
    script = (cluster / "script.sh").read_text()
    assert "--array=0-2%2\n" in script and "--partition=gpu\n" in script
    records = [read_record(cluster / "sweep" / f"seed={seed}") for seed in range(3)]
    assert [record.digest for record in records] == [trial.digest for trial in sweep.plan_of(command).trials]


def test_what_sbatch_refuses_is_said(cluster):
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: gpuu' >&2\nexit 1\n")
    executor = executor_of(cluster / "sweep", ["partition=gpuu"], 1)
    with pytest.raises(Refused, match="--executor=slurm: sbatch: error: invalid partition: gpuu"):
        run_there(trials(one="end"), cluster / "sweep", executor, lambda: None)
    assert not (cluster / "sweep" / "jobs.json").exists()


def test_a_damaged_note_of_the_jobs_is_refused(cluster):
    (cluster / "sweep").mkdir()
    (cluster / "sweep" / "jobs.json").write_text("")
    with pytest.raises(Refused, match="jobs.json is damaged"):
        on_their_way(trials(one="end"), cluster / "sweep")


def test_a_job_that_is_preempted_before_its_run_began_is_submitted_again(root):
    (trial,) = trials(one="end")
    job = TrialJob(trial, root / "one")
    assert job.checkpoint().function.trial == trial  # before it was called
    (root / "one").mkdir()
    with (root / "one" / LOCK).open("w") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the trial is alive
        called = pool.submit(job)
        time.sleep(0.3)
        assert job.checkpoint().function.trial == trial
        assert called.result() == STOPPED
    assert read_record(root / "one") is None and lines(root / "started.txt") == []


def test_without_slurm_it_is_refused(root, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Refused, match='--executor=slurm: Could not detect "srun"'):
        executor_of(root / "sweep", [], 1)
