"""Units of a corpus and the hold-out."""

import hashlib
import json

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from deberta_jax.data.documents import Document
from deberta_jax.data.prepared import decode_rows
from deberta_jax.data.units import UnitSettings, is_done, is_held_out, read_unit, units, write_unit
from deberta_jax.tokenizers import load_tokenizer


@pytest.fixture
def output(tmp_path):
    (tmp_path / "units").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def corpus(documents) -> list[Document]:
    return [Document(text, text) for text in documents]


@pytest.fixture(scope="module")
def tokenizer(spm_dir):
    return load_tokenizer(spm_dir)


@pytest.fixture
def settings(tokenizer) -> UnitSettings:
    return UnitSettings(tokenizer.fingerprint, 64, 0.1)


def test_units_hold_every_document_once_and_close_at_their_size(corpus):
    made = list(units(corpus, 20_000))
    assert [document for unit in made for document in unit.documents] == corpus
    assert [unit.number for unit in made] == list(range(len(made)))
    sizes = [sum(len(d.text) for d in unit.documents) for unit in made]
    assert all(
        size >= 20_000 > size - len(unit.documents[-1].text) for size, unit in zip(sizes, made[:-1], strict=False)
    )
    assert sum(unit.bytes for unit in made) == sum(len(document.text.encode()) for document in corpus)


def test_units_are_read_as_they_are_needed(corpus):
    taken = []
    stream = units((taken.append(d) or d for d in corpus), 1000)
    next(stream)
    assert sum(len(document.text) for document in taken[:-1]) < 1000


def test_the_text_hash_sees_text_key_and_borders():
    pairs = [[("ab", "k")], [("a", "k"), ("b", "k")], [("ab", "l")], [("abk", "")], [("", "abk")]]
    hashes = {next(units([Document(*pair) for pair in case], 100)).text_sha256 for case in pairs}
    assert len(hashes) == len(pairs)


def test_the_hold_out_is_the_hash_as_a_fraction():
    keys = [f"key {i}" for i in range(4000)]
    fractions = [int(hashlib.sha256(key.encode()).hexdigest(), 16) / 2**256 for key in keys]
    for share in (0.0, 0.005, 0.3, 1.0):
        assert [is_held_out(key, share) for key in keys] == [fraction < share for fraction in fractions]
    assert 0.27 < np.mean([is_held_out(key, 0.3) for key in keys]) < 0.33


def test_a_unit_becomes_shards_whose_rows_are_its_documents(corpus, tokenizer, settings, output):
    unit = next(units(corpus, 40_000))
    write_unit(unit, tokenizer, settings, output)
    sidecar = read_unit(output, 0)["splits"]
    for split, held_out in (("train", False), ("holdout", True)):
        texts = [d.text for d in unit.documents if is_held_out(d.key, 0.1) == held_out]
        records = ArrayRecordReader(str(output / f"{split}-00000.array_record")).read_all()
        ids_bl, documents_bl = decode_rows(records, 64, "uint16")
        ids = ids_bl[documents_bl > 0]
        words = [i for i in ids.tolist() if i not in (tokenizer.cls_id, tokenizer.sep_id)]
        assert words == [i for text in texts for i in tokenizer.ids(text)]
        numbers = sidecar[split]
        assert (numbers["rows"], numbers["tokens"], numbers["documents"]) == (len(ids_bl), len(ids), len(texts))
        assert dict(zip(numbers["ids"], numbers["counts"], strict=True)) == dict(enumerate_counts(ids))


def enumerate_counts(ids: np.ndarray) -> list[tuple[int, int]]:
    return [(i, int((ids == i).sum())) for i in sorted(set(ids.tolist()))]


def test_rows_can_be_read_one_by_one(corpus, tokenizer, settings, output):
    write_unit(next(units(corpus, 40_000)), tokenizer, settings, output)
    reader = ArrayRecordReader(str(output / "train-00000.array_record"))
    assert "group_size:1," in reader.writer_options_string()
    assert "uncompressed" in reader.writer_options_string()
    assert reader.read([5, 2]) == [reader.read_all()[5], reader.read_all()[2]]


def test_an_empty_split_has_no_shard(corpus, tokenizer, output):
    unit = next(units(corpus, 10_000))
    for share, absent in ((0.0, "holdout"), (1.0, "train")):
        write_unit(unit, tokenizer, UnitSettings(tokenizer.fingerprint, 64, share), output)
        assert read_unit(output, 0)["splits"][absent] == {
            "rows": 0, "tokens": 0, "documents": 0, "ids": [], "counts": [], "shards": []
        }  # fmt: skip
        assert not (output / f"{absent}-00000.array_record").exists()


def test_a_unit_is_done_only_with_its_text_settings_and_whole_shards(corpus, tokenizer, settings, output, monkeypatch):
    unit, other = list(units(corpus, 40_000))[:2]
    assert not is_done(unit, settings, output)
    write_unit(unit, tokenizer, settings, output)
    assert is_done(unit, settings, output)
    assert not is_done(other._replace(number=0), settings, output)
    assert not is_done(unit, UnitSettings(tokenizer.fingerprint, 128, 0.1), output)
    with monkeypatch.context() as patch:
        patch.setattr("deberta_jax.data.units.WRITER_OPTIONS", "group_size:1")
        assert not is_done(unit, settings, output)
    assert is_done(unit, settings, output)
    shard = output / "train-00000.array_record"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert not is_done(unit, settings, output)
    shard.unlink()
    assert not is_done(unit, settings, output)


def test_a_sidecar_names_what_it_vouches_for(corpus, tokenizer, settings, output):
    unit = next(units(corpus, 40_000))
    write_unit(unit, tokenizer, settings, output)
    sidecar = json.loads((output / "units" / "unit-00000.json").read_text())
    assert (sidecar["text_sha256"], sidecar["settings_sha256"]) == (unit.text_sha256, settings.sha256)
    for split in ("train", "holdout"):
        (shard,) = sidecar["splits"][split]["shards"]
        content = (output / shard["file"]).read_bytes()
        assert (shard["sha256"], shard["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
