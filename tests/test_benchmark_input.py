"""The benchmark of the input on a little text; what it measures is in the packages it calls."""

import shutil

import pytest

from benchmarks import input as benchmark
from benchmarks.input import Stream, prepared_row, preparing, streaming, write_parts
from deberta_jax.data.documents import read_documents


def test_the_text_is_repeated_whole_to_the_size_asked_for(tmp_path):
    texts = ["one\n\n \ntwo", "drei é", " four\n"]
    files = write_parts(texts, 10_000, 3, tmp_path)
    assert [file.stat().st_size // 100 for file in files] == [33, 33, 33]
    blocks = [document.text for file in files for document in read_documents(str(file))]
    assert blocks == (["one\ntwo", "drei é", "four"] * len(blocks))[: len(blocks)]


def test_the_ratio_is_the_median_of_those_of_the_rounds():
    row = prepared_row(128, 2, [10.0, 30.0, 20.0], [20.0, 20.0, 25.0])
    assert row == {"what": "prepare", "processes": 2, "MB/s": 20.0, "of bare": 0.8, "length": 128}


def test_a_round_measures_every_setting(spm_dir, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SECONDS", 0.01)
    monkeypatch.setattr(benchmark, "STREAMS", [Stream(128, "word", 3, 2), Stream(512, "token", 1, 1)])
    shutil.copytree(spm_dir, tmp_path / "tokenizer")
    rows = preparing(write_parts(documents, 700_000, 1, tmp_path), tmp_path / "tokenizer", rounds=2)
    assert [(row["what"], row["processes"]) for row in rows] == [("bare sentencepiece", 1)] + [("prepare", 1)] * 2
    assert all(row["MB/s"] > 0 for row in rows)
    rows = streaming(tmp_path, rounds=1)
    assert [(row["length"], row["unit"], row["max_ngram"], row["threads"]) for row in rows] == benchmark.STREAMS
    assert all(row["Mtokens/s"] > 0 for row in rows)


def test_a_process_that_fails_ends_the_benchmark(documents, tmp_path):
    files = write_parts(documents, 1000, 1, tmp_path)
    with pytest.raises(benchmark.errors.Failed, match="bare sentencepiece failed"):
        benchmark.megabytes_bare(files, tmp_path / "nowhere")
    with pytest.raises(benchmark.errors.Failed, match="prepare: refused: no tokenizer"):
        benchmark.megabytes_prepared(files, tmp_path / "nowhere", 128)
