"""Reading documents from files of every kind."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from deberta_jax.data.documents import LONGEST_BLOCK, read_documents
from deberta_jax.errors import Refused

TEXTS = ["One line.", "Two\nlines, é and 日本.", "  indented\tand long " + "x" * 5000, "last"]


def texts_of(source: Path | str, **options) -> list[str]:
    return [document.text for document in read_documents(str(source), **options)]


def as_text(path: Path) -> None:
    _packed(path, "\n\n".join(TEXTS).encode())


def as_json(path: Path) -> None:
    _packed(path, "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)).encode())


def as_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": range(len(TEXTS)), "text": TEXTS}), path)


def _packed(path: Path, data: bytes) -> None:
    """Two members, as parallel compressors write them."""
    half = len(data) // 2
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(compress(data[:half]) + compress(data[half:]))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", as_text),
        ("a.txt.gz", as_text),
        ("a.txt.zst", as_text),
        ("a.jsonl", as_json),
        ("a.jsonl.gz", as_json),
        ("a.jsonl.zst", as_json),
        ("a.parquet", as_parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name: str, write: Callable[[Path], None]):
    write(tmp_path / name)
    assert texts_of(tmp_path / name) == TEXTS
    assert all(document.key == document.text for document in read_documents(str(tmp_path / name)))


def test_files_of_a_glob_come_sorted_and_from_subdirectories(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts_of(tmp_path / "**" / "*.txt") == ["a/3.txt", "b/1.txt", "b/2.txt"]


def test_documents_of_a_text_file_lie_between_blank_lines_or_one_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n\none\r\ntwo\r\n \t\r\n\r\nthree\n\n\nfour\x0bstill four")
    assert texts_of(tmp_path / "a.txt") == ["one\ntwo", "three", "four\x0bstill four"]
    assert texts_of(tmp_path / "a.txt", one_per_line=True) == ["one", "two", "three", "four\x0bstill four"]


def test_a_text_without_blank_lines_is_cut_so_that_memory_stays_bounded(tmp_path):
    line = "word " * 200
    (tmp_path / "a.txt").write_text("\n".join([line] * 2500))
    blocks = texts_of(tmp_path / "a.txt")
    assert len(blocks) == 3
    assert max(map(len, blocks)) <= LONGEST_BLOCK + len(line)
    assert "\n".join(blocks) == (tmp_path / "a.txt").read_text()


def test_another_field_is_read_by_name(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x", "text": "y"}\n\n{"body": "z"}\n')
    assert texts_of(tmp_path / "a.jsonl", field="body") == ["x", "z"]
    pyarrow.parquet.write_table(pyarrow.table({"body": ["p"], "text": ["q"]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet", field="body") == ["p"]


def test_blank_documents_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": " \\n "}\n{"text": "x"}\n')
    assert texts_of(tmp_path / "a.jsonl") == ["x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\nbad \xff byte\n", r"a\.txt, line 3 is not UTF-8: invalid start byte at byte 4"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", r"a\.jsonl, line 1 is not JSON"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"a\.jsonl, line 2 is no JSON object"),
        ("a.jsonl", b'{"txet": "x"}\n', r"line 1 has no field 'text', did you mean 'txet'\?; it has txet"),
        ("a.jsonl", b'{"text": 3}\n', r"line 1: field 'text' is no text but int"),
        ("a.jsonl", b'{"text": "\\ud83d!"}\n', r"line 1: field 'text' has half a surrogate pair"),
        ("a.txt.gz", gzip.compress(b"some text\n" * 99, mtime=0)[:-9], r"a\.txt\.gz cannot be read after line"),
        ("a.txt.zst", b"no zstandard", r"a\.txt\.zst cannot be read after line 0"),
        ("a.parquet", b"no parquet", r"a\.parquet cannot be read after row 0"),
        ("a.txt", b" \n\n\t\n", r"holds no text"),
        ("a.csv", b"x", r"a\.csv is none of \.txt"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        texts_of(tmp_path / name)


def test_a_truncated_zstandard_file_is_refused(tmp_path):
    text = np.random.default_rng(0).integers(97, 123, 500_000, np.uint8).tobytes()
    (tmp_path / "a.txt.zst").write_bytes(zstandard.ZstdCompressor().compress(text)[:-1000])
    with pytest.raises(Refused, match=r"a\.txt\.zst cannot be read"):
        texts_of(tmp_path / "a.txt.zst")


def test_parquet_complaints_name_column_and_row(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"txt": ["x"], "id": [1]}), path)
    with pytest.raises(Refused, match=r"no column 'text', did you mean 'txt'\?; it has txt, id"):
        texts_of(path)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x"] * 300 + [None]}), path)
    with pytest.raises(Refused, match="row 300: field 'text' is no text but NoneType"):
        texts_of(path)


def test_missing_files_are_refused_with_the_nearest_name(tmp_path):
    (tmp_path / "corpus.txt").write_text("x")
    with pytest.raises(Refused, match=r"matches no file, did you mean 'corpus\.txt'"):
        texts_of(tmp_path / "corpsu.txt")
    with pytest.raises(Refused, match="is a directory: say which files"):
        texts_of(tmp_path)
    with pytest.raises(Refused, match="matches no file"):
        texts_of(tmp_path / "nowhere" / "*.txt")


def test_the_built_in_text_is_keyed_by_source_file():
    documents = list(read_documents("builtin"))
    keys = [document.key for document in documents]
    assert "argparse.py" in keys
    assert len(set(keys)) < len(keys)


TFDS = """
import sys
import numpy as np
import tensorflow_datasets as tfds
from deberta_jax.data.documents import read_documents

class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {"text": tfds.features.Text(), "number": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        return {"train": self._generate_examples()}
    def _generate_examples(self):
        for i in range(20):
            yield i, {"text": f"text \\u00e9 {i}", "number": i}

builder = TinyTexts(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
for source in sys.argv[2:]:
    try:
        print("FOUND", sorted(document.text for document in read_documents(source.format(builder.data_dir))))
    except Exception as error:
        print("FOUND", type(error).__name__, " ".join(str(error).split()))
print("FOUND", "tensorflow" in sys.modules)
"""


def test_prepared_tensorflow_datasets_are_read_without_tensorflow(tmp_path):
    of_directory = ["tfds:{}:train:text", "tfds:{}:train", "tfds:{}:train:txet", "tfds:{}:trian:text"]
    sources = [*of_directory, "tfds:squda:train", "tfds:x"]
    script = [sys.executable, "-c", TFDS, str(tmp_path), *sources]
    environment = {"TFDS_DATA_DIR": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(script, capture_output=True, text=True, check=True, env=environment)
    lines = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    whole, default, field, split, name, short, tensorflow = lines
    assert whole == default == str(sorted(f"text é {i}" for i in range(20)))
    assert field.startswith("Refused") and "did you mean 'text'" in field
    assert split.startswith("Refused") and "trian" in split
    assert name.startswith("Refused") and "tfds knows no 'squda', did you mean 'squad'" in name
    assert short == "Refused --input=tfds:x: expects tfds:NAME[/CONFIG]:SPLIT:FIELD"
    assert tensorflow == "False"
