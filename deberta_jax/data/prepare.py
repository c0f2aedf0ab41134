"""From documents to a prepared directory: packed rows in shards, made by several processes, and a manifest.

Killed and started again, the work goes on where it was and ends with the bytes it would have had.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from deberta_jax.data.documents import read_documents, source_files
from deberta_jax.data.packing import SHORTEST_ROW
from deberta_jax.data.prepared import (
    MANIFEST_FILE,
    SPLITS,
    TOKENIZER_DIRECTORY,
    Manifest,
    canonical_json,
    id_dtype,
    read_manifest,
    write_manifest,
    write_text,
)
from deberta_jax.data.units import (
    SIDECAR_DIRECTORY,
    Unit,
    UnitSettings,
    is_done,
    read_unit,
    unit_files,
    units,
    write_unit,
)
from deberta_jax.errors import Failed, Refused, Stopped
from deberta_jax.tokenizers import Tokenizer, load_tokenizer

SETTINGS_FILE = "settings.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What `prepare` is asked to do."""

    source: str
    field: str
    one_per_line: bool
    tokenizer: Path
    length: int
    holdout: float  # share of the documents
    shard: int  # this machine does the units whose number is `shard` modulo `shards`
    shards: int
    unit_chars: int
    processes: int
    output: Path

    def __post_init__(self):
        _require(SHORTEST_ROW <= self.length < 1 << 16, f"--length={self.length} must lie in [{SHORTEST_ROW}, 65536)")
        _require(0 <= self.holdout <= 1, f"--holdout={self.holdout} must be a share between 0 and 1")
        _require(0 <= self.shard < self.shards, f"--shard={self.shard}/{self.shards}: i/n counts i from 0 to n-1")
        _require(self.unit_chars > 0, "--unit_mb must be positive")
        _require(self.processes > 0, f"--processes={self.processes} must be positive")


class Prepared(NamedTuple):
    """What `prepare` made, and how much text went through in how long."""

    manifest: Manifest
    megabytes: float  # of this machine's units, those already done included
    seconds: float


def prepare(job: Job) -> Prepared:
    """Makes or completes the prepared directory `job.output`, with a progress bar on standard error.

    Raises Refused when the directory holds rows of other settings, when the corpus cannot be read, or when no part
    of it falls to this machine; Failed when a process died; Stopped on Ctrl-C.
    """
    start = time.monotonic()
    tokenizer = load_tokenizer(job.tokenizer)
    settings = UnitSettings(tokenizer.fingerprint, job.length, job.holdout)
    source_files(job.source)  # before anything is written
    documents = read_documents(job.source, field=job.field, one_per_line=job.one_per_line)
    stream = units(documents, job.unit_chars)
    first = next(stream)
    _claim_output(job, tokenizer)
    unit_bytes = _make_units(job, settings, itertools.chain([first], stream))
    if not unit_bytes:
        raise Refused(f"--shard={job.shard}/{job.shards}: the input has fewer units; lower n or --unit_mb")
    _remove_stale(job.output, unit_bytes)
    write_manifest(job.output, _manifest_values(job, tokenizer, sorted(unit_bytes)))
    return Prepared(read_manifest(job.output), sum(unit_bytes.values()) / 1e6, time.monotonic() - start)


def _claim_output(job: Job, tokenizer: Tokenizer) -> None:
    """Creates the directory with its settings, or checks that it holds rows of these settings."""
    file = job.output / SETTINGS_FILE
    asked = _source_values(job) | {"length": job.length, "tokenizer": tokenizer.fingerprint}
    if file.is_file():
        _check_settings(job.output, json.loads(file.read_text(encoding="utf-8")), asked)
    elif job.output.is_dir() and any(p.suffix != ".tmp" for p in job.output.iterdir()):
        raise Refused(f"--output={job.output} is not empty and no prepared directory")
    try:
        job.output.mkdir(parents=True, exist_ok=True)
        write_text(file, canonical_json(asked))
        (job.output / SIDECAR_DIRECTORY).mkdir(exist_ok=True)
        tokenizer.save_vocabulary(job.output / TOKENIZER_DIRECTORY)
    except OSError as error:
        raise Refused(f"--output={job.output} cannot be written: {error}") from error


def _check_settings(output: Path, held: dict[str, Any], asked: dict[str, Any]) -> None:
    for name in sorted(asked):
        if name not in held or held[name] != asked[name]:
            change = f"{name} ({held[name]}, now {asked[name]})" if name in held else "format"
            raise Refused(f"{output} holds rows of another {change}: choose another --output")


