"""tools.sweep: checks before anything starts, and a real sweep with a trial that fails and one that is killed."""

import contextlib
import dataclasses
import fcntl
import functools
import html
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest
from rich.console import Console

from deberta_jax import errors, flags
from deberta_jax.sweep.process import LOCK
from deberta_jax.sweep.trial import Record, read_record, record_of, write_record
from deberta_jax.tools import sweep
from runs import ROOT, finish, tiny_flags, wait_for
from xla_flags import FAST_TO_COMPILE

QUICK = ("--config=configs/quickstart.py", "--metric=eval/loss:min")


def refusal(capsys, *argv: str) -> str:
    """The line of a command that cannot be."""
    assert errors.run(sweep.main, list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*QUICK, "--grid=optimizer.learning_rat=1,2"), "no key 'optimizer.learning_rat', did you mean 'optimizer."),
        ((*QUICK, "--grid=seed=0,one"), "config.seed expects int, got 'one'"),
        ((*QUICK, "--grid=seed=0,1", "--config.optimizer.lr=1"), "no key 'optimizer.lr'"),
        (
            (*QUICK, "--grid=optimizer.learning_rate=1,-1"),
            "refused: trial optimizer.learning_rate=-1: optimizer.learning_rate must be positive, got -1",
        ),
        ((*QUICK, "--grid=model=1,2"), "config.model is a group of keys"),
        ((*QUICK, "--grid=seed=0,1", "--config.seed=3"), "seed is given by --config.seed and swept"),
        ((*QUICK, "--grid=seed=0,0"), "two trials are called 'seed=0'"),
        (
            (*QUICK, "--grid=optimizer.learning_rate=1e-5,0.00001"),
            "two trials are called 'optimizer.learning_rate=1e-05'",
        ),
        ((*QUICK,), "nothing to sweep"),
        ((*QUICK, "--gird=seed=0,1"), "unknown flag --gird, did you mean '--grid'?"),
        ((*QUICK, "--grid=seed=0,1", "--slurm=partition=gpu"), "--slurm is for --executor=slurm"),
        ((*QUICK, "--grid=seed=0,1", "--parallel=0"), "--parallel must be at least 1, got 0"),
        (("--metric=a:max", "--grid=seed=0"), "--config=PATH.py is missing"),
        (("--config=configs/quickstrat.py", "--metric=a:max", "--grid=seed=0"), "did you mean 'quickstart.py'?"),
        (
            ("--config=configs/quickstart.py", "--metric=eval/loss", "--grid=seed=0"),
            "--metric=eval/loss: expects KEY:max or KEY:min",
        ),
        (
            ("--config=configs/quickstart.py", "--metric=eval/loss:mni", "--grid=seed=0"),
            "expects KEY:max or KEY:min, as eval/loss:min, did you mean 'min'?",
        ),
        (("--config=configs/quickstart.py", "--grid=seed=0"), "--metric"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_wrong_command_is_one_line_before_any_trial_starts(flags, message, tmp_path, capsys):
    assert message in refusal(capsys, *flags, f"--workdir={tmp_path / 'sweep'}")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(): return [{}, {'seed': 1}]", "cannot be called '': give it another \"name\" in get_sweep()"),
        ("(): return [{'name': '..', 'seed': 1}]", "cannot be called '..'"),
        ("(): return [{'name': 'report', 'seed': 1}]", "cannot be called 'report'"),
        ("(): return [{'name': 'slurm', 'seed': 1}]", "cannot be called 'slurm'"),
        ("(): return [{'name': 'a', 'seed': 1}, {'name': 'a', 'seed': 2}]", "two trials are called 'a'"),
        ("(): return [{'name': 'a', 'seed': 1}, {'name': 'b', 'seed': 1}]", "trials 'a' and 'b' have the same values"),
        ("(): return [{'name': 'a', 'sed': 1}]", "config has no key 'sed', did you mean 'seed'?"),
        ("(): return []", "get_sweep() must return a list of dictionaries"),
        ("(): return [{'seed': {}['x']}]", "get_sweep() ended with KeyError 'x'"),
        ("(size): return [{'seed': size}]", "get_sweep() takes no arguments"),
    ],
)
def test_a_wrong_sweep_file_is_one_line(body, message, tmp_path, capsys):
    path = tmp_path / "file.py"
    path.write_text(f"from configs.quickstart import get_config\ndef get_sweep{body}\n")
    assert message in refusal(capsys, f"--config={path}", "--metric=a:max", f"--workdir={tmp_path / 'sweep'}")


