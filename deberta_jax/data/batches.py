"""Masked batches of prepared rows, read through Grain; no iterator has state beyond the step.

Letters: b rows of this host, l position, p prediction slot. Row i of step s has number n = s * batch_size + i; which
row of the data that is and how it is masked depends on (seed, n) alone. So a batch is a function of (seed, step, global
batch size): the same after a restart at any step, and for any number of hosts once their parts are laid side by side.

A batch holds
    input_ids, documents, positions           int32 [b, l]    documents: 0 padding; attention stays among equal numbers
    masked_positions, labels                  int32 [b, p]
    weights                                   float32 [b, p]  0 for an unused slot
    rows                                      int32 [b]       index in the global batch
    examples                                  int32 [b]       row of the data, all sets end to end; -1 for a filler row
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np

from deberta_jax.config import DataConfig
from deberta_jax.data.masking import Vocabulary, mask_rows
from deberta_jax.data.prepared import Manifest, decode_rows
from deberta_jax.errors import Failed, Refused

Batch = dict[str, np.ndarray]
FILLER = -1
END = 1 << 48  # training has no last step of its own; grain wants one


class Common(NamedTuple):
    """What all sets of a run agree on."""

    length: int
    tokenizer_fingerprint: str
    tokenizer_size: int


class Share(NamedTuple):
    """The rows of every global batch that one host reads: those that its devices hold."""

    batch_size: int  # global
    columns: np.ndarray  # int32 [b]: where its rows stand in the global batch, ascending

    @classmethod
    def whole(cls, batch_size: int) -> "Share":
        """All rows: of a host by itself."""
        return cls(batch_size, np.arange(batch_size, dtype=np.int32))

    def numbers(self, step: int) -> np.ndarray:
        """int64 [b]: the numbers of its rows, counted through all steps."""
        return step * self.batch_size + self.columns.astype(np.int64)


@dataclasses.dataclass(frozen=True)
class _ShardRows:
    """grain.sources' FileInstruction: with counts from the manifest no shard is opened before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


def check_manifests(manifests: Sequence[Manifest]) -> Common:
    """What the sets have in common; raises Refused naming the first that differs in row length or tokenizer."""
    if not manifests:
        raise Refused("data.paths is empty: name at least one prepared directory")
    first = manifests[0]
    for other in manifests[1:]:
        if other.length != first.length:
            raise Refused(f"{other.path} has rows of {other.length} tokens, {first.path} of {first.length}")
        if other.tokenizer_fingerprint != first.tokenizer_fingerprint:
            raise Refused(f"{other.path} was prepared with another tokenizer than {first.path}")
    return Common(first.length, first.tokenizer_fingerprint, first.tokenizer_size)


def train_batches(
    manifests: Sequence[Manifest],
    data: DataConfig,
    vocabulary: Vocabulary,
    *,
    seed: int,
    share: Share,
    start_step: int = 0,
) -> Iterator[Batch]:
    """This host's part of the batches start_step, start_step + 1, ... of the train splits, without end.

    Raises Refused when the sets do not fit each other or the vocabulary,
    when one is empty, or when all of them do not fill one batch. Close the iterator to end its threads.
    """
    sets = [(manifest, "train") for manifest in manifests]
    total = _check_sets(sets, vocabulary)
    if total < share.batch_size:
        names = ", ".join(str(manifest.path) for manifest in manifests)
        raise Refused(f"{names}: {total} train rows do not fill one batch of {share.batch_size}: prepare more text")
    order = _order(sets, data, seed)
    stored = _Stored(sets, vocabulary.pad_id)

    def batch_of(step: int) -> Batch:
        numbers_b = share.numbers(step)
        examples_b = np.array([order[number] for number in numbers_b.tolist()])
        return _batch(stored, examples_b, numbers_b, data, vocabulary, seed) | {"rows": share.columns}

    return read_ahead(grain.MapDataset.range(start_step, END).map(batch_of), data.read_threads)


