"""train.py and eval.py as a user meets them: exit codes, one-line errors, scores and filled masks."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import eval as eval_command
import train
from deberta_jax import errors
from runs import ROOT, finish, metrics, tiny_flags

QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"


def outcome(argv: list[str], capsys, main: Callable = train.main) -> tuple[int, str, list[str]]:
    """(exit code, standard output, lines on standard error) of a command in this process."""
    code = errors.run(main, argv)
    out, err = capsys.readouterr()
    return code, out, err.splitlines()


REFUSED = {
    "unknown key": ([QUICKSTART, "--config.optimizer.learnin_rate=1"], "did you mean 'optimizer.learning_rate'?"),
    "wrong type": ([QUICKSTART, "--config.steps=many"], "config.steps expects int, got 'many'"),
    "fraction of a step": ([QUICKSTART, "--config.steps=1.5"], "config.steps expects int, got '1.5'"),
    "no dashes": ([QUICKSTART, "config.steps=3"], "'config.steps=3' needs two dashes"),
    "leftover": ([QUICKSTART, "steps=3"], "unrecognized arguments: steps=3"),
    "no config": (["--workdir=x"], "--config=PATH.py is missing"),
    "no such config": ([QUICKSTART.replace("start", "strat")], "does not exist, did you mean 'quickstart.py'?"),
    "no workdir": ([QUICKSTART], "--workdir=DIR is missing"),
    "empty workdir": ([QUICKSTART, "--workdir="], "argument --workdir: expects a value, got nothing"),
    "misspelt flag": ([QUICKSTART, "--workdri=x"], "unknown flag --workdri, did you mean '--workdir'?"),
    "nonsense": ([QUICKSTART, "--config.model.decoder=emb"], "model.decoder must be one of emd, none; got 'emb'"),
    "replay in a bucket": (
        [QUICKSTART, "--workdir=gs://b/run", "--replay=3"],
        "--replay of --workdir: gs://b/run is a bucket, this must be files: mount it (gcsfuse) or copy it",
    ),
    "no replay": ([QUICKSTART, "--workdir=x", "--replay=soon"], "argument --replay: expects a whole number"),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_code_2(argv, message, capsys):
    code, out, lines = outcome(argv, capsys)
    assert (code, out) == (2, "")
    (line,) = lines
    assert line.startswith("refused: ")
    assert message in line


TASK = f"--config={ROOT / 'configs' / 'finetune.py'}:mnli,tiny"
BESIDE = {
    "--data": ([QUICKSTART, "--data=d", "--config.eval.max_rows=5"], "eval.max_rows says nothing beside --data"),
    "--task": ([TASK, "--config.data.dir=d", "--task=ax", "--config.data.validation=('a',)"], "beside --task: leave"),
    "--split": ([TASK, "--config.data.dir=d", "--split=a", "--config.data.validation=('b',)"], "beside --split: leave"),
}


@pytest.mark.parametrize(("argv", "message"), BESIDE.values(), ids=BESIDE)
def test_an_override_that_a_flag_of_eval_takes_the_place_of_is_refused(argv, message, capsys):
    code, out, (line,) = outcome(["--workdir=x", *argv], capsys, eval_command.main)
    assert (code, out) == (2, "")
    assert message in line


def test_mistakes_are_found_before_jax_is_imported():
    script = "\n".join(
        [
            "import sys, train, eval",
            "from deberta_jax import errors",
            f"assert errors.run(train.main, {REFUSED['wrong type'][0]}) == 2",
            f"assert errors.run(train.main, {REFUSED['nonsense'][0]}) == 2",
            f"assert errors.run(train.main, {[QUICKSTART, '--print_config']}) == 0",
            "assert errors.run(eval.main, ['--workdir=nowhere']) == 2",
            "assert 'jax' not in sys.modules",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_print_config_shows_every_key_and_what_differs_from_the_preset(capsys):
    code, out, lines = outcome([QUICKSTART, "--config.steps=1e5", "--print_config"], capsys)
    assert (code, lines) == (0, [])
    assert "model.decoder = 'emd'" in out.splitlines()
    (changed,) = [line for line in out.splitlines() if "# preset" in line]
    assert re.fullmatch(r"steps = 100000  # preset: \d+", changed)


def test_a_workdir_that_cannot_be_written_is_refused(prepared, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, (line,) = outcome([*absolute(tiny_flags(prepared)), f"--workdir={tmp_path / 'file'}"], capsys)
    assert code == 2
    assert line == f"refused: workdir {tmp_path / 'file'} cannot be written: File exists"


def test_both_commands_keep_what_they_compile(prepared, tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr("deberta_jax.train.compiled.keep_compiled", lambda: called.append("kept"))
    (tmp_path / "file").write_text("")
    outcome([*absolute(tiny_flags(prepared)), f"--workdir={tmp_path / 'file'}"], capsys)
    assert called == ["kept"]
    outcome([f"--workdir={tmp_path / 'file'}", *absolute(tiny_flags(prepared))], capsys, eval_command.main)
    assert called == ["kept", "kept"]


def absolute(flags: list[str]) -> list[str]:
    """The same flags, from any directory."""
    return [QUICKSTART, *flags[1:]]


@pytest.mark.two_process
def test_a_batch_that_the_devices_cannot_share_is_refused(prepared, launch, tmp_path):
    flags = [*tiny_flags(prepared, batch_size=12), f"--workdir={tmp_path / 'run'}"]
    done = finish(launch("train.py", *flags, devices=8))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("refused: batch_size / micro_batches = 12 is not a multiple of the 8 parts")


@pytest.fixture(scope="module")
def trained(launch: Callable, prepared: Path, tmp_path_factory) -> Path:
    """The workdir of six steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    flags = [*tiny_flags(prepared, eval__max_rows=0, eval__samples=2), f"--workdir={workdir}"]
    done = finish(launch("train.py", *flags, JAX_LOG_COMPILES="1"))
    assert done.returncode == 0, done.stderr
    (workdir / "stderr.txt").write_text(done.stderr)
    return workdir