def test_a_workdir_must_be_named_and_writable(tmp_path, capsys):
    assert "--workdir: expects a path, got nothing" in refusal(capsys, *QUICK, "--grid=seed=0", "--workdir=")
    (tmp_path / "file").write_text("")
    for place, why in (("file", "File exists"), ("file/sweep", "Not a directory")):
        said = refusal(capsys, *QUICK, "--grid=seed=0", f"--workdir={tmp_path / place}")
        assert said == f"refused: --workdir={tmp_path / place} cannot be written: {why}\n"


def test_it_must_be_run_where_train_py_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = (f"--config={ROOT}/configs/quickstart.py", "--metric=eval/loss:min", "--grid=seed=0", "--workdir=sweep")
    assert "train.py is not here" in refusal(capsys, *flags)
    assert not (tmp_path / "sweep").exists()


def test_more_trials_at_a_time_than_gpus_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("JAX_PLATFORMS")
    said = refusal(capsys, *QUICK, "--grid=seed=0,1", "--parallel=2", f"--workdir={tmp_path / 'sweep'}")
    assert "--parallel=2, but this machine has 1 GPUs" in said
    assert not (tmp_path / "sweep").exists()


def test_a_quoted_value_is_what_a_flag_without_the_shell_s_quotes_says(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from configs.quickstart import get_config")
    command = [f"--config={path}", "--metric=a:max", "--workdir=x", "--grid=init_from='runs/a,b','c'"]
    plan = sweep.plan_of([*command, """--grid=model.pos_att_type="c2p,p2c",('c2p',)"""])
    found = [(trial.settings["init_from"], trial.settings["model.pos_att_type"]) for trial in plan.trials]
    assert found == [(start, terms) for start in ("runs/a,b", "c") for terms in (("c2p", "p2c"), ("c2p",))]
    loaded = flags.load_config(
        [f"--config={path}", "--config.init_from=runs/a,b", "--config.model.pos_att_type=c2p,p2c"]
    )
    assert plan.trials[0].settings["init_from"] == loaded.config.init_from
    assert plan.trials[0].settings["model.pos_att_type"] == loaded.config.model.pos_att_type


def test_a_plan_knows_whole_numbers_and_how_many_steps_there_are():
    drawn = sweep.plan_of([*QUICK, "--random=3", "--range=seed=linear:0:20", "--config.steps=700", "--workdir=x"])
    assert all(isinstance(trial.overrides["seed"], int) for trial in drawn.trials) and drawn.steps == [700, 700, 700]
    tuned = [
        "--config=configs/finetune.py:rte,v3_base",
        "--config.data.dir=x",
        "--metric=eval/score:max",
        "--grid=seed=0",
    ]
    assert sweep.plan_of([*tuned, "--workdir=x"]).steps == [0]
    assert sweep.plan_of([*tuned, "--config.steps=500", "--workdir=x"]).steps == [500]


def test_a_done_trial_with_other_flags_is_refused(tmp_path, capsys):
    command = [*QUICK, "--grid=seed=0", f"--workdir={tmp_path}"]
    done_trials(sweep.plan_of(command), {"step": 1, "eval/loss": 1.0})
    assert "seed=0 was run with other settings (steps was 1200, is 900)" in refusal(
        capsys, *command, "--config.steps=900"
    )
    assert not (tmp_path / "sweep.json").exists()


def test_a_done_trial_of_a_config_file_that_was_edited_since_is_refused(tmp_path, capsys):
    path, workdir = tmp_path / "mine.py", tmp_path / "sweep"
    text = "from configs import quickstart\ndef get_config():\n    c = quickstart.get_config()\n"
    text += "    c.steps = {}\n    return c\n"
    path.write_text(text.format(700))
    command = [f"--config={path}", "--metric=eval/loss:min", "--grid=seed=0,1", f"--workdir={workdir}"]
    done_trials(sweep.plan_of(command), {"step": 1, "eval/loss": 1.0})
    path.write_text(text.format("800  # more"))
    assert f"{workdir}/seed=0 was run with other settings (steps was 700, is 800)" in refusal(capsys, *command)
    path.write_text(text.format("1400 // 2"))  # the same
    assert errors.run(sweep.main, command) == 0


def test_a_trial_is_the_same_however_its_flags_are_spelt_and_ordered(tmp_path, capsys):
    """Done, with a digest and as before there was one, and alive."""
    base = [*QUICK, f"--workdir={tmp_path}"]
    (trial,) = sweep.plan_of([*base, "--config.steps=90", "--config.batch_size=8", "--grid=optimizer.b2=9e-1"]).trials
    command = [*base, "--config.batch_size=0_8", "--config.steps=9e1", "--grid=optimizer.b2=0.9"]
    plan = sweep.plan_of(command)
    done_trials(plan._replace(trials=[trial]), {"step": 1, "eval/loss": 1.0})
    folder = tmp_path / trial.name
    assert errors.run(sweep.main, command) == 0
    failed = Record("failed", 1, "", 1.0, list(trial.flags))
    for record in (failed, dataclasses.replace(failed, digest=trial.digest)):
        write_record(folder, record)
        assert sweep.unfinished(plan) == []
    capsys.readouterr()
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_record(folder, record_of(trial, "running", None, "", None))
        sweep.check_folder(plan.trials[0], folder)
        other = sweep.plan_of([*command[:-1], "--grid=optimizer.b2=0.90", "--config.seed=3"]).trials[0]
        with pytest.raises(errors.Refused, match="was run with other flags"):
            sweep.check_folder(other, folder)


@pytest.mark.parametrize("named", [False, True])
def test_the_order_of_the_flags_names_no_other_trial(named, tmp_path, capsys):
    path = tmp_path / "mine.py"
    body = "\ndef get_sweep(): return [{'name': 'full', 'model.decoder': 'emd'}]" * named
    path.write_text("from configs.quickstart import get_config" + body)
    swept = ["--grid=seed=0,1", "--grid=optimizer.learning_rate=1e-3", "--zip=optimizer.b2=0.9", "--zip=batch_size=8"]
    command = [f"--config={path}", "--metric=eval/loss:min", f"--workdir={tmp_path / 'sweep'}"]
    names = [{trial.name for trial in sweep.plan_of([*command, *each]).trials} for each in (swept, swept[::-1])]
    ends = [f"batch_size=8,optimizer.b2=0.9,optimizer.learning_rate=0.001,seed={seed}" for seed in (0, 1)]
    assert names[0] == names[1] == {"full," * named + end for end in ends}


@pytest.mark.parametrize("given", ["", "full"])
def test_a_folder_from_when_the_order_and_spelling_of_flags_counted_is_found(given, tmp_path, capsys):
    path, workdir = tmp_path / "mine.py", tmp_path / "sweep"
    file = (
        "from configs.quickstart import get_config\ndef get_sweep(): return [{{'name': '{}', 'model.decoder': 'emd'}}]"
    )
    path.write_text(file.format(given))
    command = [f"--config={path}", "--metric=eval/loss:min", f"--workdir={workdir}", "--grid=seed=0,1"]
    command += ["--grid=optimizer.learning_rate=1e-3", "--grid=model.pos_att_type=('c2p','p2c')"]
    plan = sweep.plan_of(command)
    old = [f"{given or 'model.decoder=emd'},seed={seed},optimizer.learning_rate=1e-3" for seed in (0, 1)]
    before = [dataclasses.replace(trial, name=name) for trial, name in zip(plan.trials, old, strict=True)]
    done_trials(plan._replace(trials=before), {"step": 1, "eval/loss": 1.0})
    sweep.note(plan._replace(trials=before), "before")
    assert errors.run(sweep.main, command) == 0  # nothing is run: train.py would find no data
    assert capsys.readouterr().out.splitlines()[0] == "2 runs: 2 done"
    assert [trial.name for trial in sweep.plan_of(command).trials] == old
    if given:  # another name is another run
        path.write_text(file.format("full_size"))
        assert {trial.name[:10] for trial in sweep.plan_of(command).trials} == {"full_size,"}


def test_a_dry_run_prints_what_is_not_finished_and_writes_nothing(tmp_path, capsys):
    command = [*QUICK, "--grid=optimizer.learning_rate=1e-3,2e-3", "--grid=model.pos_att_type=(),('c2p','p2c')"]
    command += ["--config.steps=90", f"--workdir={tmp_path / 'a b'}", "--dry_run"]
    sweep.main(command)
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "a b").exists()
    assert [shlex.split(line)[2:] for line in lines] == [
        [
            "--config=configs/quickstart.py",
            "--config.steps=90",
            f"--config.optimizer.learning_rate={rate}",
            f"--config.model.pos_att_type={terms}",
            f"--workdir={tmp_path}/a b/model.pos_att_type={name},optimizer.learning_rate={number}",
        ]
        for rate, number in (("1e-3", "0.001"), ("2e-3", "0.002"))
        for terms, name in (("()", ""), ("('c2p','p2c')", "c2p,p2c"))
    ]
    done = sweep.plan_of(command).trials[2]
    (tmp_path / "a b" / done.name).mkdir(parents=True)
    write_record(tmp_path / "a b" / done.name, Record("done", 0, "", 1.0, list(done.flags)))
    sweep.main(command)
    assert capsys.readouterr().out.splitlines() == [*lines[:2], lines[3]]


