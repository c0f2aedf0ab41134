"""Rows and manifests on disk."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from deberta_jax.data.prepared import (
    Manifest,
    decode_rows,
    encode_rows,
    id_dtype,
    read_manifest,
    verify_shards,
    write_manifest,
)
from deberta_jax.errors import Refused


def split_of(*shards: dict) -> dict:
    return {"rows": sum(s["rows"] for s in shards), "tokens": 9, "documents": 2, "shards": list(shards)}


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A directory with two shards to train on; what is in a shard is not looked at here."""
    shards = []
    for number in range(2):
        content = bytes([number]) * 100
        (tmp_path / f"train-{number}").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        shards.append({"file": f"train-{number}", "rows": 3, "sha256": sha256, "bytes": 100})
    values = {
        "length": 16,
        "id_dtype": "uint16",
        "tokenizer": {"fingerprint": "abc", "size": 601, "files": ["tokenizer/spm.model"]},
        "splits": {"train": split_of(*shards), "holdout": split_of()},
        "top_id": 7,
        "max_id": 500,
        "source": {"input": "builtin"},
    }
    write_manifest(tmp_path, values)
    return tmp_path


@pytest.mark.parametrize(("size", "dtype"), [(601, "uint16"), (65535, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_ids_take_two_bytes_where_they_fit(size, dtype):
    assert id_dtype(size) == dtype
    assert np.iinfo(dtype).max >= size - 1


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_rows_come_back_from_their_records(dtype):
    rng = np.random.default_rng(0)
    top = min(np.iinfo(dtype).max, np.iinfo(np.int32).max)
    ids_bl = rng.integers(0, top, (5, 128), endpoint=True).astype(np.int32)
    documents_bl = np.sort(rng.integers(0, 9, (5, 128)), axis=1).astype(np.int32)
    records = list(encode_rows(ids_bl, documents_bl, dtype))
    assert {len(record) for record in records} == {128 * (np.dtype(dtype).itemsize + 2)}
    decoded = decode_rows(records, 128, dtype)
    for found, expected in zip(decoded, (ids_bl, documents_bl), strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)


def test_records_are_little_endian():
    ids_bl, documents_bl = np.array([[258, 1], [3, 4]]), np.array([[1, 0], [1, 2]])
    first, second = encode_rows(ids_bl, documents_bl, "uint16")
    assert first == bytes([2, 1, 1, 0, 1, 0, 0, 0])
    assert second == bytes([3, 0, 4, 0, 1, 0, 2, 0])
    assert list(encode_rows(np.array([[258]]), np.array([[3]]), "uint32")) == [bytes([2, 1, 0, 0, 3, 0])]


def test_a_record_of_another_length_is_refused():
    with pytest.raises(Refused, match="512 bytes is no row of 64 uint16"):
        decode_rows([bytes(256), bytes(512)], 64, "uint16")
    with pytest.raises(Refused, match="255 bytes is no row of 64 uint16"):
        decode_rows([bytes(255), bytes(257)], 64, "uint16")  # together as long as two rows


def test_the_manifest_comes_back_as_written(prepared):
    manifest = read_manifest(prepared)
    assert isinstance(manifest, Manifest)
    assert (manifest.length, manifest.id_dtype, manifest.tokenizer_size) == (16, "uint16", 601)
    assert (manifest.tokenizer_fingerprint, manifest.top_id, manifest.max_id) == ("abc", 7, 500)
    assert manifest.splits["train"].rows == 6 and manifest.splits["holdout"].shards == ()
    assert manifest.shard_paths("train") == [prepared / "train-0", prepared / "train-1"]
    assert manifest.tokenizer_path == prepared / "tokenizer"


def test_the_fingerprint_is_the_hash_of_everything_else(prepared):
    values = json.loads((prepared / "manifest.json").read_text())
    first = values.pop("fingerprint")
    write_manifest(prepared, {k: v for k, v in values.items() if k != "format"})
    assert read_manifest(prepared).fingerprint == first
    write_manifest(prepared, {**values, "top_id": 8})
    assert read_manifest(prepared).fingerprint != first


def test_missing_directories_and_manifests_are_refused_by_name(prepared):
    with pytest.raises(Refused, match=rf"does not exist, did you mean '{prepared.name}'"):
        read_manifest(prepared.with_name(prepared.name + "x"))
    (prepared / "manifest.json").unlink()
    with pytest.raises(Refused, match="has no manifest.json: run"):
        read_manifest(prepared)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"format": 1', '"format": 2', "has format 2, this code reads 1"),
        ('"max_id": 500', '"max_id": 400', "was changed after it was written"),
        ("{", "", "is not JSON"),
        (None, "[]", "is no manifest"),
    ],
)
def test_manifests_that_are_not_ours_are_refused(prepared, before, after, message):
    file = prepared / "manifest.json"
    text = file.read_text()
    file.write_text(after if before is None else text.replace(before, after))
    with pytest.raises(Refused, match=message):
        read_manifest(prepared)


def test_whole_shards_are_accepted(prepared):
    verify_shards(read_manifest(prepared), ["train", "holdout"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "train-1 is missing"),
        (bytes([1]) * 99, "train-1 has 99 bytes, the manifest says 100"),
        (bytes([1]) * 50 + bytes([3]) + bytes([1]) * 49, "train-1 is corrupt"),
    ],
)
def test_a_damaged_shard_is_refused_by_name(prepared, content, message):
    shard = prepared / "train-1"
    shard.unlink() if content is None else shard.write_bytes(content)
    with pytest.raises(Refused, match=message):
        verify_shards(read_manifest(prepared), ["train"])
    verify_shards(read_manifest(prepared), ["holdout"])
