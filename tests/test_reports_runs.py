import json
import re
import shutil

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.reports.runs import Ending, find, flat
from left_behind import STEPS, curve, write_grid, write_kept, write_run, write_sweep, write_trial


def endings(folder):
    return {run.name: run.ending for run in find([folder]).runs}


def test_a_run_is_what_it_left_behind(tmp_path):
    write_run(tmp_path / "one", curve(2.0), {"seed": 7, "optimizer.learning_rate": 0.5})
    (run,) = find([tmp_path / "one"]).runs
    assert (run.name, run.ending, run.trial, run.kept_step) == ("one", Ending("done"), None, None)
    assert (run.config["seed"], run.config["optimizer.learning_rate"], run.config["rtd"]) == (7, 0.5, None)
    assert run.environment["git"] == "0123abc"
    np.testing.assert_array_equal(run.metrics["eval/loss"].steps, [20, 40, 60, 80, 100])


def test_runs_up_to_two_levels_below_are_found_and_named_by_their_place(tmp_path):
    for name in ("b/seed-1", "b/seed-0", "a"):
        write_run(tmp_path / name, curve(2.0))
    (tmp_path / "a" / "tokenizer").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")  # converted, not trained
    assert [run.name for run in find([tmp_path]).runs] == ["a", "b/seed-0", "b/seed-1"]
    assert [run.name for run in find([tmp_path / "b", tmp_path / "a"]).runs] == ["b/seed-0", "b/seed-1", "a"]
    assert [run.name for run in find([tmp_path / "b" / "seed-1"]).runs] == ["seed-1"]


@pytest.mark.parametrize("write", [lambda folder: write_run(folder, []), lambda folder: write_sweep(folder, {"a": {}})])
def test_runs_further_below_are_not_left_out_without_a_word(tmp_path, write):
    write_run(tmp_path / "a", curve(2.0))
    write(tmp_path / "b" / "c" / "deep")
    with pytest.raises(Refused, match="b/c/deep is more than 2 levels below: name folders that are nearer"):
        find([tmp_path])
    assert len(find([tmp_path / "a", tmp_path / "b"]).runs) == 2


def test_a_sweep_has_all_its_trials_in_its_own_order(tmp_path):
    trials = {"lr=2,seed=0": {"seed": 0}, "lr=1": {"optimizer.learning_rate": 1.0}, "lr=3": {}}
    folder = write_sweep(tmp_path / "sweep", trials, "eval/accuracy", "max")
    write_run(folder / "lr=1", curve(2.0))
    write_trial(folder / "lr=1", "done", exit_code=0)
    write_trial(folder / "lr=3", "failed", "refused: no", 2)
    write_run(folder / "another", curve(2.0))  # no trial of this sweep
    found = find([folder])
    assert [(run.name, run.ending) for run in found.runs] == [
        ("lr=2,seed=0", Ending("not run")),
        ("lr=1", Ending("done", "", 0, 61.5)),
        ("lr=3", Ending("failed", "refused: no", 2, 61.5)),
    ]
    assert [run.trial.overrides for run in found.runs] == list(trials.values())
    (sweep,) = found.sweeps
    assert (sweep.metric, sweep.goal, found.commands) == ("eval/accuracy", "max", ("python -m sweep --x='<1 & 2>'",))
    above = find([tmp_path])
    assert [run.name for run in above.runs] == [f"sweep/{name}" for name in trials]
    assert above.sweeps == found.sweeps


def test_runs_without_a_sweep_say_themselves_how_they_ended(tmp_path):
    write_run(tmp_path / "t" / "to-the-end", curve(2.0))
    write_run(tmp_path / "t" / "evaluated-too-early", curve(2.0)[:-1])
    write_run(tmp_path / "t" / "stopped", curve(2.0, 50))
    (tmp_path / "t" / "stopped" / "log.txt").write_text("step 1\rstep 2\nstopped: SIGTERM at step 50\n")
    write_run(tmp_path / "t" / "diverged", curve(2.0, 50))
    (tmp_path / "t" / "diverged" / "log.txt").write_text("diverged: step 51\n")
    write_run(tmp_path / "t" / "going-on", curve(2.0, 50))
    (tmp_path / "t" / "going-on" / "log.txt").write_text("  5%|# | 1/2 [00:01]\r 10%")
    early = tmp_path / "t" / "no-metrics"  # of a suite: it never came as far as its config
    early.mkdir()
    ended = {"state": "failed", "exit_code": 1, "error": "MemoryError: much", "seconds": 1.5, "flags": []}
    (early / "trial.json").write_text(json.dumps(ended))
    raised = write_run(tmp_path / "t" / "raised", curve(2.0, 50))
    (raised / "log.txt").write_text("Traceback (most recent call last):\n  File x\nMemoryError: much\n\na note\n")
    told = write_run(tmp_path / "t" / "told", curve(2.0, 50))
    (told / "trial.json").write_text(
        json.dumps(ended | {"state": "done", "exit_code": 0, "error": "", "seconds": 12.5})
    )
    assert endings(tmp_path) == {
        "t/to-the-end": Ending("done"),
        "t/evaluated-too-early": Ending("unfinished"),
        "t/stopped": Ending("stopped", "stopped: SIGTERM at step 50"),
        "t/diverged": Ending("failed", "diverged: step 51"),
        "t/going-on": Ending("unfinished"),
        "t/no-metrics": Ending("failed", "MemoryError: much", 1, 1.5),
        "t/raised": Ending("failed", "MemoryError: much"),
        "t/told": Ending("done", "", 0, 12.5),
    }