def _source_values(job: Job) -> dict[str, Any]:
    """Settings besides tokenizer and length. Of paths only the names: equal text gives equal manifests anywhere."""
    return {
        "input": Path(job.source).name,
        "field": job.field,
        "one_per_line": job.one_per_line,
        "holdout": job.holdout,
        "unit_chars": job.unit_chars,
        "shard": f"{job.shard}/{job.shards}",
    }


def _make_units(job: Job, settings: UnitSettings, stream: Iterable[Unit]) -> dict[int, int]:
    """Makes this machine's units that are not done; returns number -> bytes of text of all its units."""
    unit_bytes: dict[int, int] = {}
    pool = _pool(job)
    running: set[Future] = set()
    try:
        with _bar(job) as bar:
            for unit in stream:
                if unit.number % job.shards == job.shard:
                    unit_bytes[unit.number] = unit.bytes
                    if not is_done(unit, settings, job.output):
                        (job.output / MANIFEST_FILE).unlink(missing_ok=True)  # no longer true
                        running.add(_submit(pool, unit, settings, job.output))
                    running = _settle(running, at_most=job.processes)
                bar.update(unit.bytes)
            _settle(running, at_most=0)
    except BrokenProcessPool as error:
        raise Failed("a process died, perhaps for want of memory; run the same command again") from error
    except KeyboardInterrupt as error:
        raise Stopped("interrupted; run the same command again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)
    return unit_bytes


def _settle(running: set[Future], at_most: int) -> set[Future]:
    """Waits until at most so many units are under way; raises what their processes raised."""
    while len(running) > at_most:
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
    return running


def _pool(job: Job) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=job.processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(job.output / TOKENIZER_DIRECTORY,),
    )


def _submit(pool: ProcessPoolExecutor, unit: Unit, settings: UnitSettings, output: Path) -> Future:
    """Submits a unit. The worker that this may start is born deaf to Ctrl-C: interrupted while it still imports, it
    would print a traceback of its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_work, unit, settings, output)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_worker: dict[str, Tokenizer] = {}  # of this process: loading a tokenizer costs more than sending a unit


def _start_worker(tokenizer: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see _submit
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker["tokenizer"] = load_tokenizer(tokenizer)


def _follow_parent() -> None:
    """Ends this process with its parent: a pool's workers would outlive a killed one, and go on writing."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(unit: Unit, settings: UnitSettings, output: Path) -> None:
    try:
        write_unit(unit, _worker["tokenizer"], settings, output)
    except (OSError, RuntimeError) as error:  # ArrayRecord reports a full disk as a RuntimeError
        raise Failed(f"unit {unit.number} could not be written: {error}") from error


def _bar(job: Job) -> tqdm:
    """Bytes of text read; the end is known for plain text files."""
    files = source_files(job.source)
    total = sum(f.stat().st_size for f in files) if files and all(f.suffix == ".txt" for f in files) else None
    return tqdm(total=total, desc="prepare", unit="B", unit_scale=True)


def _remove_stale(output: Path, numbers: Iterable[int]) -> None:
    """Removes files of units that a former, longer input had, and what a killed process left half written."""
    known = unit_files(output, numbers)
    for pattern in (*(f"{split}-*.array_record*" for split in SPLITS), f"{SIDECAR_DIRECTORY}/unit-*.json*"):
        for file in set(output.glob(pattern)) - known:
            file.unlink()


def _manifest_values(job: Job, tokenizer: Tokenizer, numbers: list[int]) -> dict[str, Any]:
    splits = {split: {"rows": 0, "tokens": 0, "documents": 0, "shards": []} for split in SPLITS}
    counts = {split: np.zeros(tokenizer.size, np.int64) for split in SPLITS}
    for number in numbers:
        for split, unit in read_unit(job.output, number)["splits"].items():
            splits[split] = {name: total + unit[name] for name, total in splits[split].items()}
            counts[split][np.array(unit["ids"], np.int64)] += np.array(unit["counts"], np.int64)
    _require(any(total.any() for total in counts.values()), f"{job.source}: no text that the tokenizer makes tokens of")
    frequent = counts["train"] if counts["train"].any() else counts["holdout"]
    return {
        "length": job.length,
        "id_dtype": id_dtype(tokenizer.size),
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "size": tokenizer.size,
            "files": [f"{TOKENIZER_DIRECTORY}/{name}" for name in sorted(tokenizer.files)],
        },
        "splits": splits,
        "top_id": int(tokenizer.ordinary_ids[np.argmax(frequent[tokenizer.ordinary_ids])]),
        "max_id": int(np.flatnonzero(sum(counts.values())).max()),
        "source": _source_values(job),
    }


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Refused(message)
