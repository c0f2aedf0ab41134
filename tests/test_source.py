import json

import pytest

import hf_directories as hf
from deberta_jax.convert import names
from deberta_jax.convert.source import open_source, read_origin, record_origin
from deberta_jax.errors import Refused


def test_a_directory_says_what_it_holds_and_its_tensors_can_be_read(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v3", "mlm", dtype="float16", prefix="bert.")
    source, weights = open_source(directory)
    expected = hf.tensors_of(hf.fields_of("v3", "mlm"), "mlm", dtype="float16", prefix="bert.")
    assert source.path == directory
    assert source.fields == hf.fields_of("v3", "mlm")
    assert source.shapes == {name: values.shape for name, values in expected.items()}
    assert set(source.dtypes.values()) == {"float16"} and source.dtypes.keys() == expected.keys()
    assert source.names == names.Names("bert.", False, "lm_predictions.lm_head.")
    assert all((weights[name] == values).all() for name, values in expected.items())


@pytest.mark.parametrize("prefix", names.PREFIXES)
@pytest.mark.parametrize("positions", [True, False])
def test_whether_there_is_a_position_table(tmp_path, prefix, positions):
    source, _ = open_source(hf.make_directory(tmp_path / "model", prefix=prefix, positions=positions))
    assert source.has_positions is positions


def test_tied_tensors_are_known_as_copies(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v1", "mlm", legacy=True, ties=True)
    assert open_source(directory)[0].copies == {
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def test_an_origin_is_a_directory_or_what_was_recorded_of_one(tmp_path):
    directory = hf.make_directory(tmp_path / "model", "v2", "sequence_classification", dtype="bfloat16")
    source, _ = open_source(directory)
    assert read_origin(directory) == source
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    record_origin(source, workdir)
    recorded = read_origin(workdir)  # there are neither config.json nor weights
    assert recorded.path == workdir
    for name in ("fields", "dtypes", "shapes", "names", "copies"):
        assert getattr(recorded, name) == getattr(source, name)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_half_a_directory_is_refused(tmp_path, gone):
    directory = hf.make_directory(tmp_path / "model")
    (directory / gone).unlink()
    for read in (open_source, read_origin):
        with pytest.raises(Refused) as refused:
            read(directory)
        assert "\n" not in str(refused.value)
        assert str(directory) in str(refused.value) and gone in str(refused.value)


def test_what_is_recorded_is_plain_json(tmp_path):
    source, _ = open_source(hf.make_directory(tmp_path / "model"))
    record_origin(source, tmp_path)
    values = json.loads((tmp_path / "origin.json").read_text())
    assert values["config"] == source.fields
    assert values["tensors"]["deberta.embeddings.LayerNorm.bias"] == [[16], "float32"]