@pytest.mark.parametrize(
    ("scores", "patience", "state"),
    [
        ([0.5, 0.4, 0.5], 2, "done"),  # an equal one is not better
        ([0.5, None, None], 2, "done"),
        ([None, 0.4, 0.3], 2, "unfinished"),
        ([0.5, 0.4, 0.6], 2, "unfinished"),
        ([0.5, 0.4, 0.3], 0, "unfinished"),
    ],
)
def test_a_fine_tuned_run_may_end_before_its_last_step(tmp_path, scores, patience, state):
    lines = [{"step": 10 * n, "eval/loss": 1.0, "eval/score": score} for n, score in enumerate(scores, 1)]
    write_run(tmp_path / "one", lines, {"eval.patience": patience})
    write_kept(tmp_path / "one", 10)
    (run,) = find([tmp_path]).runs
    assert (run.ending.state, run.kept_step) == (state, 10)


def test_the_command_of_a_suite_is_found(tmp_path):
    write_run(tmp_path / "mrpc" / "seed-0", curve(2.0))
    (tmp_path / "results.json").write_text(json.dumps({"command": "python -m glue"}))
    assert find([tmp_path]).commands == ("python -m glue",)


def test_what_cannot_be_read_is_one_line(tmp_path):
    write_grid(tmp_path / "grid")
    (tmp_path / "empty").mkdir()
    for given, message in [
        (["gird"], r"gird is no folder, did you mean 'grid'\?"),
        (["grid", "empty"], r"empty holds no run: there is no metrics\.jsonl in it or up to 2 levels below it"),
        (["grid", "."], r"grid/\S+seed=0 comes twice"),
    ]:
        with pytest.raises(Refused, match=message):
            find([tmp_path / name for name in given])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.json", "{", r"sweep\.json is not JSON"),
        ("sweep.json", "[]", r"sweep\.json is no JSON object"),
        ("sweep.json", '{"config": "", "metric": "", "goal": "", "command": "", "trails": []}', "has no 'trials', did"),
        ("a/trial.json", '{"state": "runing", "error": "", "exit_code": null, "seconds": 1}', "no state 'runing', did"),
        ("a/config.json", '{"ste', r"config\.json is not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text, message):
    write_sweep(tmp_path, {"a": {}})
    write_run(tmp_path / "a", curve(2.0))
    write_trial(tmp_path / "a", "done")
    (tmp_path / name).write_text(text)
    with pytest.raises(Refused, match=message):
        find([tmp_path])


def test_a_run_that_is_still_writing_is_read_as_far_as_it_is_whole(tmp_path):
    folder = write_run(tmp_path / "one", curve(2.0))
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 101, "lo')
    (run,) = find([folder]).runs
    assert run.metrics["loss"].steps[-1] == STEPS
    shutil.copy(folder / "metrics.jsonl", folder / "half.txt")
    (folder / "metrics.jsonl").write_text("")
    (run,) = find([folder]).runs
    assert (run.metrics, run.ending.state) == ({}, "unfinished")


def test_dotted_keys_stay_and_nested_ones_become_dotted():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e.f": None}) == {"a.b": 1, "a.c.d": [1, 2], "e.f": None}


def test_a_name_that_comes_twice_in_a_sweep_is_refused(tmp_path):
    folder = write_sweep(tmp_path, {"a": {}})
    text = (folder / "sweep.json").read_text()
    doubled = re.sub(r'("trials": \[)(.*)(\]\})', r"\1\2, \2\3", text)
    assert json.loads(doubled)["trials"][0] == json.loads(doubled)["trials"][1]
    (folder / "sweep.json").write_text(doubled)
    with pytest.raises(Refused, match="comes twice"):
        find([folder])