def test_the_ablation_has_the_paper_s_variations_with_three_seeds():
    plan = sweep.plan_of(["--config=configs/sweeps/ablation.py", "--metric=eval/loss:min", "--workdir=x"])
    by_seed = {seed: [trial.name for trial in plan.trials if trial.overrides["seed"] == seed] for seed in (0, 1, 2)}
    names = ["full", "no_emd", "no_c2p", "no_p2c", "no_c2p_p2c", "bert", "linear_positions", "convolution"]
    assert by_seed == {seed: [f"{name},seed={seed}" for name in names] for seed in (0, 1, 2)}
    assert all(steps * 8 * 128 <= 1_000_000 for steps in plan.steps)


def test_names_are_safe_and_short():
    assert sweep.folder_name("data.paths=('a/b c',),seed=1") == "data.paths=a_b_c,seed=1"
    long = [sweep.folder_name("x" * 300 + end) for end in "ab"]
    assert len(set(long)) == 2 and {len(name) for name in long} == {sweep.LONGEST_NAME}


def test_failed_trials_are_run_again_when_asked_or_when_their_flags_changed(tmp_path):
    command = [*QUICK, "--grid=seed=0,1,2", f"--workdir={tmp_path}"]
    plan = sweep.plan_of(command)
    for trial, state in zip(plan.trials, ("done", "failed", "stopped"), strict=True):
        (tmp_path / trial.name).mkdir()
        write_record(tmp_path / trial.name, Record(state, 0, "", 1.0, list(trial.flags)))

    def names(*more: str) -> list[str]:
        return [trial.name for trial in sweep.unfinished(sweep.plan_of([*command, *more]))]

    assert names() == ["seed=2"]
    assert names("--retry_failed") == ["seed=1", "seed=2"]
    assert names("--config.steps=90") == ["seed=0", "seed=1", "seed=2"]  # a done one is refused before: check_same