def eval_batches(
    sets: Sequence[tuple[Manifest, str]],
    data: DataConfig,
    vocabulary: Vocabulary,
    *,
    seed: int,
    share: Share,
    max_rows: int = 0,
) -> Iterator[Batch]:
    """This host's part of one pass over (manifest, split) sets: each row once and in order, or the first `max_rows`.

    Masks depend on (seed, row) only, not on the batch size. Every host gets the same number of batches; where rows run
    out, filler rows of document 0, weight 0 and example -1 complete the last. Sets are refused as by `train_batches`.
    """
    total = _check_sets(sets, vocabulary)
    total = min(total, max_rows) if max_rows else total
    stored = _Stored(sets, vocabulary.pad_id)

    def batch_of(step: int) -> Batch:
        numbers_b = share.numbers(step)
        examples_b = np.where(numbers_b < total, numbers_b, FILLER)
        return _batch(stored, examples_b, numbers_b, data, vocabulary, seed) | {"rows": share.columns}

    return read_ahead(grain.MapDataset.range(-(-total // share.batch_size)).map(batch_of), data.read_threads)


def _check_sets(sets: Sequence[tuple[Manifest, str]], vocabulary: Vocabulary) -> int:
    """Rows of all sets; raises Refused naming the set that cannot be used."""
    check_manifests([manifest for manifest, _ in sets])
    for manifest, split in sets:
        if split not in manifest.splits or not manifest.splits[split].rows:
            raise Refused(f"{manifest.path} holds no {split} rows")
        if manifest.max_id >= vocabulary.size:
            raise Refused(f"{manifest.path} holds token {manifest.max_id}, the vocabulary has {vocabulary.size} ids")
    total = sum(manifest.splits[split].rows for manifest, split in sets)
    if total > np.iinfo(np.int32).max:
        raise Refused(f"{total} rows are more than 32-bit example numbers can tell apart: prepare longer rows")
    return total


class _Stored:
    """The rows of all sets, end to end."""

    def __init__(self, sets: Sequence[tuple[Manifest, str]], pad_id: int):
        shards = [
            _ShardRows(str(manifest.path / s.file), 0, s.rows, s.rows)
            for manifest, split in sets
            for s in manifest.splits[split].shards
        ]
        self._source = grain.sources.ArrayRecordDataSource(shards)
        self._manifest, self._pad_id = sets[0][0], pad_id
        self._paths = ", ".join(sorted({str(manifest.path) for manifest, _ in sets}))

    def read(self, examples_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, document numbers), int32 [b, l]; a filler is padding."""
        ids_bl = np.full((len(examples_b), self._manifest.length), self._pad_id, np.int32)
        documents_bl = np.zeros_like(ids_bl)
        is_stored_b = examples_b != FILLER
        if is_stored_b.any():
            ids_bl[is_stored_b], documents_bl[is_stored_b] = self._stored_rows(examples_b[is_stored_b].tolist())
        return ids_bl, documents_bl

    def _stored_rows(self, examples: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Raises Failed where they were there at the start and are gone: shards are checked once, then trusted."""
        try:
            records = self._source.__getitems__(examples)
            return decode_rows(records, self._manifest.length, self._manifest.id_dtype)
        except (Refused, RuntimeError, OSError) as error:
            raise Failed(f"{self._paths}: rows cannot be read any more: {error}") from error


def _order(sets: Sequence[tuple[Manifest, str]], data: DataConfig, seed: int) -> grain.MapDataset:
    """The endless train order: which row of the data is number n.

    Sets that are read in proportion to their size are shuffled as one, so that each row comes once in an epoch of them
    all; otherwise each set has its own epochs and they are interleaved by weight.
    """
    sizes = [manifest.splits[split].rows for manifest, split in sets]
    if not data.weights and data.sampling_exponent == 1:
        sizes = [sum(sizes)]
    ends = np.cumsum(sizes).tolist()
    orders = [
        grain.MapDataset.range(end - size, end).shuffle(seed=_shuffle_seed(seed, i)).repeat()
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
    ]
    if len(orders) == 1:
        return orders[0]
    return grain.MapDataset.mix(orders, data.weights or (np.array(sizes, float) ** data.sampling_exponent).tolist())


def _shuffle_seed(seed: int, number: int) -> int:
    """Seed of a set's order. Hashed, because grain reads epoch e of seed s in the order of epoch 0 of seed s + e."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])


def _batch(
    stored: _Stored,
    examples_b: np.ndarray,
    numbers_b: np.ndarray,
    data: DataConfig,
    vocabulary: Vocabulary,
    seed: int,
) -> Batch:
    ids_bl, documents_bl = stored.read(examples_b)
    batch = mask_rows(ids_bl, documents_bl, numbers_b, seed=seed, mask=data.mask, vocabulary=vocabulary)
    if not data.isolate_documents:
        documents_bl = (documents_bl > 0).astype(np.int32)
    batch |= {"documents": documents_bl, "positions": _positions(documents_bl)}
    return batch | {"examples": examples_b.astype(np.int32)}


def _positions(documents_bl: np.ndarray) -> np.ndarray:
    """Distance of each token from the first of its document, int32 [b, l]; 0 for padding."""
    column_l = np.arange(documents_bl.shape[1], dtype=np.int32)
    opens_bl = np.diff(documents_bl, axis=1, prepend=0) != 0
    start_bl = np.maximum.accumulate(np.where(opens_bl, column_l, 0), axis=1)
    return np.where(documents_bl > 0, column_l - start_bl, 0).astype(np.int32)


def read_ahead(batches: grain.MapDataset, threads: int) -> Iterator[Batch]:
    """Batches in order, made by `threads` threads; closing the generator ends them."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()
