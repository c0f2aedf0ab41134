"""What a run may change when it goes on, and what it leaves in its workdir."""

import copy
import json
import logging
from pathlib import Path

import pytest

from deberta_jax import config as configs
from deberta_jax.data.prepared import read_manifest
from deberta_jax.errors import Refused
from deberta_jax.flags import read_config
from deberta_jax.tokenizers import load_tokenizer
from deberta_jax.train import session
from runs import tiny_config

PATH = Path("runs/x/checkpoints/3")


@pytest.fixture
def meta(prepared) -> dict:
    """What a checkpoint of a tiny run says, as it comes back from disk."""
    return json.loads(json.dumps(session.meta_of(tiny_config(prepared), [read_manifest(prepared)])))


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


def test_a_key_that_a_newer_version_adds_is_said_too(meta, caplog):
    older = copy.deepcopy(meta)
    del older["config"]["optimizer"]["end_fraction"]
    session.check_same_run(meta, older, PATH)
    assert "optimizer.end_fraction was None" in caplog.text


def test_nested_values_are_flattened_to_dotted_keys():
    values = {"a": 1, "b": {"c": (1, ("x", 2)), "d": {"e": None}}}
    assert session.flat(values) == {"a": 1, "b.c": [1, ["x", 2]], "b.d.e": None}


def test_a_workdir_is_made_with_its_parents_and_left_empty(tmp_path):
    assert session.open_workdir(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


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