def test_a_sweep_keeps_another_out(tmp_path):
    refused = pytest.raises(errors.Refused, match="another sweep is running there")
    with sweep.held(tmp_path / "sweep"), refused, sweep.held(tmp_path / "sweep"):
        pass
    with sweep.held(tmp_path / "sweep"):
        pass


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config by its groups."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        *groups, name = key.split(".")
        functools.reduce(lambda inner, group: inner.setdefault(group, {}), groups, values)[name] = value
    return values


def done_trials(plan: sweep.Plan, row: dict) -> None:
    """Trials of the plan as they look once they are done, each with one line of metrics."""
    for trial in plan.trials:
        folder = plan.args.workdir / trial.name
        folder.mkdir(parents=True)
        write_record(folder, record_of(trial, "done", 0, "", 1.0))
        (folder / "config.json").write_text(json.dumps(nested(trial.settings)))
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"eval/loss": 2.0, "loss": 1.0}, ", did you mean 'eval/loss'?; there are eval/loss, loss"),
        ({"loss": 1.0}, ", did you mean 'loss'?; there are loss"),  # never evaluated
    ],
)
def test_a_metric_that_no_trial_has_is_said_at_the_end_with_those_that_exist(row, said, tmp_path, capsys):
    command = ["--config=configs/quickstart.py", "--metric=eval/los:min", "--grid=seed=0,1", f"--workdir={tmp_path}"]
    done_trials(sweep.plan_of(command), {"step": 1} | row)
    assert errors.run(sweep.main, command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"refused: --metric: no run has 'eval/los'{said}"


def test_where_trials_went_wrong_a_metric_that_nobody_has_is_told_if_it_could_have_been_there(tmp_path):
    plan = sweep.plan_of([*QUICK, "--grid=seed=0,1", f"--workdir={tmp_path}"])
    done_trials(plan, {"step": 1, "loss": 1.0})
    sweep.note(plan, "python -m deberta_jax.tools.sweep")
    for trial, metric_is_told in zip(plan.trials, (True, False), strict=True):
        write_record(tmp_path / trial.name, Record("failed", 1, "failed: x", 1.0, list(trial.flags)))
        with pytest.raises(errors.Failed, match=r"trials did not end well: seed=0 \(failed: failed: x\)") as raised:
            sweep.conclude(plan, {}, stopped=False, fault="")
        assert ("no run has 'eval/loss'" in str(raised.value)) == metric_is_told


def test_after_a_signal_what_is_left_is_told_and_what_ended_is_concluded(tmp_path, capsys):
    """A failed trial is not left: the same command does not run it."""
    plan = sweep.plan_of([*QUICK, "--grid=seed=0,1,2", f"--workdir={tmp_path}"])
    done_trials(plan, {"step": 1, "eval/loss": 1.0})
    sweep.note(plan, "python -m deberta_jax.tools.sweep")
    sweep.conclude(plan, {}, stopped=True, fault="")  # it came when the last one had ended
    assert capsys.readouterr().out.splitlines()[0] == "3 runs: 3 done"
    for number, state in ((0, "failed"), (1, "stopped")):
        trial = plan.trials[number]
        write_record(tmp_path / trial.name, Record(state, 1, "", 1.0, list(trial.flags)))
    with pytest.raises(errors.Stopped, match="^1 of 3 trials are left: run the same command to go on$"):
        sweep.conclude(plan, {}, stopped=True, fault="")


def test_a_later_command_in_the_same_folder_adds_its_trials(tmp_path, capsys):
    for seeds in ("0,1", "1,2"):
        command = [*QUICK, f"--grid=seed={seeds}", f"--workdir={tmp_path}"]
        plan = sweep.plan_of(command)
        done_trials(
            plan._replace(trials=[t for t in plan.trials if not (tmp_path / t.name).exists()]),
            {"step": 1, "eval/loss": 1.0},
        )
        assert errors.run(sweep.main, command) == 0
    said = json.loads((tmp_path / "sweep.json").read_text())
    assert [trial["name"] for trial in said["trials"]] == ["seed=1", "seed=2", "seed=0"]
    assert said["trials"][0]["overrides"] == {"seed": 1}
    assert (said["metric"], said["goal"], said["config"]) == ("eval/loss", "min", "configs/quickstart.py")
    assert said["command"].startswith("python -m deberta_jax.tools.sweep --config=configs/quickstart.py")
    capsys.readouterr()


def test_what_an_earlier_command_never_began_is_not_asked_for_any_more(tmp_path, capsys):
    """What it began stays: on record, by hand, or as a job that may still wait."""
    earlier = sweep.plan_of([*QUICK, "--grid=seed=0,1,2,3,4", f"--workdir={tmp_path}"])
    later = [*QUICK, "--grid=seed=4", f"--workdir={tmp_path}"]
    sweep.note(earlier, "earlier")
    for seed in (0, 1, 2):
        (tmp_path / f"seed={seed}").mkdir()  # of 0 no more than that: it was stopped before it began
    write_record(tmp_path / "seed=1", record_of(earlier.trials[1], "failed", 1, "failed: x", 1.0))
    (tmp_path / "seed=2" / "metrics.jsonl").write_text('{"step": 1, "eval/loss": 2.0}\n')
    (tmp_path / "jobs.json").write_text('{"seed=3": "17"}')
    done_trials(sweep.plan_of(later), {"step": 1, "eval/loss": 1.0})
    assert errors.run(sweep.main, later) == 0
    names = [trial["name"] for trial in json.loads((tmp_path / "sweep.json").read_text())["trials"]]
    assert names == ["seed=4", "seed=1", "seed=2", "seed=3"]
    assert capsys.readouterr().out.splitlines()[0] == "4 runs: 1 done, 1 failed, 2 not run"
    (tmp_path / "jobs.json").unlink()
    sweep.note(sweep.plan_of(later), "later")
    names = [trial["name"] for trial in json.loads((tmp_path / "sweep.json").read_text())["trials"]]
    assert names == ["seed=4", "seed=1", "seed=2"]


def test_a_trial_that_runs_with_other_flags_is_not_taken_for_this_one(tmp_path, capsys):
    """As one that a killed sweep left running: it has no checkpoint yet, and would be one when this command runs it."""
    (tmp_path / "seed=0").mkdir()
    write_record(tmp_path / "seed=0", Record("running", None, "", None, ["--config=x.py", "--config.seed=0"]))
    command = [*QUICK, "--grid=seed=0", f"--workdir={tmp_path}", "--dry_run"]
    sweep.main(command)  # nobody lives there
    capsys.readouterr()
    with (tmp_path / "seed=0" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "seed=0 was run with other flags (--config=configs/quickstart.py, --config=x.py)" in refusal(
            capsys, *command
        )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"trials": [1]}', '{"trials": [{"name": "a"}]}'])
def test_a_damaged_note_of_the_sweep_is_refused(text, tmp_path, capsys):
    command = [*QUICK, "--grid=seed=0", f"--workdir={tmp_path}"]
    done_trials(sweep.plan_of(command), {"step": 1, "eval/loss": 1.0})
    (tmp_path / "sweep.json").write_text(text)
    assert "sweep.json is damaged: delete it" in refusal(capsys, *command)


STAND_IN = """
import sys
from pathlib import Path

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
(Path(flags["workdir"]) / "metrics.jsonl").write_text('{"step": 1, "eval/loss": 1.5}\\n')
"""


@pytest.fixture
def quick(tmp_path, monkeypatch) -> list[str]:
    """A command whose trials are those of a stand-in for train.py in the current folder, and end at once."""
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    return [f"--config={ROOT}/configs/quickstart.py", "--metric=eval/loss:min", "--workdir=sweep"]


def test_parallel_is_how_many_trials_run_at_a_time(quick, tmp_path):
    """Each waits for another one beside it, and then a moment, in which a third one might come."""
    waits = """
import time
def note(what):
    with open("events.txt", "a") as events:
        events.write(what + "\\n")
note("began")
deadline = time.monotonic() + 20
while Path("events.txt").read_text().count("began") < 2:
    if time.monotonic() > deadline:
        sys.exit("refused: it is alone")
    time.sleep(0.01)
time.sleep(0.3)
note("ended")
"""
    (tmp_path / "train.py").write_text(STAND_IN + waits)
    assert errors.run(sweep.main, [*quick, "--grid=seed=0,1,2,3", "--parallel=2"]) == 0
    events = (tmp_path / "events.txt").read_text().split()
    alive = [events[:at].count("began") - events[:at].count("ended") for at in range(len(events) + 1)]
    assert max(alive) == 2 and alive[-1] == 0


def test_where_a_trial_s_folder_cannot_be_written_the_others_are_run_and_reported(quick, tmp_path, capsys):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "seed=1").write_text("")
    assert errors.run(sweep.main, [*quick, "--grid=seed=0,1,2"]) == 1
    out, err = capsys.readouterr()
    said = "seed=1 (stopped: File exists: sweep/seed=1; the same command goes on with it)"
    assert err.splitlines()[-1] == f"failed: 1 of 3 trials did not end well: {said}"
    assert out.splitlines()[0] == "3 runs: 2 done, 1 not run"


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    with contextlib.suppress(OSError), open("/dev/full", "w") as file:  # what it holds back fails again at its end
        yield file


