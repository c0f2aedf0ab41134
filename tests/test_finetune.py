"""Fine-tuning of every kind of task, from files to scores, and what it refuses. Real processes train."""

import json
import math
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import eval as eval_command
from deberta_jax import errors
from deberta_jax.tools import convert
from deberta_jax.train import checkpoint
from deberta_jax.train.finetune import scores_until
from deberta_jax.train.selection import Selection
from runs import ROOT, arrays, finish, metrics
from task_files import EXAMPLES, KINDS, task_flags, write_task

pytestmark = [pytest.mark.two_process, pytest.mark.slow]
LEARNT = {
    "optimizer__schedule": "constant",
    "optimizer__learning_rate": 4e-3,
    "epochs": 40,  # to know 64 examples by heart
    "eval__every": 80,
    "eval__batch_size": 1,
}
SHOWN = {"regression": "pearson", "tagging": "f1", "span": "f1"}  # the others: accuracy


@pytest.fixture(scope="session")
def words(documents) -> list[str]:
    return sorted({word.lower().strip(".") for document in documents[:40] for word in document.split()})[:90]


@pytest.fixture(scope="session")
def folders(words, tmp_path_factory) -> dict[str, Path]:
    """A folder with a file of every kind."""
    root = tmp_path_factory.mktemp("tasks")
    return {kind: write_task(root / kind, kind, words) for kind in KINDS}


@pytest.fixture(scope="session")
def trained(folders, spm_dir, launch, tmp_path_factory) -> dict[str, Path]:
    """Workdirs of runs that learn 64 examples of each kind by heart, two at a time."""
    root = tmp_path_factory.mktemp("trained")
    flags = {kind: task_flags(kind, folders[kind], spm_dir, **LEARNT) for kind in KINDS}
    running = {}
    for kind in KINDS:
        running[kind] = launch("train.py", *flags[kind], f"--workdir={root / kind}")
        if len(running) % 2 == 0:
            _ended(running)
    _ended(running)
    return {kind: root / kind for kind in KINDS}


def _ended(running: dict) -> None:
    for kind in list(running):
        done = finish(running.pop(kind))
        assert done.returncode == 0, f"{kind}: {done.stderr}"


@pytest.mark.parametrize("kind", KINDS)
def test_64_examples_are_learnt_by_heart(kind, trained):
    best = json.loads((trained[kind] / "validation" / "scores.json").read_text())
    (scores,) = best["scores"].values()
    assert scores["examples"] == EXAMPLES
    assert scores[SHOWN.get(kind, "accuracy")] >= 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_eval_finds_what_the_run_found_on_other_devices_in_other_batches(kind, trained, capsys, tmp_path):
    """The run validated one row at a time on one device; here seven at a time on eight devices: exactly the same."""
    assert jax.device_count() == 8
    flags = [f"--workdir={trained[kind]}", "--config.eval.batch_size=7", f"--output={tmp_path}"]
    assert errors.run(eval_command.main, flags) == 0
    out, _ = capsys.readouterr()
    assert f"train.jsonl: {EXAMPLES} examples: " in out
    found, wanted = (
        json.loads((folder / "scores.json").read_text()) for folder in (tmp_path, trained[kind] / "validation")
    )
    assert found["step"] == wanted["step"]
    spread, alone = (scores["scores"]["train.jsonl"] for scores in (found, wanted))
    assert spread.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-5)  # a float32 sum of other batches
    assert spread == alone
    text = (tmp_path / "predictions-train.jsonl").read_text()
    assert text == (trained[kind] / "validation" / "predictions-train.jsonl").read_text()
    assert [json.loads(line)["id"] for line in text.splitlines()] == [f"n{number}" for number in range(EXAMPLES)]


def test_unlabelled_files_are_predicted_without_scores(trained, folders, capsys, tmp_path):
    hidden = tmp_path / "hidden.jsonl"
    rows = [json.loads(line) for line in (folders["classification"] / "train.jsonl").read_text().splitlines()[:5]]
    hidden.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "label"}) + "\n" for row in rows))
    flags = [f"--workdir={trained['classification']}", f"--split={hidden}", f"--output={tmp_path / 'out'}"]
    assert errors.run(eval_command.main, flags) == 0
    assert "5 examples predicted, none has a label" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions-hidden.jsonl").read_text().splitlines()]
    assert [line["gold"] for line in lines] == [None] * 5
    assert [line["prediction"] for line in lines] == [row["label"] for row in rows]
    assert all(sum(line["probabilities"]) == pytest.approx(1, abs=1e-5) for line in lines)


