"""Batches of task rows, padded to one of a few lengths; no iterator has state beyond the step.

Letters: b rows of this host, c options, l position. What a batch holds is said in objectives/tasks.py. A training batch
is a function of (seed, step, global batch size); all hosts pad to the same length.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np

from deberta_jax.data.batches import END, Batch, Share, read_ahead
from deberta_jax.errors import Refused
from deberta_jax.tasks.rows import ChoiceRow, Row, SpanRow, TagRow, TextRow

POOL = 64  # batches whose rows are sorted by length before they are cut


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """The last batch of an epoch may be short: every row comes once."""
    return -(-rows // batch_size)


def train_batches(
    rows: Sequence[Row],
    *,
    seed: int,
    share: Share,
    buckets: Sequence[int],
    pad_id: int,
    threads: int,
    start_step: int = 0,
) -> Iterator[Batch]:
    """This host's part of the batches start_step, start_step + 1, ..., without end.

    Each epoch has an order of its own and every row once; a short batch is filled up with rows of weight 0. Rows of
    similar length share a batch: those of POOL batches are sorted by length, and the batches shuffled again. Close the
    iterator to end its threads.
    """
    batch_size = share.batch_size
    lengths = np.array([longest(row) for row in rows])
    epoch_steps = steps_per_epoch(len(rows), batch_size)

    @functools.lru_cache(maxsize=2)
    def plan(epoch: int) -> list[np.ndarray]:
        return epoch_plan(lengths, batch_size, np.random.default_rng([seed, epoch]))

    def batch_of(step: int) -> Batch:
        epoch, number = divmod(step, epoch_steps)
        chosen = plan(epoch)[number]
        length = bucket_of(lengths[chosen].max(), buckets)
        return _batch(rows, _filled(chosen, batch_size), length, share, pad_id)

    return read_ahead(grain.MapDataset.range(start_step, END).map(batch_of), threads)


def eval_batches(
    rows: Sequence[Row],
    *,
    batch_size: int,
    share: Share,
    buckets: Sequence[int],
    pad_id: int,
    threads: int,
) -> Iterator[Batch]:
    """This host's part of one pass over the rows, each once.

    Every row is padded to its own bucket, whatever its neighbours are, so the batch size does not change what is
    computed. Batches hold `batch_size` rows and as many fillers (example -1, weight 0) as the last one needs, or
    `share`, which is of batches at least as large.
    """
    own = np.array([bucket_of(longest(row), buckets) for row in rows], int)
    batches = []
    for length in buckets:
        numbers = np.flatnonzero(own == length)
        batches += [(length, numbers[i : i + batch_size]) for i in range(0, len(numbers), batch_size)]

    def batch_of(step: int) -> Batch:
        length, chosen = batches[step]
        return _batch(rows, _filled(chosen, share.batch_size), length, share, pad_id)

    return read_ahead(grain.MapDataset.range(len(batches)).map(batch_of), threads)


def epoch_plan(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each batch of an epoch."""
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def longest(row: Row) -> int:
    """Tokens of the row's longest sequence."""
    return max(map(len, row.ids)) if isinstance(row, ChoiceRow) else len(row.ids)


def bucket_of(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds so many tokens. Raises Refused when none does."""
    for bucket in buckets:
        if length <= bucket:
            return bucket
    raise Refused(f"a row of {length} tokens does not fit data.buckets {tuple(buckets)}")


def _filled(chosen: np.ndarray, batch_size: int) -> np.ndarray:
    return np.concatenate([chosen, np.full(batch_size - len(chosen), -1)])


def _batch(rows: Sequence[Row], chosen: np.ndarray, length: int, share: Share, pad_id: int) -> Batch:
    """Arrays of this host's part of the `chosen` rows, -1 for fillers."""
    mine = chosen[share.columns]
    some = rows[chosen[0]]  # fillers are copies of it and count for nothing
    taken = [_ARRAYS[type(some)](some if number < 0 else rows[number], length, pad_id) for number in mine]
    batch = {key: np.stack([row[key] for row in taken]) for key in taken[0]}
    for key in ("weights", "documents"):
        batch[key][mine < 0] = 0
    batch["rows"] = share.columns
    batch["examples"] = mine.astype(np.int32)
    return batch


def _padded(ids: np.ndarray, length: int, pad_id: int) -> dict[str, np.ndarray]:
    input_ids = np.full(length, pad_id, np.int32)
    input_ids[: len(ids)] = ids
    return {"input_ids": input_ids, "documents": (np.arange(length) < len(ids)).astype(np.int32)}


def _text(row: TextRow, length: int, pad_id: int) -> Batch:
    known = row.label >= 0 or not np.isnan(row.value)
    return _padded(row.ids, length, pad_id) | {
        "labels": np.int32(max(row.label, 0)),
        "values": np.float32(np.nan_to_num(row.value)),
        "weights": np.float32(known),
    }


def _choice(row: ChoiceRow, length: int, pad_id: int) -> Batch:
    options = [_padded(ids, length, pad_id) for ids in row.ids]
    return {key: np.stack([option[key] for option in options]) for key in options[0]} | {
        "labels": np.int32(max(row.label, 0)),
        "weights": np.float32(row.label >= 0),
    }


def _tags(row: TagRow, length: int, pad_id: int) -> Batch:
    labels_l, weights_l = np.zeros(length, np.int32), np.zeros(length, np.float32)
    labels_l[row.starts] = np.maximum(row.labels, 0)
    weights_l[row.starts] = row.labels >= 0
    return _padded(row.ids, length, pad_id) | {"labels": labels_l, "weights": weights_l}


def _span(row: SpanRow, length: int, pad_id: int) -> Batch:
    return _padded(row.ids, length, pad_id) | {
        "starts": np.int32(row.start),
        "ends": np.int32(row.end),
        "weights": np.float32(row.usable),
    }


_ARRAYS: dict[type, Callable[[Row, int, int], Batch]] = {
    TextRow: _text,
    ChoiceRow: _choice,
    TagRow: _tags,
    SpanRow: _span,
}
