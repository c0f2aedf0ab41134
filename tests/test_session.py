"""What a run may change when it goes on, and what it leaves in its workdir."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import builders
import eval as eval_command
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.data.prepared import read_manifest
from deberta_jax.errors import Refused
from deberta_jax.flags import read_config
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.train import session
from deberta_jax.train.build import build_run
from runs import ROOT, save_run, tiny_config, tiny_pair_config, tiny_pair_flags

PATH = Path("runs/x/checkpoints/3")


@pytest.fixture
def meta(prepared) -> dict:
    """What a checkpoint of a tiny run says, as it comes back from disk."""
    return json.loads(json.dumps(session.meta_of(tiny_config(prepared), [read_manifest(prepared)])))


@pytest.fixture
def meta_of_pair(prepared) -> dict:
    """The same of a run that trains a generator and a discriminator."""
    return json.loads(json.dumps(session.meta_of(tiny_pair_config(prepared), [read_manifest(prepared)])))


def changed(meta: dict, key: str, value: object) -> dict:
    """A copy of `meta` with config.`key` set."""
    meta = copy.deepcopy(meta)
    *groups, name = key.split(".")
    group = meta["config"]
    for part in groups:
        group = group[part]
    assert group[name] != value
    group[name] = value
    return meta


def test_the_same_command_goes_on_without_a_word(meta, prepared, caplog):
    now = session.meta_of(tiny_config(prepared), [read_manifest(prepared)])  # tuples where the disk has lists
    session.check_same_run(now, meta, PATH)
    assert not caplog.records


def test_another_tokenizer_is_refused(meta):
    with pytest.raises(Refused, match=f"{PATH} was trained with another tokenizer"):
        session.check_same_run(meta | {"tokenizer": "0" * 64}, meta, PATH)


@pytest.mark.parametrize("manifests", [[], ["0" * 64], "twice"])
def test_other_data_are_refused(manifests, meta):
    manifests = meta["manifests"] * 2 if manifests == "twice" else manifests
    with pytest.raises(Refused, match=f"{PATH} was trained on other data"):
        session.check_same_run(meta | {"manifests": manifests}, meta, PATH)


FIXED = {
    "seed": 7,
    "batch_size": 16,
    "objective": "other",
    "model.num_layers": 3,
    "model.hidden_size": 64,
    "model.decoder": "none",
    "model.pos_att_type": ["c2p"],
    "model.position_buckets": 16,
    "model.layer_norm_eps": 1e-5,
    "data.mask.rate": 0.2,
    "data.isolate_documents": False,
}


@pytest.mark.parametrize(("key", "value"), FIXED.items())
def test_what_makes_it_another_run_is_refused_by_name(key, value, meta):
    with pytest.raises(Refused) as refusal:
        session.check_same_run(changed(meta, key, value), meta, PATH)
    assert f"{key} was " in str(refusal.value)
    assert f"is {value!r}" in str(refusal.value)


FREE = {
    "optimizer.learning_rate": 1e-5,
    "steps": 100,
    "micro_batches": 2,
    "model.hidden_dropout": 0.0,
    "model.stochastic_depth": 0.1,
    "model.remat": "full",
    "data.read_threads": 3,
    "data.paths": ["elsewhere"],
    "checkpoint.keep_last": 9,
}


@pytest.mark.parametrize(("key", "value"), FREE.items())
def test_what_may_change_half_way_is_allowed_and_said(key, value, meta, caplog):
    with caplog.at_level(logging.WARNING):
        session.check_same_run(changed(meta, key, value), meta, PATH)
    (record,) = caplog.records
    assert f"{key} was " in record.message
    assert record.message.endswith(f"is {value!r}")


FIXED_OF_PAIR = {
    "rtd.embedding_sharing": "none",
    "rtd.generator.num_layers": 3,
    "rtd.generator.intermediate_size": 64,
    "rtd.generator.decoder": "none",
    "model.num_layers": 3,
}


@pytest.mark.parametrize(("key", "value"), FIXED_OF_PAIR.items())
def test_what_makes_it_another_pair_is_refused_by_name(key, value, meta_of_pair):
    with pytest.raises(Refused, match=f"{PATH} is of another run: {key} was .*, is {value!r}$"):
        session.check_same_run(changed(meta_of_pair, key, value), meta_of_pair, PATH)


FREE_OF_PAIR = {
    "rtd.loss_weight": 10.0,
    "rtd.temperature": 0.5,
    "rtd.scheme": "joint",
    "rtd.optimizer.learning_rate": 1e-5,
    "rtd.generator.hidden_dropout": 0.0,
}


@pytest.mark.parametrize(("key", "value"), FREE_OF_PAIR.items())
def test_what_may_change_half_way_in_a_pair_is_allowed_and_said(key, value, meta_of_pair, caplog):
    was = copy.deepcopy(meta_of_pair)
    session.check_same_run(changed(meta_of_pair, key, value), was, PATH)
    (record,) = caplog.records
    assert record.message.startswith(f"resuming with a change: {key} was ")
    assert record.message.endswith(f", is {value!r}")


@pytest.mark.parametrize("key", ["init_from", "rtd.generator_init_from"])
def test_other_parameters_to_start_from_are_said_to_change_nothing_any_more(key, meta_of_pair, caplog):
    was = copy.deepcopy(meta_of_pair)
    session.check_same_run(changed(meta_of_pair, key, "runs/other"), was, PATH)
    (record,) = caplog.records
    assert record.message == f"resuming with a change: {key} was '', is 'runs/other'; only a start looks at it"


def test_a_key_that_a_newer_version_adds_is_said_too(meta, caplog):
    older = copy.deepcopy(meta)
    del older["config"]["optimizer"]["end_fraction"]
    session.check_same_run(meta, older, PATH)
    assert "optimizer.end_fraction was None" in caplog.text


DIFFERENT = {  # the objective that was saved, the config (None: a single model, else a pair's changes), what is said
    "a single model's": ("mlm", {}, "was trained for 'mlm', the config says 'rtd'"),
    "a pair's": ("rtd", None, "was trained for 'rtd', the config says 'mlm'"),
    "other tables": (
        *("rtd", {"embedding_sharing": "shared"}),
        "has rtd.embedding_sharing 'gdes', the config says 'shared'",
    ),
    "another generator": (
        *("rtd", {"generator": {"num_layers": 3}}),
        "has rtd.generator.num_layers 2, the config says 3",
    ),
}


@pytest.mark.parametrize(("saved", "changes", "message"), DIFFERENT.values(), ids=DIFFERENT)
def test_parameters_of_another_objective_or_pair_are_not_read(saved, changes, message, tmp_path):
    config = builders.tiny_pair_config() if saved == "rtd" else builders.tiny_config()
    save_run(tmp_path, config, {"x": 0.0}, {"config": configs.to_dict(config)}, step=3)
    wanted = builders.tiny_config() if changes is None else builders.tiny_pair_config(**changes)
    with pytest.raises(Refused, match=f"^checkpoint {tmp_path}/checkpoints/3 {message}$"):
        session.newest_params(build_run(wanted, builders.LEXICON), tmp_path)


def test_parameters_of_a_pair_come_back_as_they_were_saved(tmp_path):
    config = builders.tiny_pair_config()
    run = build_run(config, builders.LEXICON)
    params = builders.scrambled(run.abstract.params)
    save_run(tmp_path, config, params, {"config": configs.to_dict(config)}, step=3)
    step, found = session.newest_params(run, tmp_path)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_eval_names_the_objective_that_a_run_was_not_trained_for(prepared, tmp_path, capsys):
    config = tiny_config(prepared)
    save_run(tmp_path, config, {"x": 0.0}, {"config": configs.to_dict(config)}, step=3)
    session.write_run_files(tmp_path, config, load_tokenizer(prepared / "tokenizer"))
    argv = [f"--workdir={tmp_path}", "--fill_mask=ba [MASK] do.", *tiny_pair_flags(prepared)]
    assert errors.run(eval_command.main, argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"refused: checkpoint {tmp_path}/checkpoints/3 was trained for 'mlm', the config says 'rtd'"


def test_nested_values_are_flattened_to_dotted_keys():
    values = {"a": 1, "b": {"c": (1, ("x", 2)), "d": {"e": None}}}
    assert session.flat(values) == {"a": 1, "b.c": [1, ["x", 2]], "b.d.e": None}


def test_a_workdir_is_made_with_its_parents_and_left_empty(tmp_path):
    assert session.open_workdir(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_one_process_trains_in_a_workdir(tmp_path):
    """The hold ends with the block, also with an error, and is no other workdir's."""
    with session.held(tmp_path):
        said = f"^workdir {tmp_path}: another process is training there$"
        with pytest.raises(Refused, match=said), session.held(tmp_path):
            pass
        (tmp_path / "other").mkdir()
        with session.held(tmp_path / "other"):
            pass
    with pytest.raises(KeyError), session.held(tmp_path):
        raise KeyError
    with session.held(tmp_path):
        pass


