"""Batches of task rows: which rows, padded how far, and that nothing depends on state, hosts or threads."""

import numpy as np
import pytest

from deberta_jax.data.batches import Share
from deberta_jax.errors import Refused
from deberta_jax.tasks.batches import bucket_of, epoch_plan, eval_batches, longest, steps_per_epoch, train_batches
from deberta_jax.tasks.examples import KINDS
from task_builders import CHOICES, PAD_ID, SHORTEST, hidden, task_rows

BUCKETS = (8, 16, 32, 64)
ROWS = 53  # prime, so that no batch size divides it
BATCH = 8
EPOCH = 7  # steps of an epoch, the last batch of which lacks 3 rows
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def ragged(kind: str, count: int = ROWS, seed: int = 0) -> list:
    """Rows of all lengths, most of them short; every seventh has no gold."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.3, 0.7, count), SHORTEST, BUCKETS[-1])
    return [hidden(row) if number % 7 == 3 else row for number, row in enumerate(task_rows(kind, lengths, seed))]


def take(rows: list, count: int, **options) -> list[dict]:
    settings = {"seed": 3, "share": Share.whole(BATCH), "buckets": BUCKETS, "pad_id": PAD_ID, "threads": 2} | options
    batches = train_batches(rows, **settings)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def whole(rows: list, **options) -> list[dict]:
    settings = {
        "batch_size": BATCH,
        "share": Share.whole(BATCH),
        "buckets": BUCKETS,
        "pad_id": PAD_ID,
        "threads": 2,
    } | options
    return list(eval_batches(rows, **settings))


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype, key
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def side_by_side(parts: list[dict]) -> dict:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class Slow:
    """A batch of the numbered rows, -1 for a filler, written down one entry at a time."""

    def __init__(self, kind: str, rows: list, numbers: list[int], length: int):
        self.rows, self.numbers, self.length = rows, numbers, length
        self.arrays = {"rows": np.arange(len(numbers), dtype=np.int32), "examples": np.int32(numbers)}
        shape = (CHOICES, length) if kind == "multiple_choice" else (length,)
        self.empty("input_ids", np.int32, *shape)
        self.empty("documents", np.int32, *shape)
        self.empty("weights", np.float32, *((length,) if kind == "tagging" else ()))
        for place, number in enumerate(numbers):
            if kind == "multiple_choice":
                for option in range(CHOICES):
                    self.tokens((place, option), number, rows[number].ids[option])
            else:
                self.tokens((place,), number, rows[number].ids)
        getattr(self, kind)()

    def empty(self, name: str, dtype: type, *shape: int) -> np.ndarray:
        self.arrays[name] = np.zeros((len(self.numbers), *shape), dtype)
        return self.arrays[name]

    def tokens(self, place: tuple, number: int, ids: np.ndarray) -> None:
        for index in range(self.length):
            there = number >= 0 and index < len(ids)
            self.arrays["input_ids"][(*place, index)] = ids[index] if there else PAD_ID
            self.arrays["documents"][(*place, index)] = 1 if there else 0

    def real(self):
        """(place in the batch, row) of what is no filler."""
        return [(place, self.rows[number]) for place, number in enumerate(self.numbers) if number >= 0]

    def classification(self) -> None:
        labels = self.empty("labels", np.int32)
        self.empty("values", np.float32)
        for place, row in self.real():
            if row.label != -1:
                labels[place], self.arrays["weights"][place] = row.label, 1

    def regression(self) -> None:
        self.empty("labels", np.int32)
        values = self.empty("values", np.float32)
        for place, row in self.real():
            if row.value == row.value:
                values[place], self.arrays["weights"][place] = row.value, 1

    def multiple_choice(self) -> None:
        labels = self.empty("labels", np.int32)
        for place, row in self.real():
            if row.label != -1:
                labels[place], self.arrays["weights"][place] = row.label, 1

    def tagging(self) -> None:
        labels = self.empty("labels", np.int32, self.length)
        for place, row in self.real():
            for start, label in zip(row.starts, row.labels, strict=True):
                if label != -1:
                    labels[place, start], self.arrays["weights"][place, start] = label, 1

    def span(self) -> None:
        starts, ends = self.empty("starts", np.int32), self.empty("ends", np.int32)
        for place, row in self.real():
            starts[place], ends[place] = row.start, row.end
            self.arrays["weights"][place] = 1 if row.usable else 0


def without_what_fillers_hold(batch: dict) -> dict:
    """The batch with nothing but examples, weights and documents in its fillers: what else they hold is free."""
    real = batch["examples"] >= 0
    free = [key for key in batch if key not in ("rows", "examples", "weights", "documents")]
    cleared = {key: np.where(real.reshape(-1, *(1,) * (batch[key].ndim - 1)), batch[key], 0) for key in free}
    return batch | {key: value.astype(batch[key].dtype) for key, value in cleared.items()}


def assert_as_written_down(kind: str, rows: list, batch: dict) -> None:
    slow = Slow(kind, rows, batch["examples"].tolist(), batch["input_ids"].shape[-1])
    assert_equal(without_what_fillers_hold(batch), without_what_fillers_hold(slow.arrays))


def padded_to(batch: dict) -> int:
    return batch["input_ids"].shape[-1]


def smallest(length: int) -> int:
    return min(bucket for bucket in BUCKETS if bucket >= length)


@EVERY_KIND
def test_a_training_batch_holds_the_rows_it_names(kind):
    rows = ragged(kind)
    batches = take(rows, EPOCH)
    for batch in batches:
        assert_as_written_down(kind, rows, batch)
    assert sum((batch["examples"] < 0).sum() for batch in batches) == EPOCH * BATCH - ROWS


@EVERY_KIND
def test_an_evaluation_batch_holds_the_rows_it_names(kind):
    rows = ragged(kind)
    for batch in whole(rows):
        assert_as_written_down(kind, rows, batch)


def test_the_rows_of_the_tests_are_of_many_lengths_and_some_have_no_gold():
    for kind in KINDS:
        rows = ragged(kind)
        assert {smallest(longest(row)) for row in rows} == set(BUCKETS)
        weights = np.concatenate([batch["weights"].reshape(BATCH, -1).sum(1) for batch in whole(rows)])
        assert (weights == 0).sum() > EPOCH and (weights > 0).sum() > ROWS / 2


@EVERY_KIND
def test_a_batch_is_padded_to_the_smallest_bucket_that_holds_its_longest_row(kind):
    rows = ragged(kind)
    found = set()
    for batch in take(rows, 2 * EPOCH):
        lengths = [longest(rows[number]) for number in batch["examples"] if number >= 0]
        assert padded_to(batch) == smallest(max(lengths))
        found.add(padded_to(batch))
    assert len(found) > 2


def test_the_length_of_a_row_is_that_of_its_longest_sequence():
    for kind in KINDS:
        assert [longest(row) for row in task_rows(kind, [5, 9, 64])] == [5, 9, 64]


@pytest.mark.parametrize(("length", "bucket"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 32), (64, 64)])
def test_a_bucket_holds_as_many_tokens_as_it_says(length, bucket):
    assert bucket_of(length, BUCKETS) == bucket


def test_a_row_that_fits_no_bucket_is_refused():
    message = r"a row of 65 tokens does not fit data.buckets \(8, 16, 32, 64\)"
    with pytest.raises(Refused, match=message):
        bucket_of(65, BUCKETS)
    with pytest.raises(Refused, match=message):
        whole(task_rows("classification", [65]))
    with pytest.raises(Refused, match=message):
        take(task_rows("classification", [65]), 1)


def test_each_row_comes_once_an_epoch_and_epochs_differ():
    rows = ragged("classification")
    assert steps_per_epoch(ROWS, BATCH) == EPOCH
    order = [batch["examples"].tolist() for batch in take(rows, 4 * EPOCH)]
    epochs = [order[first : first + EPOCH] for first in range(0, len(order), EPOCH)]
    for epoch in epochs:
        assert sorted(number for batch in epoch for number in batch if number >= 0) == list(range(ROWS))
        assert [number for batch in epoch for number in batch].count(-1) == EPOCH * BATCH - ROWS
    assert len({str(epoch) for epoch in epochs}) == 4
    neighbours = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert all(len(one & other) < EPOCH for one, other in zip(neighbours, neighbours[1:], strict=False))


@pytest.mark.parametrize(
    ("rows", "batch_size", "steps"), [(53, 8, 7), (56, 8, 7), (57, 8, 8), (1, 8, 1), (8, 1, 8), (0, 8, 0)]
)
def test_an_epoch_has_as_many_steps_as_its_rows_fill(rows, batch_size, steps):
    assert steps_per_epoch(rows, batch_size) == steps


def test_a_set_that_batches_divide_has_no_fillers():
    rows = ragged("classification", 48)
    assert all((batch["examples"] >= 0).all() for batch in take(rows, 6))


def test_a_set_smaller_than_a_batch_comes_whole_in_every_step():
    for batch in take(ragged("tagging", 3), 3):
        assert sorted(batch["examples"].tolist()) == [-1] * 5 + [0, 1, 2]


def test_the_seed_changes_the_order():
    rows = ragged("classification")
    orders = [str([batch["examples"].tolist() for batch in take(rows, EPOCH, seed=seed)]) for seed in (3, 4, 3)]
    assert orders[0] == orders[2] != orders[1]


def test_a_batch_is_the_same_after_a_resume_at_any_step():
    rows = ragged("classification")
    through = take(rows, 16)
    for start in (1, EPOCH - 1, EPOCH, EPOCH + 1, 15):
        for step, batch in enumerate(take(rows, 16 - start, start_step=start), start):
            assert_equal(batch, through[step])


def test_a_step_far_ahead_needs_none_of_those_before():
    rows = ragged("classification")
    one, other = (take(rows, 1, start_step=2**40)[0] for _ in range(2))
    assert_equal(one, other)


def test_the_number_of_threads_changes_nothing():
    rows = ragged("classification")
    for one, many in zip(take(rows, 15, threads=1), take(rows, 15, threads=5), strict=True):
        assert_equal(one, many)


@pytest.mark.parametrize("kind", ["classification", "multiple_choice"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_side_by_side_hold_the_global_training_batch(kind, hosts):
    rows = ragged(kind)
    parts = [take(rows, 15, share=Share(BATCH, own)) for own in np.arange(BATCH, dtype=np.int32).reshape(hosts, -1)]
    for step, expected in enumerate(take(rows, 15)):
        assert_equal(side_by_side([part[step] for part in parts]), expected)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_side_by_side_hold_the_global_evaluation_batch(hosts):
    rows = ragged("tagging")
    parts = [whole(rows, batch_size=7, share=Share(8, own)) for own in np.arange(8, dtype=np.int32).reshape(hosts, -1)]
    alone = whole(rows, batch_size=7, share=Share.whole(8))
    assert {len(part) for part in parts} == {len(alone)}
    for step, expected in enumerate(alone):
        assert_equal(side_by_side([part[step] for part in parts]), expected)


def padding(lengths: np.ndarray, batches: list[np.ndarray], batch_size: int) -> int:
    """Tokens of padding when each batch is as long as its longest row."""
    return sum(int(lengths[batch].max()) * batch_size - int(lengths[batch].sum()) for batch in batches)


def test_rows_of_a_batch_are_of_similar_length():
    """Of a long-tailed set, a quarter of the padding of a random order remains, though batches come in random order."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.0, 0.8, 2000), 3, 256).astype(int)
    plan = epoch_plan(lengths, 16, np.random.default_rng(1))
    order = rng.permutation(len(lengths))
    random_order = [order[first : first + 16] for first in range(0, len(order), 16)]
    assert padding(lengths, plan, 16) < 0.25 * padding(lengths, random_order, 16)
    longest_of_batches = [lengths[batch].max() for batch in plan]
    assert abs(np.corrcoef(np.arange(len(plan)), longest_of_batches)[0, 1]) < 0.3


