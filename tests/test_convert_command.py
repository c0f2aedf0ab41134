"""tools.convert as a user meets it: a published directory becomes a workdir, trains, and goes back."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file

import eval as eval_command
from builders import COMPILE_FAST, scrambled
from deberta_jax import errors
from deberta_jax.config import Config, ModelConfig
from deberta_jax.convert.load import load_pretrained, load_with_report
from deberta_jax.convert.weights import write_weights
from deberta_jax.data.prepared import read_manifest
from deberta_jax.model.by_head import build_model
from deberta_jax.model.encoder import Encoder
from deberta_jax.objectives import Lexicon
from deberta_jax.objectives.models import init_of
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.tools import convert
from deberta_jax.train import session
from deberta_jax.train.build import build_run, resolve
from deberta_jax.train.initial import starting_state
from hf_directories import make_directory
from runs import ROOT, finish, metrics, save_run, tiny_flags, tiny_pair_config

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
    convert.main([*flags, *config_of(flags)])


def config_of(flags: Sequence[str]) -> list[str]:
    """The config of a workdir that is made; an export has none."""
    return [f"--config={ROOT / 'configs' / 'base.py'}"] if any("--source" in flag for flag in flags) else []


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


def pair_config(prepared: Path, mode: str) -> Config:
    manifest = read_manifest(prepared)
    return resolve(tiny_pair_config(prepared, rtd__embedding_sharing=mode), [manifest], manifest.length)


def models_of(config: Config) -> dict[str, tuple[str, nn.Module, Any]]:
    """{name: (head, model, drawn parameters)} of a pair whose models have a word table each."""
    models = {"generator": ("mlm", config.rtd.generator), "discriminator": ("rtd", config.model)}
    drawn = {}
    for seed, (name, (head, cfg)) in enumerate(models.items()):
        params = scrambled(jax.eval_shape(init_of(head, cfg), jax.random.key(0)), seed)
        drawn[name] = (head, build_model(head, cfg, None), without_padding(params, cfg))
    return drawn


def without_padding(params: Any, cfg: ModelConfig) -> Any:
    """Zeros in the rows of the word table that are no token: no file holds them."""
    real = np.arange(cfg.vocab_rows) < cfg.vocab_size
    return jax.tree.map(lambda x: (x.T * real).T if len(x) == cfg.vocab_rows else x, params)


def with_tables(discriminator: Any, kept: dict[str, Any]) -> Any:
    """A discriminator with other tables in place of its word table."""
    encoder, own = discriminator["encoder"], discriminator["encoder"]["embeddings"]
    own = {name: table for name, table in own.items() if name != "word"}
    return discriminator | {"encoder": encoder | {"embeddings": own | kept}}


def pair_of(mode: str, generator: Any, discriminator: Any) -> tuple[Any, Any]:
    """(a checkpoint's discriminator, the one that it stands for); of "gdes" the drawn table is the difference."""
    words, own = (model["encoder"]["embeddings"]["word"] for model in (generator, discriminator))
    kept = {"none": {"word": own}, "shared": {}, "gdes": {"word_delta": own}}[mode]
    word = {"none": own, "shared": words, "gdes": words + own}[mode]
    return with_tables(discriminator, kept), with_tables(discriminator, {"word": word})


@pytest.fixture(scope="module")
def pairs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Workdirs of runs that train a generator and a discriminator, by how these share their word table."""
    root, workdirs = tmp_path_factory.mktemp("pairs"), {}
    for mode in ("none", "shared", "gdes"):
        config = pair_config(prepared, mode)
        params = {name: drawn for name, (_, _, drawn) in models_of(config).items()}
        params["discriminator"], _ = pair_of(mode, **params)
        meta = session.meta_of(config, [read_manifest(prepared)])
        workdirs[mode] = save_run(root / mode, config, params, meta, step=5)
        shutil.copytree(prepared / "tokenizer", root / mode / "tokenizer")
    return workdirs


@functools.cache
def compiled(model: nn.Module) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(model.apply, deterministic=True), compiler_options=COMPILE_FAST)


IDS = np.random.default_rng(0).integers(5, 600, (2, 15)).astype(np.int32)
MASK = np.array([[1] * 15, [1] * 11 + [0] * 4], np.int32)


def logits(model: nn.Module, params: Any) -> np.ndarray:
    """Of the real tokens of two rows."""
    return np.asarray(compiled(model.clone(origin=""))({"params": params}, IDS, MASK))[MASK > 0]


OWN_TENSORS = {  # some that only one of the models has, under the released names
    "generator": {"deberta.embeddings.position_embeddings.weight", "lm_predictions.lm_head.bias"},
    "discriminator": {"mask_predictions.dense.weight", "mask_predictions.classifier.weight"},
}


@pytest.mark.parametrize("mode", ["none", "shared", "gdes"])
def test_both_models_of_a_pair_are_exported_as_they_compute(mode, pairs, prepared, tmp_path, capsys):
    run(f"--checkpoint={pairs[mode]}", f"--output={tmp_path / 'out'}")
    said = capsys.readouterr().out.splitlines()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"generator", "discriminator"}
    models = models_of(pair_config(prepared, mode))
    _, whole = pair_of(mode, **{name: drawn for name, (_, _, drawn) in models.items()})
    for name, (head, model, params) in models.items():
        directory = tmp_path / "out" / name
        params = params if name == "generator" else whole
        assert OWN_TENSORS[name] == load_file(directory / "model.safetensors").keys() & set().union(
            *OWN_TENSORS.values()
        )
        found, found_params = load_pretrained(directory, head=head)
        assert found.cfg == model.cfg  # of the generator with the decoder, which its absolute positions tell
        jax.tree.map(np.testing.assert_array_equal, found_params, params)
        np.testing.assert_allclose(logits(found, found_params), logits(model, params), rtol=0, atol=1e-6)
        assert load_tokenizer(directory).fingerprint == read_manifest(prepared).tokenizer_fingerprint
        assert f"{directory}: step 5 of {pairs[mode]}, head {head}" in said


@pytest.mark.parametrize(("head", "name"), [("rtd", "discriminator"), ("mlm", "generator")])
def test_one_model_of_a_pair_goes_where_it_is_told(head, name, pairs, tmp_path):
    run(f"--checkpoint={pairs['gdes']}", f"--output={tmp_path / 'both'}")
    run(f"--checkpoint={pairs['gdes']}", f"--output={tmp_path / 'one'}", f"--head={head}")
    contents = [
        {path.name: path.read_bytes() for path in directory.iterdir()}
        for directory in (tmp_path / "one", tmp_path / "both" / name)
    ]
    assert contents[0] == contents[1]
    assert {"config.json", "model.safetensors", "spm.model", "tokenizer.json"} < contents[0].keys()


def test_the_head_of_a_single_model_may_be_named(workdir, tmp_path):
    run(f"--checkpoint={workdir}", f"--output={tmp_path / 'named'}", "--head=mlm")
    assert "lm_predictions.lm_head.bias" in load_file(tmp_path / "named" / "model.safetensors")


def test_an_exported_pair_starts_the_pair_that_it_was(pairs, prepared, tmp_path):
    run(f"--checkpoint={pairs['gdes']}", f"--output={tmp_path / 'out'}")
    for name in ("generator", "discriminator"):
        run(f"--source={tmp_path / 'out' / name}", f"--output={tmp_path / name}")
    config = pair_config(prepared, "gdes")
    rtd = dataclasses.replace(config.rtd, generator_init_from=str(tmp_path / "generator"))
    config = dataclasses.replace(config, init_from=str(tmp_path / "discriminator"), rtd=rtd)
    new = build_run(config, Lexicon(top_id=7, size=config.model.vocab_size, special_ids=(0, 1, 2, 3), mask_id=4))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), new.abstract)
    new = dataclasses.replace(new, fresh=lambda: zeros)  # making a real one compiles
    state = starting_state(new, tmp_path / "run", session.meta_of(config, [read_manifest(prepared)]))
    expected = {name: drawn for name, (_, _, drawn) in models_of(config).items()}
    expected["discriminator"], _ = pair_of("gdes", **expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), state.params, expected)


def test_a_pair_that_transformers_lacks_is_refused_and_neither_model_written(pairs, prepared, tmp_path):
    config = pair_config(prepared, "none")
    with_p2p = dataclasses.replace(config.rtd.generator, pos_att_type=("c2p", "p2p"))
    config = dataclasses.replace(config, rtd=dataclasses.replace(config.rtd, generator=with_p2p))
    params = {name: drawn for name, (_, _, drawn) in models_of(config).items()}
    save_run(tmp_path / "run", config, params, session.meta_of(config, [read_manifest(prepared)]))
    with pytest.raises(errors.Refused, match="model.pos_att_type p2p: transformers computes no such term"):
        run(f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
def test_transformers_reads_the_exported_discriminator_whole(pairs, prepared, tmp_path):
    """All it leaves is the head, for which it has no class."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    run(f"--checkpoint={pairs['gdes']}", f"--output={tmp_path / 'out'}")
    directory = tmp_path / "out" / "discriminator"
    theirs, found = transformers.DebertaV2Model.from_pretrained(directory, output_loading_info=True)
    assert not found["missing_keys"] and not found["mismatched_keys"]
    assert all(name.startswith("mask_predictions.") for name in found["unexpected_keys"])
    models = models_of(pair_config(prepared, "gdes"))
    _, whole = pair_of("gdes", **{name: drawn for name, (_, _, drawn) in models.items()})
    encoder = Encoder(models["discriminator"][1].cfg)
    states = encoder.apply({"params": whole["encoder"]}, IDS, MASK, deterministic=True, all_hidden_states=True)[1]
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(IDS).long(), "attention_mask": torch.tensor(MASK)}
        expected = theirs.eval()(**inputs, output_hidden_states=True).hidden_states
    assert len(expected) == len(states)
    for ours, each in zip(states, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[MASK > 0], each.numpy()[MASK > 0], rtol=0, atol=2e-5)


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
    "another head than the workdir's": (
        ["--checkpoint={workdir}", "--head=rtd"],
        "{workdir} has the head 'mlm', --head=rtd asks for another; leave it out",
    ),
    "rows of an export": (
        ["--checkpoint={workdir}", "--vocab_size=700"],
        "--vocab_size is of --source; a checkpoint is written as it is",
    ),
    "a decoder of an export": (["--checkpoint={workdir}", "--decoder=none"], "--decoder is of --source"),
    "allowing in an export": (["--checkpoint={workdir}", "--allow=x"], "--allow is of --source"),
    "a config of an export": (["--checkpoint={workdir}", "--config=x.py"], "--config is of --source"),
    "a head that no model of a pair has": (
        ["--checkpoint={pair}", "--head=encoder"],
        "{pair} holds a discriminator (rtd) and a generator (mlm), none with the head 'encoder'",
    ),
}


@pytest.mark.parametrize(("argv", "message"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_code_2(argv, message, official, workdir, pairs, tmp_path, capsys):
    places = {"official": official, "workdir": workdir, "pair": pairs["gdes"]}
    flags, message = [flag.format(**places) for flag in argv], message.format(**places)
    flags = flags if any(flag.startswith("--output") for flag in flags) else [*flags, f"--output={tmp_path / 'out'}"]
    assert errors.run(convert.main, [*flags, *config_of(flags)]) == 2
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
