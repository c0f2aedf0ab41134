"""Whole runs: a model learns, its workdir holds what was promised, and what does not fit is refused in one line."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import image

import train
from deberta_jax import errors
from deberta_jax.data.batches import Share, eval_batches
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import canonical_json, read_manifest, write_manifest
from deberta_jax.errors import Refused
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tokenizers.train import train_unigram
from deberta_jax.train import checkpoint, session
from deberta_jax.train.build import build_run, resolve
from deberta_jax.train.initial import starting_state
from deberta_jax.train.loop import last_evaluated
from deberta_jax.train.pretrain import lexicon_of
from runs import finish, metrics, prepare_rows, tiny_config, tiny_flags

STEPS = 150


@pytest.fixture(scope="module")
def learn_flags(prepared: Path) -> list[str]:
    changes = {"steps": STEPS, "log_every": 1, "eval__every": 50, "checkpoint__every_steps": 100, "eval__max_rows": 0}
    return tiny_flags(prepared, **changes, eval__samples=3)


@pytest.fixture(scope="module")
def trained(launch: Callable, learn_flags: list[str], tmp_path_factory) -> Path:
    """The workdir of a run that has learned for 150 steps."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = finish(launch("train.py", *learn_flags, f"--workdir={workdir}"))
    assert done.returncode == 0, done.stderr
    return workdir


def held_out(workdir: Path) -> list[dict]:
    return [line for line in metrics(workdir) if "eval/loss" in line]


def test_a_tiny_model_learns_which_tokens_are_frequent(trained):
    first, *_, last = held_out(trained)
    pieces = load_tokenizer(trained / "tokenizer").size
    assert [line["step"] for line in held_out(trained)] == [50, 100, 150]
    assert last["eval/loss"] < first["eval/loss"] < math.log(pieces)
    assert last["eval/loss"] < math.log(pieces) - 0.7
    assert last["eval/perplexity"] == pytest.approx(math.exp(last["eval/loss"]))
    losses = [line["loss"] for line in metrics(trained) if "loss" in line]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(math.log(pieces), abs=0.3)
    assert losses[-1] < losses[0] - 0.5


def test_held_out_numbers_count_each_masked_position_once(trained, prepared):
    manifest, tokenizer = read_manifest(prepared), load_tokenizer(prepared / "tokenizer")
    data = tiny_config(prepared).data
    rows = manifest.splits["holdout"].rows
    assert rows % 16  # the last batch of the run is not full
    batches = list(
        eval_batches([(manifest, "holdout")], data, Vocabulary.of(tokenizer), seed=0, share=Share.whole(rows))
    )  # all of them in one batch
    (batch,) = batches
    weights, labels = batch["weights"], batch["labels"]
    for line in held_out(trained):
        assert line["eval/predictions"] == weights.sum()
        baseline = ((labels == manifest.top_id) * weights).sum() / weights.sum()
        assert line["eval/baseline_accuracy"] == pytest.approx(baseline)


def test_a_workdir_holds_what_a_reader_looks_for(trained):
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert names >= {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "plots/curves.png",
        "tokenizer/spm.model",
        "checkpoints/150/digest.json",
        "checkpoints/100/digest.json",
    }
    assert any(name.startswith("tensorboard/") for name in names)
    assert image.imread(trained / "plots" / "curves.png").std() > 0.01  # something is drawn
    (samples,) = [line["samples"] for line in metrics(trained) if line["step"] == STEPS and "samples" in line]
    assert len(samples.splitlines()) == 3
    assert all(re.search(r"\S+ \| (\S+ 0\.\d\d ?){1}", line) for line in samples.splitlines())
    last = [line for line in metrics(trained) if "loss" in line][-1]
    expected = {"loss", "accuracy", "learning_rate", "gradient_norm", "update_norm", "parameter_norm", "tokens"}
    assert last.keys() >= expected
    assert last["tokens"] == STEPS * 8 * 32
    assert "mfu" not in last  # nobody knows the peak of a "cpu"


def test_a_finished_run_says_so_and_changes_nothing(trained, learn_flags, launch):
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}

    before = contents()
    (trained / "plots" / "curves.png").unlink()  # as if it had been killed before its picture
    again = finish(launch("train.py", *learn_flags, f"--workdir={trained}"))
    assert again.returncode == 0
    assert f"{trained} is trained: step {STEPS} of {STEPS}" in again.stderr
    assert contents() == before