def compiled(log: str) -> list[str]:
    """The names of the programs that a process asked for."""
    return re.findall(r"Finished XLA compilation of jit\((.*)\) in", log)


def test_training_and_evaluating_take_one_compilation_each(trained):
    """Of six steps, with an evaluation in the middle and one at the end."""
    assert sum("eval/loss" in line for line in metrics(trained)) == 2
    count = Counter(compiled((trained / "stderr.txt").read_text()))
    assert (count["train_step"], count["_evaluate"], count["predict"]) == (1, 1, 1)


@pytest.mark.two_process
@pytest.mark.slow
def test_the_config_a_run_leaves_runs_again_to_the_same_numbers_and_compiles_nothing(trained, launch, tmp_path):
    flags = [f"--config={trained / 'config.json'}", f"--workdir={tmp_path / 'again'}"]
    again = finish(launch("train.py", *flags, JAX_LOG_COMPILES="1"))
    assert again.returncode == 0, again.stderr
    found = re.findall(r"Persistent compilation cache hit for 'jit_(\w*)'", again.stderr)
    assert "train_step" in found and len(found) == len(compiled(again.stderr))
    assert metrics(tmp_path / "again") == metrics(trained)
    assert (tmp_path / "again" / "config.json").read_bytes() == (trained / "config.json").read_bytes()


