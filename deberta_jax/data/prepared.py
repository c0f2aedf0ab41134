"""What a prepared directory looks like on disk: rows, shards and the manifest that describes them.

A row is one ArrayRecord record: `length` ids, little-endian uint16 or uint32, then `length` document numbers, uint16.
Document numbers count 1, 2, ... along the row; padding has number 0 and stands at the end.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.errors import Refused, nearest

FORMAT = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_DIRECTORY = "tokenizer"
SPLITS = ("train", "holdout")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file, named relative to the prepared directory."""

    file: str
    rows: int
    sha256: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows that are trained on, or held out. `tokens` counts all but padding."""

    rows: int
    tokens: int
    documents: int
    shards: tuple[Shard, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A prepared directory."""

    path: Path
    length: int
    id_dtype: str
    tokenizer_fingerprint: str
    tokenizer_size: int
    top_id: int  # the most frequent ordinary token: what a model without parameters would guess
    max_id: int
    fingerprint: str
    splits: dict[str, Split]

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TOKENIZER_DIRECTORY

    def shard_paths(self, split: str) -> list[Path]:
        """Files of a split, in row order."""
        return [self.path / shard.file for shard in self.splits[split].shards]


def id_dtype(size: int) -> str:
    """Type of the ids on disk for a vocabulary of `size` ids."""
    return "uint16" if size <= 1 << 16 else "uint32"


def encode_rows(ids_bl: np.ndarray, documents_bl: np.ndarray, dtype: str) -> Iterator[bytes]:
    """Records of rows."""
    parts = ids_bl.astype(_little(dtype)), documents_bl.astype(_little("uint16"))
    bytes_bn = np.concatenate([part.view(np.uint8) for part in parts], axis=1)
    data, size = bytes_bn.tobytes(), bytes_bn.shape[1]
    return (data[start : start + size] for start in range(0, len(data), size))


def decode_rows(records: Sequence[bytes], length: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids, document numbers), int32 [b, l], of records. Raises Refused for one of another size."""
    ids_bytes = length * np.dtype(dtype).itemsize
    for record in records:
        if len(record) != ids_bytes + 2 * length:
            raise Refused(f"a record of {len(record)} bytes is no row of {length} {dtype} ids")
    bytes_bn = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), ids_bytes + 2 * length)
    ids_bl = bytes_bn[:, :ids_bytes].view(_little(dtype))
    documents_bl = bytes_bn[:, ids_bytes:].view(_little("uint16"))
    return ids_bl.astype(np.int32), documents_bl.astype(np.int32)


def _little(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


def sha256_of(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that is hashed and written."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def write_manifest(directory: Path, values: dict[str, Any]) -> None:
    """Writes manifest.json: `values`, the format, and the fingerprint of both."""
    values = {"format": FORMAT, **values}
    fingerprint = hashlib.sha256(canonical_json(values).encode()).hexdigest()
    write_text(directory / MANIFEST_FILE, canonical_json({**values, "fingerprint": fingerprint}))


def write_text(file: Path, text: str) -> None:
    """Writes a file that is seen whole or not at all."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def read_manifest(directory: str | Path) -> Manifest:
    """The manifest of a prepared directory.

    Raises Refused when the directory or its manifest is missing, edited, or of an unknown format.
    """
    path = Path(directory)
    values = _read_values(path)
    tokenizer = values["tokenizer"]
    return Manifest(
        path=path,
        length=values["length"],
        id_dtype=values["id_dtype"],
        tokenizer_fingerprint=tokenizer["fingerprint"],
        tokenizer_size=tokenizer["size"],
        top_id=values["top_id"],
        max_id=values["max_id"],
        fingerprint=values["fingerprint"],
        splits={name: _split(split) for name, split in values["splits"].items()},
    )


def _read_values(path: Path) -> dict[str, Any]:
    file = path / MANIFEST_FILE
    if not path.is_dir():
        near = nearest(path.name, (p.name for p in path.parent.glob("*") if p.is_dir()))
        raise Refused(f"prepared directory {path} does not exist{near}")
    if not file.is_file():
        raise Refused(f"{path} has no {MANIFEST_FILE}: run deberta_jax.tools.prepare with --output={path} to its end")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{file} is not JSON: {error}") from error
    if not isinstance(values, dict) or "format" not in values:
        raise Refused(f"{file} is no manifest of prepared rows")
    if values["format"] != FORMAT:
        raise Refused(f"{file} has format {values['format']}, this code reads {FORMAT}: prepare the text again")
    rest = {key: value for key, value in values.items() if key != "fingerprint"}
    if hashlib.sha256(canonical_json(rest).encode()).hexdigest() != values.get("fingerprint"):
        raise Refused(f"{file} was changed after it was written: prepare the text again")
    return values


def _split(values: dict[str, Any]) -> Split:
    return Split(**{**values, "shards": tuple(Shard(**shard) for shard in values["shards"])})


def verify_shards(manifest: Manifest, splits: Iterable[str]) -> None:
    """Reads every shard of `splits` and raises Refused naming the first that is missing or not what was written."""
    shards = [shard for split in splits for shard in manifest.splits[split].shards]
    for shard in shards:  # sizes first: the cheap check of all before the dear check of any
        file = manifest.path / shard.file
        if not file.is_file():
            raise Refused(f"shard {file} is missing: run deberta_jax.tools.prepare again, it makes what is not there")
        if file.stat().st_size != shard.bytes:
            raise Refused(f"shard {file} has {file.stat().st_size} bytes, the manifest says {shard.bytes}")
    for shard in shards:
        file = manifest.path / shard.file
        if sha256_of(file) != shard.sha256:
            raise Refused(f"shard {file} is corrupt: its sha256 is not the manifest's; prepare makes it again")