def test_not_all_rows_of_an_epoch_are_sorted_together():
    """Or the longest rows, and the shortest, would meet the same neighbours in every epoch."""
    lengths = np.arange(1, 5001)
    ends = [
        [batch for batch in epoch_plan(lengths, 4, np.random.default_rng(seed)) if 4999 in batch] for seed in (1, 2)
    ]
    assert all(len(found) == 1 for found in ends)
    assert set(ends[0][0]) != set(ends[1][0])
    batches = epoch_plan(lengths, 4, np.random.default_rng(3))
    assert np.mean([lengths[batch].max() - lengths[batch].min() for batch in batches]) > 20


@pytest.mark.parametrize(
    ("batch_size", "parts", "size"), [(1, 1, 1), (1, 8, 8), (7, 8, 8), (7, 1, 7), (8, 8, 8), (20, 8, 24), (99, 1, 99)]
)
def test_evaluation_sees_each_row_once_padded_to_its_own_bucket(batch_size, parts, size):
    rows = ragged("span")
    batches = whole(rows, batch_size=batch_size, share=Share.whole(-(-batch_size // parts) * parts))
    seen = []
    for batch in batches:
        real = batch["examples"][batch["examples"] >= 0].tolist()
        assert len(batch["examples"]) == size and 0 < len(real) <= batch_size
        assert {smallest(longest(rows[number])) for number in real} == {padded_to(batch)}
        assert_as_written_down("span", rows, batch)
        seen += real
    assert sorted(seen) == list(range(ROWS))
    counts = [sum(smallest(longest(row)) == bucket for row in rows) for bucket in BUCKETS]
    assert len(batches) == sum(-(-count // batch_size) for count in counts)


def test_a_set_without_rows_has_no_batches():
    assert whole([]) == []