@pytest.mark.two_process
@pytest.mark.slow
def test_eval_gives_the_scores_of_the_run_for_any_batch_size(trained, prepared, launch, tmp_path):
    runs = {
        "same": [],
        "other": ["--config.eval.batch_size=7", f"--config={trained / 'config.json'}"],
    }
    logged = {
        key.removeprefix("eval/"): value
        for line in metrics(trained)
        if line["step"] == 6 and "eval/loss" in line
        for key, value in line.items()
    }
    for name, flags in runs.items():
        done = finish(launch("eval.py", f"--workdir={trained}", f"--output={tmp_path / name}", *flags))
        assert done.returncode == 0, done.stderr
        scores = json.loads(done.stdout)
        assert scores == json.loads((tmp_path / name / "scores.json").read_text())
        assert scores.pop("sets") == [{"path": str(prepared), "split": "holdout"}]
        assert scores.keys() == logged.keys()
        assert scores["predictions"] == logged["predictions"]
        assert scores == pytest.approx(logged, rel=1e-6)
        assert (scores == logged) == (name == "same")


@pytest.mark.two_process
@pytest.mark.slow
def test_eval_scores_all_rows_of_any_prepared_set(trained, prepared, launch, tmp_path):
    done = finish(launch("eval.py", f"--workdir={trained}", f"--data={prepared}", f"--output={tmp_path}"))
    assert done.returncode == 0, done.stderr
    held_out = next(line for line in metrics(trained) if "eval/loss" in line)
    assert json.loads(done.stdout)["predictions"] > 5 * held_out["eval/predictions"]


@pytest.mark.two_process
@pytest.mark.slow
def test_fill_mask_prints_the_best_tokens_of_every_mask(trained, launch, documents):
    masked = re.sub(r"\S+", "[MASK]", documents[0][:60], count=1)
    texts = [f"--fill_mask={masked}", "--fill_mask=ki [MASK] ne [MASK]."]
    done = finish(launch("eval.py", f"--workdir={trained}", *texts))
    assert done.returncode == 0, done.stderr
    first, guesses, second, *more = done.stdout.splitlines()
    assert (first, second) == (masked, "ki [MASK] ne [MASK].")
    assert len(more) == 2
    for line in (guesses, *more):
        probabilities = [float(entry.split()[-1]) for entry in line.strip().split("  ")]
        assert len(probabilities) == 10
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1.005  # ten rounded numbers


def test_eval_refuses_what_does_not_fit_in_one_line(trained, prepared, tmp_path, capsys):
    config = f"--config={trained / 'config.json'}"
    cases = {
        f"model.hidden_size 32, the config says 64|{trained}": [config, "--config.model.hidden_size=64"],
        f"model.decoder 'emd', the config says 'none'|{trained}": [config, "--config.model.decoder=none"],
        f"prepared directory {tmp_path / 'nowhere'} does not exist|{trained}": [f"--data={tmp_path / 'nowhere'}"],
        f"config file {tmp_path / 'config.json'} does not exist|{tmp_path}": [],
        "--workdir: gs://b/run is a bucket, this must be files|gs://b/run": [],
        f"--output: gs://b/out is a bucket|{trained}": ["--output=gs://b/out"],
        "argument --workdir: expects a value, got nothing|": [],
        f"argument --data: expects a value, got nothing|{trained}": ["--data="],
        f"argument --output: expects a value, got nothing|{trained}": ["--output="],
        f"unknown flag --fill_masks, did you mean '--fill_mask'?|{trained}": ["--fill_masks=x"],
    }
    for case, flags in cases.items():
        message, _, workdir = case.partition("|")
        code, out, lines = outcome([f"--workdir={workdir}", *flags], capsys, eval_command.main)
        assert (code, out) == (2, ""), case
        assert message in lines[-1]
    assert not (trained / "eval").exists()


def test_eval_refuses_a_sentence_without_a_mask(trained, capsys):
    code, _, lines = outcome([f"--workdir={trained}", "--fill_mask=ki ne."], capsys, eval_command.main)
    assert code == 2
    assert "no [MASK] in 'ki ne.'" in lines[-1]


def test_eval_needs_a_run_that_was_saved(trained, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    os.symlink(trained / "tokenizer", tmp_path / "tokenizer")
    code, _, lines = outcome([f"--workdir={tmp_path}"], capsys, eval_command.main)
    assert code == 2
    assert lines[-1] == f"refused: {tmp_path} holds no complete checkpoint"