@pytest.mark.two_process
@pytest.mark.slow
def test_a_run_that_is_told_to_end_before_the_step_it_had_reached_is_evaluated_there(
    trained, learn_flags, launch, tmp_path
):
    """Killed at step 100 before its first evaluation, then run again with 60 steps."""
    workdir = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "150")
    log = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(line for line in log if "eval/" not in line))
    flags = [*learn_flags, "--config.steps=60", "--config.eval.every=0", f"--workdir={workdir}"]
    done = finish(launch("train.py", *flags))
    assert done.returncode == 0, done.stderr
    assert "held out after step 100" in done.stdout
    (last,) = held_out(workdir)
    assert last["eval/loss"] == pytest.approx(held_out(trained)[1]["eval/loss"], abs=1e-6)


def test_the_last_evaluation_is_found_where_a_kill_left_half_a_line(tmp_path):
    assert last_evaluated(tmp_path) == -1
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "eval/loss": 6.0}\n{"step": 4, "loss": 6.0}\n{"step": 6, "ev')
    assert last_evaluated(tmp_path) == 3


def test_a_damaged_line_of_the_log_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "eval/loss": 6.0}\n{"step": 4, "lo\n')
    with pytest.raises(Refused, match=r"metrics\.jsonl, line 2 is not JSON"):
        last_evaluated(tmp_path)


@pytest.mark.two_process
@pytest.mark.slow
def test_longer_rows_go_on_from_the_parameters_of_shorter_ones(trained, documents, spm_dir, launch, tmp_path):
    prepare_rows(documents, spm_dir, tmp_path / "rows", length=64, holdout=0.1)
    flags = tiny_flags(tmp_path / "rows", steps=2, init_from=trained)
    done = finish(launch("train.py", *flags, f"--workdir={tmp_path / 'run'}"))
    assert done.returncode == 0, done.stderr
    assert f"parameters from {trained}, step {STEPS}" in done.stderr
    first, *_ = metrics(tmp_path / "run")
    fresh, *_ = metrics(trained)
    assert first["step"] == 1
    assert first["loss"] < fresh["loss"] - 0.5  # before its first update it knows what the other run learned


def state_at_start(prepared: Path, workdir: Path, **changes):
    """The state that a tiny run starts from."""
    manifest = read_manifest(prepared)
    config = resolve(tiny_config(prepared, **changes), [manifest], manifest.length)
    tokenizer = load_tokenizer(manifest.tokenizer_path)
    run = build_run(config, lexicon_of(tokenizer, manifest.top_id))
    return starting_state(run, workdir, session.meta_of(config, [manifest]))


def test_init_from_takes_the_parameters_and_nothing_else(trained, prepared, tmp_path):
    state = state_at_start(prepared, tmp_path, init_from=trained, seed=5, eval__max_rows=0)
    assert int(state.step) == int(state.skipped) == 0
    saved = checkpoint.restore_params(trained / "checkpoints", STEPS, jax.tree.map(as_shape, state.params))
    jax.tree.map(np.testing.assert_array_equal, state.params, saved)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert moments
    assert all((np.asarray(leaf) == 0).all() for leaf in moments)


def as_shape(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


@pytest.fixture(scope="module")
def other_tokenizer(documents: list[str], tmp_path_factory) -> Path:
    """A tokenizer of another size."""
    directory = tmp_path_factory.mktemp("other")
    settings = {"vocab_size": 500, "byte_fallback": False, "character_coverage": 1.0, "max_sentences": 0}
    (directory / "spm.model").write_bytes(train_unigram(documents, **settings))
    return directory


def test_init_from_what_does_not_fit_is_refused(trained, prepared, documents, other_tokenizer, tmp_path):
    with pytest.raises(Refused, match="init_from: .*nowhere holds no complete checkpoint"):
        state_at_start(prepared, tmp_path, init_from=tmp_path / "nowhere")
    with pytest.raises(Refused, match="has model.num_layers 2, the config says 4"):
        state_at_start(prepared, tmp_path, init_from=trained, model__num_layers=4)
    prepare_rows(documents, other_tokenizer, tmp_path / "rows", length=32, holdout=0.1)
    with pytest.raises(Refused, match="init_from: .* was trained with another tokenizer than the data"):
        state_at_start(tmp_path / "rows", tmp_path, init_from=trained)


def flip_a_shard_byte(rows: Path) -> str:
    shard = rows / "train-00000.array_record"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    return f"shard {shard} is corrupt"


def truncate_a_shard(rows: Path) -> str:
    shard = rows / "holdout-00000.array_record"
    shard.write_bytes(shard.read_bytes()[:-1])
    return f"shard {shard} has"


def remove_a_shard(rows: Path) -> str:
    (rows / "train-00000.array_record").unlink()
    return f"shard {rows / 'train-00000.array_record'} is missing"


def remove_the_manifest(rows: Path) -> str:
    (rows / "manifest.json").unlink()
    return f"{rows} has no manifest.json"


def edit_the_manifest(rows: Path) -> str:
    text = (rows / "manifest.json").read_text()
    (rows / "manifest.json").write_text(text.replace('"length": 32', '"length": 31'))
    return "manifest.json was changed after it was written"


def misspell_the_path(rows: Path) -> str:
    rows.rename(rows.with_name("rowz"))
    return f"prepared directory {rows} does not exist, did you mean 'rowz'?"


def claim_an_id_beyond_the_vocabulary(rows: Path) -> str:
    size = change_manifest(rows, lambda values: values | {"max_id": 9999})["tokenizer"]["size"]
    return f"{rows} holds the token id 9999, the vocabulary ends at {size - 1}"


def empty_the_train_split(rows: Path) -> str:
    nothing = {"rows": 0, "tokens": 0, "documents": 0, "shards": []}
    change_manifest(rows, lambda values: values | {"splits": values["splits"] | {"train": nothing}})
    return f"{rows} holds no train rows"


def hold_nothing_out(rows: Path) -> str:
    nothing = {"rows": 0, "tokens": 0, "documents": 0, "shards": []}
    change_manifest(rows, lambda values: values | {"splits": values["splits"] | {"holdout": nothing}})
    return "no held-out rows: prepare with --holdout"


def change_manifest(rows: Path, change: Callable[[dict], dict]) -> dict:
    """Writes a manifest that is in order by itself."""
    values = json.loads((rows / "manifest.json").read_text())
    assert canonical_json(values) == (rows / "manifest.json").read_text()
    values = change({key: value for key, value in values.items() if key not in ("fingerprint", "format")})
    write_manifest(rows, values)
    return values


BAD_ROWS = [
    flip_a_shard_byte,
    truncate_a_shard,
    remove_a_shard,
    remove_the_manifest,
    edit_the_manifest,
    misspell_the_path,
    claim_an_id_beyond_the_vocabulary,
    empty_the_train_split,
    hold_nothing_out,
]


def outcome(argv: list[str], capsys) -> tuple[int, list[str]]:
    """(exit code, lines on standard error) of train.py in this process."""
    capsys.readouterr()
    code = errors.run(train.main, argv)
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("spoil", BAD_ROWS, ids=lambda spoil: spoil.__name__)
def test_bad_rows_are_refused_in_one_line(spoil: Callable[[Path], str], prepared, tmp_path, capsys):
    shutil.copytree(prepared, tmp_path / "rows")
    message = spoil(tmp_path / "rows")
    code, lines = outcome([*tiny_flags(tmp_path / "rows"), f"--workdir={tmp_path / 'run'}"], capsys)
    assert code == 2
    (line,) = lines
    assert line.startswith("refused: ")
    assert message in line
    assert not list((tmp_path / "run").rglob("*"))


def test_rows_of_another_tokenizer_are_refused(prepared, documents, other_tokenizer, tmp_path, capsys):
    prepare_rows(documents, other_tokenizer, tmp_path / "rows", length=32, holdout=0.1)
    both = f"--config.data.paths=('{prepared}', '{tmp_path / 'rows'}')"
    code, (line,) = outcome([*tiny_flags(prepared), both, f"--workdir={tmp_path / 'run'}"], capsys)
    assert code == 2
    assert f"{tmp_path / 'rows'} was prepared with another tokenizer than {prepared}" in line
    shutil.copy(other_tokenizer / "spm.model", shutil.copytree(prepared, tmp_path / "mixed") / "tokenizer")
    code, (line,) = outcome([*tiny_flags(tmp_path / "mixed"), f"--workdir={tmp_path / 'run'}"], capsys)
    assert code == 2
    assert f"is not the tokenizer that {tmp_path / 'mixed'} was prepared with" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 100_000}, "train rows do not fill one batch of 100000"),
        ({"model__max_position_embeddings": 16}, "rows of 32 tokens need model.max_position_embeddings >= 32"),
        ({"model__vocab_size": 500}, "model.vocab_size is 500, the tokenizer of .* has 601 ids"),
        ({"optimizer__no_decay": ("norms$",)}, "optimizer.no_decay: 'norms$' matches no parameter"),
        ({"mesh": (("data", 3), ("fsdp", 1), ("tensor", 1))}, "mesh .* does not cover 8 devices"),
        ({"batch_size": 12}, "batch_size / micro_batches = 12 is not a multiple of the 8 parts"),
        ({"batch_size": 24, "micro_batches": 2}, "batch_size / micro_batches = 12 is not a multiple of the 8 parts"),
        ({"eval__batch_size": 4}, "eval.batch_size = 4 is not a multiple of the 8 parts"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(changes, message, prepared, tmp_path, capsys):
    code, lines = outcome([*tiny_flags(prepared, **changes), f"--workdir={tmp_path / 'run'}"], capsys)
    assert code == 2
    assert re.search(message.replace("$", r"\$"), lines[-1])
    assert not [line for line in lines if "Traceback" in line]


@pytest.fixture(scope="module")
def diverged(launch: Callable, prepared: Path, tmp_path_factory) -> tuple[subprocess.CompletedProcess, list[str]]:
    """(a run whose first update throws the parameters out of float32, its flags)."""
    workdir = tmp_path_factory.mktemp("diverged") / "run"
    wild = {"optimizer__learning_rate": 1e30, "optimizer__warmup_steps": 0, "max_bad_steps": 2, "eval__every": 0}
    flags = [*tiny_flags(prepared, **wild), f"--workdir={workdir}"]
    return finish(launch("train.py", *flags)), flags


@pytest.mark.two_process
@pytest.mark.slow
def test_a_run_that_diverges_ends_with_code_4_and_says_where_to_look(diverged):
    done, _ = diverged
    assert done.returncode == 4, done.stderr
    said = [line for line in done.stderr.splitlines() if "non-finite" in line]
    assert [re.search(r"step (\d+): .*\((\d) so far\)", line).groups() for line in said] == [
        ("2", "1"),
        ("3", "2"),
        ("4", "3"),
    ]
    assert said[-1].startswith("diverged: ")
    assert re.search(r"seed 0, rows \[(\d+, ){7}\d+\]; look at it with the same command and --replay=4$", said[-1])


@pytest.mark.two_process
@pytest.mark.slow
def test_a_bad_step_can_be_replayed(diverged, launch):
    done, flags = diverged
    rows = re.findall(r"rows (\[.*?\])", done.stderr)
    before = sorted(Path(flags[-1].removeprefix("--workdir=")).rglob("*"))
    replayed = finish(launch("train.py", *flags, "--replay=4"))
    assert replayed.returncode == 1, replayed.stderr
    assert f"rows {rows[-1]}" in replayed.stdout  # the very batch
    assert "failed: step 4 is not finite; gradients that are not: encoder/" in replayed.stderr
    assert sorted(Path(flags[-1].removeprefix("--workdir=")).rglob("*")) == before


@pytest.mark.two_process
@pytest.mark.slow
def test_one_command_goes_on_where_the_newest_checkpoint_is_damaged(trained, learn_flags, launch, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    array = max((workdir / "checkpoints" / "150" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    done = finish(launch("train.py", *learn_flags, f"--workdir={workdir}"))
    assert done.returncode == 0, done.stderr
    assert f"checkpoint {workdir}/checkpoints/150 skipped: state/" in done.stderr
    assert f"resuming {workdir} at step 100" in done.stderr
    assert (workdir / "rejected" / "150-0").is_dir()
    assert metrics(workdir) == metrics(trained)
