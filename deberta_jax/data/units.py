"""A unit: the piece of a corpus that one process turns into shards, and that is done as a whole or not at all.

Units are a function of the corpus alone, and a unit's files of its text and the settings: so the bytes of a prepared
directory depend neither on the number of processes nor on how often the work was killed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from deberta_jax.data.documents import Document
from deberta_jax.data.packing import pack
from deberta_jax.data.prepared import SPLITS, canonical_json, encode_rows, id_dtype, sha256_of, write_text
from deberta_jax.tokenizers import Tokenizer

SIDECAR_DIRECTORY = "units"
SHARD_PATTERN = "{split}-{number:05d}.array_record"
# One row a group: any row can be read by itself. Such small records compress badly, by 45 %, and at 128 tokens a row
# that took a third as long as making the tokens.
WRITER_OPTIONS = "group_size:1,uncompressed"


class Unit(NamedTuple):
    """Consecutive documents of a corpus."""

    number: int
    documents: list[Document]
    text_sha256: str
    bytes: int  # of the text in UTF-8


@dataclasses.dataclass(frozen=True)
class UnitSettings:
    """What a unit's files depend on besides its text."""

    tokenizer_fingerprint: str
    length: int
    holdout: float

    @property
    def sha256(self) -> str:
        values = dataclasses.asdict(self) | {"writer": WRITER_OPTIONS}
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def units(documents: Iterable[Document], unit_chars: int) -> Iterator[Unit]:
    """Groups of whole documents with at least `unit_chars` characters each; the last one may have less."""
    number, group, chars = 0, [], 0
    for document in documents:
        group.append(document)
        chars += len(document.text)
        if chars >= unit_chars:
            yield _unit(number, group)
            number, group, chars = number + 1, [], 0
    if group:
        yield _unit(number, group)


def _unit(number: int, documents: list[Document]) -> Unit:
    digest, size = hashlib.sha256(), 0
    for text, key in documents:
        data = text.encode()
        size += len(data)
        for part in (data, data if key is text else key.encode()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return Unit(number, documents, digest.hexdigest(), size)


def is_held_out(key: str, share: float) -> bool:
    """Whether the sha256 of `key`, read as a number in [0, 1), is below `share`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64


def write_unit(unit: Unit, tokenizer: Tokenizer, settings: UnitSettings, output: Path) -> None:
    """Writes the shards of a unit, then the sidecar that says they are whole.

    An empty split has no shard. The sidecar also counts how often each id occurs, for `read_unit`.
    """
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for text, key in unit.documents:
        parts["holdout" if is_held_out(key, settings.holdout) else "train"].append(text)
    splits = {
        split: _write_split(split, unit.number, texts, tokenizer, settings, output) for split, texts in parts.items()
    }
    values = {"text_sha256": unit.text_sha256, "settings_sha256": settings.sha256, "splits": splits}
    write_text(_sidecar(output, unit.number), json.dumps(values, sort_keys=True) + "\n")


def _write_split(
    split: str, number: int, texts: list[str], tokenizer: Tokenizer, settings: UnitSettings, output: Path
) -> dict[str, Any]:
    """Writes one shard; returns its numbers for the sidecar."""
    counts = np.zeros(tokenizer.size, np.int64)
    rows = 0
    file = output / SHARD_PATTERN.format(split=split, number=number)
    temporary = file.with_name(file.name + ".tmp")
    writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
    documents = map(tokenizer.id_array, texts)
    for packed in pack(documents, settings.length, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id):
        for record in encode_rows(*packed, id_dtype(tokenizer.size)):
            writer.write(record)
        counts += np.bincount(packed.ids_bl[packed.documents_bl > 0], minlength=tokenizer.size)
        rows += len(packed.ids_bl)
    writer.close()
    found = np.flatnonzero(counts)
    numbers = {
        "rows": rows,
        "tokens": int(counts.sum()),
        "documents": len(texts),
        "ids": found.tolist(),
        "counts": counts[found].tolist(),
        "shards": [],
    }
    if not rows:
        temporary.unlink()
        file.unlink(missing_ok=True)
        return numbers
    shard = {"file": file.name, "rows": rows, "sha256": sha256_of(temporary), "bytes": temporary.stat().st_size}
    temporary.replace(file)
    return {**numbers, "shards": [shard]}


def is_done(unit: Unit, settings: UnitSettings, output: Path) -> bool:
    """Whether the unit's shards are there, whole, and of this text and these settings."""
    sidecar = _sidecar(output, unit.number)
    if not sidecar.is_file():
        return False
    values = read_unit(output, unit.number)
    if (values["text_sha256"], values["settings_sha256"]) != (unit.text_sha256, settings.sha256):
        return False
    shards = [shard for split in values["splits"].values() for shard in split["shards"]]
    return all((output / s["file"]).is_file() and sha256_of(output / s["file"]) == s["sha256"] for s in shards)


def read_unit(output: Path, number: int) -> dict[str, Any]:
    """The sidecar of a unit: {"splits": {name: {rows, tokens, documents, ids, counts, shards}}, ...}."""
    return json.loads(_sidecar(output, number).read_text())


def unit_files(output: Path, numbers: Iterable[int]) -> set[Path]:
    """Every file that the units may have."""
    shards = {output / SHARD_PATTERN.format(split=split, number=n) for n in numbers for split in SPLITS}
    return shards | {_sidecar(output, n) for n in numbers}


def _sidecar(output: Path, number: int) -> Path:
    return output / SIDECAR_DIRECTORY / f"unit-{number:05d}.json"