def test_a_score_that_is_no_number_is_read_from_the_log_as_the_worst(tmp_path):
    """A diverging run logs null for it, and is gone on with at a lower rate."""
    lines = [{"step": 4, "eval/score": None}, {"step": 5, "loss": 1.0}, {"step": 8, "eval/score": -0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    selection = Selection(0, scores_until(tmp_path, 8))
    assert (selection.step, selection.score) == (8, -0.5)
    assert Selection(0, scores_until(tmp_path, 7)).score == -math.inf


def assert_same_checkpoints(directory: Path, other: Path) -> None:
    """Bit for bit the same arrays in the same steps."""
    assert checkpoint.steps_in(directory) == checkpoint.steps_in(other)
    for step in checkpoint.steps_in(directory):
        found, wanted = arrays(directory, step), arrays(other, step)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_killed_and_run_again_it_equals_the_run_that_was_left_alone(launch, folders, spm_dir, tmp_path):
    """SIGKILL after an evaluation, and between two of them."""
    flags = task_flags("classification", folders["classification"], spm_dir, epochs=3, checkpoint__every_steps=3)
    alone = launch("train.py", *flags, f"--workdir={tmp_path / 'alone'}")
    assert finish(alone).returncode == 0
    notes = str(tmp_path / "notes")
    for moment in ("saved:3", "saved:4", "saved:4"):  # the second 4 is that of the best parameters
        killed = ["SIGKILL", moment, notes, *flags, f"--workdir={tmp_path / 'killed'}"]
        done = finish(launch("tests/troubled_train.py", *killed))
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr)
    assert finish(launch("train.py", *flags, f"--workdir={tmp_path / 'killed'}")).returncode == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "alone")
    for folder in ("checkpoints", "best"):
        assert_same_checkpoints(tmp_path / "killed" / folder, tmp_path / "alone" / folder)
    for name in ("scores.json", "predictions-train.jsonl"):
        found, wanted = ((tmp_path / run / "validation" / name).read_bytes() for run in ("killed", "alone"))
        assert found == wanted


def test_a_classifier_goes_to_transformers_and_comes_back_with_its_labels(trained, folders, spm_dir, tmp_path, capsys):
    """Written for transformers, converted again, and evaluated by the names of its labels."""
    exported, again = tmp_path / "exported", tmp_path / "again"
    convert.main([f"--checkpoint={trained['classification']}", f"--output={exported}"])
    assert json.loads((exported / "config.json").read_text())["id2label"] == {"0": "no", "1": "perhaps", "2": "yes"}
    convert.main([f"--source={exported}", f"--output={again}"])
    source, *flags = task_flags("classification", folders["classification"], spm_dir)
    flags += [f"--config={ROOT / source.removeprefix('--config=')}", f"--workdir={again}"]
    code = errors.run(eval_command.main, flags)
    assert code == 0, capsys.readouterr().err
    found, wanted = (
        [json.loads(line) for line in (folder / "predictions-train.jsonl").read_text().splitlines()]
        for folder in (again / "eval", trained["classification"] / "validation")
    )
    assert [line["prediction"] for line in found] == [line["prediction"] for line in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


REFUSED = {
    "two files of one name": (["--split=a/train.tsv", "--split=train.jsonl"], "there is another split or file 'train'"),
    "another task's labels": (["--task=rte"], "its head has the labels no, perhaps, yes, the task entailment"),
    "no such split": (["--split=nothing.jsonl"], "nothing.jsonl"),
    "another kind": (["--task=sts-b"], "data.task 'sts-b' is regression, objective says 'classification'"),
    "unknown task": (["--task=mprc"], "did you mean 'mrpc'?"),
    "no masks": (["--fill_mask=a [MASK]"], "was fine-tuned, it predicts no masked tokens"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_evaluated_is_one_line(flags, message, trained, folders, tmp_path, capsys):
    (tmp_path / "dev.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    where = [f"--workdir={trained['classification']}", f"--output={tmp_path / 'out'}"]
    where += [f"--data={tmp_path}"] if "rte" in flags[0] else []
    assert errors.run(eval_command.main, where + flags) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("refused: ")
    assert message in line
