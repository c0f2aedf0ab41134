"""tools.convert as a user meets it: a published directory becomes a workdir, trains, and goes back."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import eval as eval_command
from deberta_jax import errors
from deberta_jax.convert.load import load_with_report
from deberta_jax.convert.weights import write_weights
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import convert
from hf_directories import make_directory
from runs import ROOT, finish, metrics, tiny_flags

ROWS = 620  # of the word table, for 601 ids: as the released tables, it is larger than it need be
MATCHING = {  # what the config of a run must say to train the converted model on
    "model__vocab_size": ROWS,
    "model__hidden_size": 16,
    "model__num_layers": 3,
    "model__intermediate_size": 24,
    "model__max_relative_positions": 32,
    "model__max_position_embeddings": 32,
    "model__dtype": "float32",
}


@pytest.fixture(scope="module")
def official(spm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released v3 checkpoint in small: official names, position table, masked-LM head, spm.model."""
    directory = make_directory(tmp_path_factory.mktemp("hub") / "official", "v3", "mlm", vocab_size=ROWS)
    shutil.copy(spm_dir / "spm.model", directory)
    return directory


@pytest.fixture(scope="module")
def workdir(official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "workdir"
    run(f"--source={official}", f"--output={path}")
    return path


def run(*flags: str) -> None:
    """The command, its config found wherever the test runs."""
    convert.main([*flags, f"--config={ROOT / 'configs' / 'base.py'}"])


def test_there_and_back_is_bitwise_with_the_tokenizer(official, workdir, tmp_path):
    run(f"--checkpoint={workdir}", f"--output={tmp_path / 'back'}")
    before, after = load_file(official / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
        assert after[name].dtype == values.dtype
    assert (tmp_path / "back" / "spm.model").read_bytes() == (official / "spm.model").read_bytes()
    assert (tmp_path / "back" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_a_converted_model_trains_and_its_checkpoint_is_exported(official, workdir, prepared, launch, tmp_path):
    trained, exported = tmp_path / "run", tmp_path / "exported"
    flags = tiny_flags(prepared, init_from=str(workdir), **MATCHING)
    done = finish(launch("train.py", *flags, f"--workdir={trained}"))
    assert done.returncode == 0, done.stderr
    assert f"parameters from {workdir}, step 0" in done.stderr
    run(f"--checkpoint={trained}", f"--output={exported}")
    assert json.loads((exported / "config.json").read_text())["legacy"] is False
    assert load_tokenizer(exported).size == 601
    model, params, report = load_with_report(exported, "mlm")
    _, start, _ = load_with_report(official, "mlm")
    moved = jax.tree.map(lambda one, other: float(np.abs(one - other).max()), params, start)
    assert all(0 < distance < 0.1 for distance in jax.tree.leaves(moved)), moved
    assert (report.missing, report.unused, report.new) == ((), (), ())
    assert report.decoder.startswith("emd")
    assert model.cfg.vocab_size == ROWS
    assert [line["step"] for line in metrics(trained) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_fill_mask_reads_a_converted_workdir(workdir, capsys):
    eval_command.main([f"--workdir={workdir}", "--fill_mask=ba [MASK] do."])
    sentence, guesses = capsys.readouterr().out.splitlines()
    assert sentence == "ba [MASK] do."
    assert len(guesses.split("  ")[1:]) == 10


def test_a_workdir_of_another_head_goes_back_too(tmp_path):
    source = make_directory(tmp_path / "source", "v1", "token_classification", dtype="float16")
    run(f"--source={source}", f"--output={tmp_path / 'workdir'}")
    run(f"--checkpoint={tmp_path / 'workdir'}", f"--output={tmp_path / 'back'}")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert {name: values.tobytes() for name, values in before.items()} == {
        name: values.tobytes() for name, values in after.items()
    }
    assert not (tmp_path / "workdir" / "config.json").exists()  # no objective trains it yet


REFUSED = {
    "neither": ([], "give either --source=HF_DIR or --checkpoint=WORKDIR"),
    "both": (["--source=a", "--checkpoint=b"], "give either --source=HF_DIR or --checkpoint=WORKDIR"),
    "no directory": (["--source=nowhere"], "nowhere is no directory"),
    "no run": (["--checkpoint=nowhere"], "nowhere holds no complete checkpoint"),
    "a head that is not there": (["--source={official}", "--head=rtd"], "missing: mask_predictions."),
    "an unknown head": (["--source={official}", "--head=ner"], "argument --head: invalid choice: 'ner'"),
    "a number of rows in words": (["--source={official}", "--vocab_size=many"], "--vocab_size: expects a whole number"),
    "a full directory": (["--source={official}", "--output={official}"], "official is not empty"),
    "a misspelt flag": (["--sorce=x"], "unknown flag --sorce, did you mean '--source'?"),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_code_2(argv, message, official, tmp_path, capsys):
    flags = [flag.format(official=official) for flag in argv]
    flags = flags if any(flag.startswith("--output") for flag in flags) else [*flags, f"--output={tmp_path / 'out'}"]
    assert errors.run(convert.main, [*flags, f"--config={ROOT / 'configs' / 'base.py'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("refused: ") and message in line
    assert not (tmp_path / "out").exists()


def test_two_heads_in_one_file_must_be_chosen_from(tmp_path):
    source = make_directory(tmp_path / "source", "v3", "mlm")
    other = make_directory(tmp_path / "other", "v3", "rtd")
    tensors = load_file(other / "model.safetensors") | load_file(source / "model.safetensors")
    write_weights(source / "model.safetensors", tensors)
    with pytest.raises(errors.Refused, match="holds the heads mlm, rtd: choose one with --head"):
        run(f"--source={source}", f"--output={tmp_path / 'out'}")
    run(f"--source={source}", f"--output={tmp_path / 'out'}", "--head=rtd", "--allow=lm_predictions.*")
