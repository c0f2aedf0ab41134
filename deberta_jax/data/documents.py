"""Streams of documents from text files, JSON lines, Parquet, TensorFlow Datasets and the built-in text.

Everything is read as it is needed: memory does not grow with the corpus.
"""

import glob
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax.data.builtin import builtin_pages, standard_library
from deberta_jax.errors import Refused, nearest, refuse_remote

COMPRESSIONS = {"": None, ".gz": "gzip", ".zst": "zstd"}  # extension -> name in pyarrow
LONGEST_BLOCK = 1 << 20  # characters; a longer block of text is cut after the line that reaches it
PARQUET_BATCH = 256  # rows in memory
# What TensorFlow Datasets raises for damaged folders, versions and splits that are not there, missing packages.
TFDS_ERRORS = (AssertionError, ImportError, KeyError, NotImplementedError, OSError, ValueError)


class Document(NamedTuple):
    """A text, and what the hold-out hashes: the text itself, or its file where neighbours resemble each other."""

    text: str
    key: str


def read_documents(source: str, *, field: str = "text", one_per_line: bool = False) -> Iterator[Document]:
    """The documents of `source` in a fixed order: files sorted by name, each from its beginning.

    `source` is a glob of .txt, .jsonl (both also .gz, .zst) and .parquet files, tfds:NAME[/CONFIG]:SPLIT[:FIELD] (NAME
    may be the directory of a prepared set), or "builtin". In a text file a document is a block between blank lines, or
    a line. Blank documents are left out. Raises Refused, naming file and line, for what cannot be read, and for a
    corpus without text.
    """
    empty = True
    for document in _documents(source, field, one_per_line):
        if document.text.strip():
            empty = False
            yield document
    if empty:
        raise Refused(f"--input={source} holds no text")


def source_files(source: str) -> list[Path]:
    """The files of a glob, sorted; none for sources that are not files. Raises Refused when nothing matches."""
    if source == "builtin" or source.startswith("tfds:"):
        return []
    refuse_remote("--input", source)
    if Path(source).is_dir():
        raise Refused(f"--input={source} is a directory: say which files, as {source.rstrip('/')}/*.txt")
    files = sorted(path for path in map(Path, glob.glob(source, recursive=True)) if path.is_file())
    if not files:
        folder = Path(source).parent
        near = nearest(Path(source).name, [p.name for p in folder.glob("*")] if folder.is_dir() else [])
        raise Refused(f"--input={source} matches no file{near}")
    for path in files:
        _reader(path)
    return files


def _documents(source: str, field: str, one_per_line: bool) -> Iterator[Document]:
    if source == "builtin":
        yield from (Document(page.text, page.file) for page in builtin_pages(standard_library()))
    elif source.startswith("tfds:"):
        yield from (Document(text, text) for text in _tfds_texts(source, field))
    else:
        for path in source_files(source):
            yield from (Document(text, text) for text in _reader(path)(path, field, one_per_line))


def _text_file(path: Path, field: str, one_per_line: bool) -> Iterator[str]:
    del field  # text has none
    lines = (line for _, line in _lines(path))
    return lines if one_per_line else _blocks(lines)


def _blocks(lines: Iterable[str]) -> Iterator[str]:
    block, size = [], 0
    for line in lines:
        if line.strip():
            block.append(line)
            size += len(line) + 1
        if block and (not line.strip() or size >= LONGEST_BLOCK):
            yield "\n".join(block)
            block, size = [], 0
    if block:
        yield "\n".join(block)


def _json_lines(path: Path, field: str, one_per_line: bool) -> Iterator[str]:
    del one_per_line  # always
    for number, line in _lines(path):
        if line.strip():
            yield _json_text(line, field, f"{path}, line {number}")


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object of a line of JSON. Raises Refused, beginning with `where`, for anything else."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{where} is no JSON object")
    return values


def _json_text(line: str, field: str, where: str) -> str:
    values = json_object(line, where)
    if field not in values:
        raise Refused(f"{where} has no field {field!r}{nearest(field, values)}; it has {', '.join(values) or 'none'}")
    return _checked_text(values[field], field, where)


def _parquet(path: Path, field: str, one_per_line: bool) -> Iterator[str]:
    import pyarrow.parquet  # here: training imports this file too, and reads no documents

    del one_per_line  # a row is a document
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if field not in names:
                raise Refused(f"{path} has no column {field!r}{nearest(field, names)}; it has {', '.join(names)}")
            for batch in table.iter_batches(PARQUET_BATCH, columns=[field]):
                for value in batch.column(0).to_pylist():
                    yield _checked_text(value, field, f"{path}, row {row}")
                    row += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise Refused(f"{path} cannot be read after row {row}: {error}") from error


Reader = Callable[[Path, str, bool], Iterator[str]]
_READERS: dict[str, Reader] = {
    **{f".txt{compression}": _text_file for compression in COMPRESSIONS},
    **{f".jsonl{compression}": _json_lines for compression in COMPRESSIONS},
    ".parquet": _parquet,
}


def _reader(path: Path) -> Reader:
    for extension, reader in _READERS.items():
        if path.name.endswith(extension):
            return reader
    raise Refused(f"--input: {path} is none of {', '.join(_READERS)}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file, decompressed by its extension."""
    import pyarrow

    number = 0
    compression = COMPRESSIONS[path.suffix if path.suffix in COMPRESSIONS else ""]
    try:  # an open file, not its path: pyarrow would map all of it into memory
        with path.open("rb") as file, pyarrow.input_stream(file, compression=compression) as stream:
            for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path}, line {number} is not UTF-8: {error.reason} at byte {error.start} of the line"
        ) from error
    except OSError as error:
        raise Refused(f"{path} cannot be read after line {number}: {error}") from error


def _checked_text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"{where}: field {field!r} is no text but {type(value).__name__}")
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise Refused(f"{where}: field {field!r} has half a surrogate pair, which is no Unicode text")
    return value


def _tfds_texts(source: str, field: str) -> Iterator[str]:
    """Texts of a split, in the order of its files."""
    name, split, field = _tfds_parts(source, field)
    rows = _tfds_rows(source, name, split)
    for number in range(len(rows)):
        values = rows[number]
        if field not in values:
            raise Refused(f"--input={source}: no field {field!r}{nearest(field, values)}; it has {', '.join(values)}")
        value = values[field]
        yield _checked_text(value.decode() if isinstance(value, bytes) else value, field, f"{source}, row {number}")


def _tfds_rows(source: str, name: str, split: str) -> Sequence[dict[str, Any]]:
    """Random access to a split, without TensorFlow unless the set has to be built and its builder needs it."""
    import tensorflow_datasets as tfds  # slow, and for this source only

    try:
        if Path(name).is_dir():
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, file_format="array_record")
            builder.download_and_prepare()  # nothing where it was built before
        return builder.as_data_source(split)
    except tfds.core.DatasetNotFoundError as error:
        near = nearest(name, tfds.list_builders(with_community_datasets=False))
        raise Refused(f"--input={source}: tfds knows no {name!r}{near}") from error
    except TFDS_ERRORS as error:
        raise Refused(f"--input={source}: {type(error).__name__}: {error}") from error


def _tfds_parts(source: str, field: str) -> tuple[str, str, str]:
    parts = source.removeprefix("tfds:").split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise Refused(f"--input={source}: expects tfds:NAME[/CONFIG]:SPLIT:FIELD")
    return (*parts, field)[:3]