def test_a_table_that_cannot_be_shown_is_told_when_all_is_done(quick, full_disk, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "Console", lambda stderr: Console(file=full_disk))
    assert errors.run(sweep.main, [*quick, "--grid=seed=0,1"]) == 1
    out, err = capsys.readouterr()
    said = "failed: the table of trials could not be shown: No space left on device: a file that was being written"
    assert err.splitlines() == [said] and out.splitlines()[0] == "2 runs: 2 done"


def test_a_report_that_cannot_be_written_is_told_beside_the_trials(quick, tmp_path, capsys):
    (tmp_path / "sweep" / "report").mkdir(parents=True)
    (tmp_path / "sweep" / "report" / "report.html.tmp").mkdir()
    assert errors.run(sweep.main, [*quick, "--grid=seed=0,1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "failed: the report could not be written: Is a directory: sweep/report/report.html.tmp"
    )


# One program for all, compiled once: seed and learning rate would be constants in it, that of the evaluation is not.
FAILS, KILLED = "eval.seed=2,init_from=nowhere", "eval.seed=1,init_from="


def start(workdir: Path, prepared: Path, cache: Path) -> subprocess.Popen:
    """A sweep of four tiny trials, two at a time; the start of the third is not there."""
    flags = tiny_flags(prepared, steps=40, eval__every=0, eval__samples=0, checkpoint__every_steps=10)
    command = [sys.executable, "-m", "deberta_jax.tools.sweep", *flags, "--metric=eval/loss:min", "--parallel=2"]
    command += ["--zip=eval.seed=0,1,2,3", "--zip=init_from=,,nowhere,", f"--workdir={workdir}"]
    cached = {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(cache)}
    environment = os.environ | cached | {"XLA_FLAGS": FAST_TO_COMPILE}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


def steps_logged(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    rows = map(json.loads, path.read_text().rpartition("\n")[0].splitlines()) if path.is_file() else ()
    return [row["step"] for row in rows if "loss" in row]


def states(workdir: Path) -> dict[str, str]:
    trials = json.loads((workdir / "sweep.json").read_text())["trials"]
    return {trial["name"]: read_record(workdir / trial["name"]).state for trial in trials}


@pytest.mark.slow
@pytest.mark.two_process
def test_one_fails_and_one_is_killed_and_the_same_command_finishes_what_is_missing(prepared, compiled, tmp_path):
    workdir = tmp_path / "sweep"
    process = start(workdir, prepared, compiled)
    wait_for(lambda: len(steps_logged(workdir / KILLED)) > 5, process)
    children = psutil.Process(process.pid).children()
    (victim,) = [child for child in children if f"--workdir={workdir / KILLED}" in child.cmdline()]
    victim.kill()
    done = finish(process)
    assert done.returncode == 1, done.stderr
    others = {name for name in states(workdir)} - {FAILS, KILLED}
    assert states(workdir) == {name: "done" for name in others} | {FAILS: "failed", KILLED: "stopped"}
    last = done.stderr.splitlines()[-1]
    assert last.startswith("failed: 2 of 4 trials did not end well: ")
    assert f"{KILLED} (stopped: ended by signal 9 (Killed)" in last and f"{FAILS} (failed: refused: " in last
    assert read_record(workdir / FAILS).exit_code == 2
    assert len(steps_logged(workdir / KILLED)) < 40

    before = {name: (workdir / name / "trial.json").stat().st_mtime_ns for name in others | {FAILS}}
    done = finish(start(workdir, prepared, compiled))
    assert done.returncode == 1, done.stderr
    assert {name: (workdir / name / "trial.json").stat().st_mtime_ns for name in before} == before  # nothing ran twice
    assert states(workdir) == {name: "done" for name in others | {KILLED}} | {FAILS: "failed"}
    assert done.stderr.splitlines()[-1].startswith(f"failed: 1 of 4 trials did not end well: {FAILS} (failed: refused")
    assert {tuple(steps_logged(workdir / name)) for name in others | {KILLED}} == {tuple(range(1, 41))}
    assert done.stdout.splitlines()[0] == "4 runs: 3 done, 1 failed"
    page = html.unescape(re.sub("<wbr */?>", "", (workdir / "report" / "report.html").read_text()))
    assert FAILS in page and read_record(workdir / FAILS).error in page