def test_a_dead_process_holds_nothing(tmp_path):
    holding = f"""
import sys, time
from pathlib import Path
from deberta_jax.train import session
with session.held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", holding], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Refused, match="another process"), session.held(tmp_path):
        pass
    process.kill()
    process.communicate()
    with session.held(tmp_path):
        pass


def test_the_newest_parameters_are_not_the_best_ones(tmp_path):
    """A step is replayed with what came last; what is evaluated is what was best."""
    config = builders.tiny_config()
    run = build_run(config, builders.LEXICON)
    meta = {"config": configs.to_dict(config)}
    newest, best = (builders.scrambled(run.abstract.params, seed=seed) for seed in (0, 1))
    save_run(tmp_path, config, newest, meta, step=9)
    save_run(tmp_path / "elsewhere", config, best, meta, step=4)
    (tmp_path / "elsewhere" / "checkpoints").rename(tmp_path / "best")
    assert session.trained_checkpoint(tmp_path) == (tmp_path / "best", 4)
    step, found = session.newest_params(run, tmp_path)
    assert step == 9
    jax.tree.map(np.testing.assert_array_equal, found, newest)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_workdir_that_cannot_be_written_is_refused(place, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refused, match=f"workdir .*{place} cannot be written: [A-Z]"):
        session.open_workdir(str(tmp_path / place))


def test_the_workdir_says_how_to_run_again_and_on_what_it_ran(prepared, tmp_path):
    config, tokenizer = tiny_config(prepared), load_tokenizer(prepared / "tokenizer")
    session.write_run_files(tmp_path, config, tokenizer)
    assert configs.build(read_config(str(tmp_path / "config.json"), []).config) == config
    assert load_tokenizer(tmp_path / "tokenizer").fingerprint == tokenizer.fingerprint
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"].keys() >= {"jax", "flax", "optax", "numpy"}
    assert environment["devices"] == ["cpu"] * 8
