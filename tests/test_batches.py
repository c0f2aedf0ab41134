"""Batches of real ArrayRecord shards: the order of the data, what a batch holds, and that nothing depends on state."""

import dataclasses
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from deberta_jax.config import DataConfig, MaskConfig
from deberta_jax.data.batches import Batch, Share, check_manifests, eval_batches, train_batches
from deberta_jax.data.masking import Vocabulary, predictions_per_row
from deberta_jax.data.prepared import Manifest, encode_rows, read_manifest, write_manifest
from deberta_jax.errors import Failed, Refused
from deberta_jax.tokenizers import load_tokenizer
from packed import packed_rows

LENGTH = 16
ROWS = 53  # of the train split; prime, so that no batch size divides it
HELD_OUT = 11
MASK = MaskConfig(rate=0.15, mask_share=0.8, random_share=0.1, unit="token", max_ngram=1)
DATA = DataConfig(
    paths=("a", "b"), weights=(), sampling_exponent=1.0, isolate_documents=True, mask=MASK, read_threads=2
)


@pytest.fixture(scope="module")
def vocabulary(spm_dir: Path) -> Vocabulary:
    return Vocabulary.of(load_tokenizer(spm_dir))


@pytest.fixture(scope="module")
def big(tmp_path_factory, vocabulary: Vocabulary) -> Manifest:
    return write_set(tmp_path_factory.mktemp("big"), vocabulary, train=ROWS, holdout=HELD_OUT)


@pytest.fixture(scope="module")
def small(tmp_path_factory, vocabulary: Vocabulary) -> Manifest:
    return write_set(tmp_path_factory.mktemp("small"), vocabulary, train=7, holdout=3)


def write_set(path: Path, vocabulary: Vocabulary, *, length: int = LENGTH, **values) -> Manifest:
    """A prepared directory whose splits have the given numbers of rows, in three shards each; all rows differ."""
    counts = {split: values.pop(split) for split in ("train", "holdout") if split in values}
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(sum(path.name.encode()))
    documents = (rng.choice(vocabulary.ordinary_ids, rng.integers(2, length - 6)) for _ in range(200))
    rows = iter(packed_rows(documents, length, 1, 2, vocabulary.pad_id))
    splits = {split: write_split(path, split, rows, count) for split, count in counts.items()}
    tokenizer = {"fingerprint": "f", "size": vocabulary.size, "files": ["tokenizer/spm.model"]}
    manifest = {"length": length, "id_dtype": "uint16", "tokenizer": tokenizer, "splits": splits, "source": {}}
    write_manifest(path, manifest | {"top_id": 5, "max_id": vocabulary.size - 2} | values)
    return read_manifest(path)


def write_split(path: Path, split: str, rows: Iterable, count: int) -> dict:
    shards = []
    for number, part in enumerate(np.array_split(np.arange(count), 3)):
        file = f"{split}-{number:05d}.array_record"
        writer = ArrayRecordWriter(str(path / file), "group_size:1")
        for _ in part:
            ids_l, documents_l = next(rows)
            writer.write(next(encode_rows(ids_l[None], documents_l[None], "uint16")))
        writer.close()
        shards.append({"file": file, "rows": len(part), "sha256": "", "bytes": (path / file).stat().st_size})
    return {"rows": count, "tokens": 0, "documents": 0, "shards": shards}


def take(manifests: list[Manifest], vocabulary: Vocabulary, count: int, data: DataConfig = DATA, **options) -> list:
    batches = train_batches(manifests, data, vocabulary, **{"seed": 3, "share": Share.whole(8)} | options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def whole(sets: list[tuple[Manifest, str]], vocabulary: Vocabulary, data: DataConfig = DATA, **options) -> Batch:
    """The rows of one evaluation pass, without those that only fill the last batch."""
    batches = list(eval_batches(sets, data, vocabulary, **{"seed": 3} | options))
    joined = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    return {key: value[joined["examples"] >= 0] for key, value in joined.items()}


def assert_equal(left: Batch, right: Batch) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def original_ids(batch: Batch) -> np.ndarray:
    """input_ids with every label put back."""
    ids_bl = batch["input_ids"].copy()
    row_p, slot_p = np.nonzero(batch["weights"])
    ids_bl[row_p, batch["masked_positions"][row_p, slot_p]] = batch["labels"][row_p, slot_p]
    return ids_bl


def test_a_batch_has_the_shapes_and_types_of_its_description(big, vocabulary):
    (batch,) = take([big], vocabulary, 1)
    slots = predictions_per_row(LENGTH, MASK.rate)
    tokens, slot, row = ((8, LENGTH), "int32"), ((8, slots), "int32"), ((8,), "int32")
    assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
        **{key: tokens for key in ("input_ids", "documents", "positions")},
        **{"masked_positions": slot, "labels": slot, "weights": ((8, slots), "float32")},
        **{"rows": row, "examples": row},
    }
    assert batch["rows"].tolist() == list(range(8))


def test_a_batch_holds_the_rows_it_names(big, small, vocabulary):
    stored = whole([(big, "train"), (small, "train")], vocabulary, share=Share.whole(10))
    assert len({ids.tobytes() for ids in original_ids(stored)}) == ROWS + 7  # so rows can be told apart
    for batch in take([big, small], vocabulary, 10):
        np.testing.assert_array_equal(original_ids(batch), original_ids(stored)[batch["examples"]])
        np.testing.assert_array_equal(batch["documents"], stored["documents"][batch["examples"]])


@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_a_batch_is_the_same_after_a_resume_at_any_step(weights, big, small, vocabulary):
    data = dataclasses.replace(DATA, weights=weights)
    through = take([big, small], vocabulary, 20, data)
    for start in (1, 2, 7, 8, 19):  # steps 7 and 8 lie on either side of the first epoch's end
        for step, batch in enumerate(take([big, small], vocabulary, 20 - start, data, start_step=start), start):
            assert_equal(batch, through[step])


def test_a_step_far_ahead_needs_none_of_those_before(big, vocabulary):
    first, second = (take([big], vocabulary, 1, start_step=2**40)[0] for _ in range(2))
    assert_equal(first, second)


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("weights", [(), (1.0, 3.0)])
def test_hosts_side_by_side_hold_the_global_batch(hosts, weights, big, small, vocabulary):
    data = dataclasses.replace(DATA, weights=weights)
    alone = take([big, small], vocabulary, 4, data, start_step=6)
    shares = (
        np.random.default_rng(hosts).permutation(np.arange(8, dtype=np.int32)).reshape(hosts, -1)
    )  # meshes need not keep hosts' rows together
    parts = [take([big, small], vocabulary, 4, data, start_step=6, share=Share(8, np.sort(own))) for own in shares]
    for step, expected in enumerate(alone):
        rows = np.concatenate([part[step]["rows"] for part in parts])
        joined = {key: np.concatenate([part[step][key] for part in parts])[np.argsort(rows)] for key in expected}
        assert_equal(joined, expected)


def test_the_number_of_threads_changes_nothing(big, vocabulary):
    for one, many in zip(
        take([big], vocabulary, 9, dataclasses.replace(DATA, read_threads=1)),
        take([big], vocabulary, 9, dataclasses.replace(DATA, read_threads=5)),
        strict=True,
    ):
        assert_equal(one, many)


@pytest.mark.parametrize("which", ["one set", "two sets"])
def test_each_row_comes_once_an_epoch_and_epochs_differ(which, big, small, vocabulary):
    manifests = [big] if which == "one set" else [big, small]
    rows = sum(m.splits["train"].rows for m in manifests)
    step = 6000 * rows // 3  # far from the start, where an inexact mixture would have drifted off
    order = np.concatenate(
        [b["examples"] for b in take(manifests, vocabulary, rows, share=Share.whole(3), start_step=step)]
    )
    epochs = order.reshape(3, rows)
    for epoch in epochs:
        assert sorted(epoch) == list(range(rows))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert not (epochs == np.arange(rows)).all(1).any()


def test_a_row_is_masked_anew_in_every_epoch(big, vocabulary):
    seen: dict[int, list[bytes]] = {}
    for batch in take([big], vocabulary, ROWS, share=Share.whole(3)):
        for example, positions_p in zip(batch["examples"].tolist(), batch["masked_positions"], strict=True):
            seen.setdefault(example, []).append(positions_p.tobytes())
    assert sum(len(set(masks)) == 3 for masks in seen.values()) > 0.7 * ROWS


def test_the_seed_changes_order_and_masks_and_neighbouring_seeds_share_no_epoch(big, vocabulary):
    def orders(seed: int) -> set[tuple[int, ...]]:
        order = np.concatenate(
            [b["examples"] for b in take([big], vocabulary, 4 * ROWS, share=Share.whole(1), seed=seed)]
        )
        return {tuple(epoch) for epoch in order.reshape(4, ROWS).tolist()}

    assert len(orders(3) | orders(4)) == 8
    one, other = (whole([(big, "train")], vocabulary, share=Share.whole(8), seed=seed) for seed in (3, 4))
    assert not np.array_equal(one["masked_positions"], other["masked_positions"])


@pytest.mark.parametrize(
    ("weights", "exponent", "share"),
    [((1.0, 3.0), 1.0, 0.75), ((0.9, 0.1), 1.0, 0.1), ((), 0.0, 0.5), ((), 0.5, 7**0.5 / (7**0.5 + ROWS**0.5))],
)
def test_sets_are_mixed_by_weight_or_by_a_power_of_their_size(weights, exponent, share, big, small, vocabulary):
    data = dataclasses.replace(DATA, weights=weights, sampling_exponent=exponent)
    examples = np.concatenate([b["examples"] for b in take([big, small], vocabulary, 25, data, share=Share.whole(40))])
    assert (examples >= ROWS).mean() == pytest.approx(share, rel=0.02)
    # Within its share each set is read evenly: every row as often as any other of its set, give or take one epoch.
    for count in (np.bincount(examples)[:ROWS], np.bincount(examples)[ROWS:]):
        assert count.max() - count.min() <= 1


def test_positions_restart_with_each_document_when_documents_are_isolated(big, vocabulary):
    batch = whole([(big, "train")], vocabulary, share=Share.whole(8))
    assert batch["documents"].max() > 1
    assert (batch["documents"] == 0).any()
    for documents_l, positions_l in zip(batch["documents"].tolist(), batch["positions"].tolist(), strict=True):
        expected, last, count = [], 0, 0
        for document in documents_l:
            count = count + 1 if document == last else 0
            last = document
            expected.append(count if document else 0)
        assert positions_l == expected


def test_a_row_is_one_document_when_documents_are_not_isolated(big, vocabulary):
    apart = whole([(big, "train")], vocabulary, share=Share.whole(8))
    together = whole(
        [(big, "train")], vocabulary, dataclasses.replace(DATA, isolate_documents=False), share=Share.whole(8)
    )
    is_real_bl = apart["documents"] > 0
    np.testing.assert_array_equal(together["documents"], is_real_bl)
    np.testing.assert_array_equal(together["positions"], np.where(is_real_bl, np.arange(LENGTH), 0))
    for key in ("input_ids", "masked_positions", "labels", "weights"):
        np.testing.assert_array_equal(together[key], apart[key])


@pytest.mark.parametrize(("batch_size", "hosts"), [(1, 1), (5, 1), (7, 1), (6, 2), (6, 3), (8, 4), (40, 2)])
def test_evaluation_sees_each_row_once_with_the_same_masks(batch_size, hosts, big, small, vocabulary):
    sets = [(big, "holdout"), (small, "holdout")]
    expected = whole(sets, vocabulary, share=Share.whole(14))
    parts = [
        list(eval_batches(sets, DATA, vocabulary, seed=3, share=Share(batch_size, own)))
        for own in np.arange(batch_size, dtype=np.int32).reshape(hosts, -1)
    ]
    assert {len(part) for part in parts} == {-(-(HELD_OUT + 3) // batch_size)}
    rows = {key: np.concatenate([part[s][key] for s in range(len(parts[0])) for part in parts]) for key in expected}
    is_filler = rows["examples"] < 0
    assert rows["examples"][~is_filler].tolist() == list(range(HELD_OUT + 3))
    for key in expected.keys() - {"rows"}:
        np.testing.assert_array_equal(rows[key][~is_filler], expected[key])
    assert rows["rows"].tolist() == list(range(batch_size)) * len(parts[0])
    assert not rows["weights"][is_filler].any()
    assert not rows["documents"][is_filler].any()
    assert (rows["input_ids"][is_filler] == vocabulary.pad_id).all()


def test_evaluation_can_stop_after_some_rows(big, vocabulary):
    full = whole([(big, "holdout")], vocabulary, share=Share.whole(4))
    assert_equal(
        whole([(big, "holdout")], vocabulary, share=Share.whole(4), max_rows=6), {key: full[key][:6] for key in full}
    )
    assert len(whole([(big, "holdout")], vocabulary, share=Share.whole(4), max_rows=1000)["rows"]) == HELD_OUT


def test_many_evaluations_leave_no_thread_behind(big, vocabulary):
    training = train_batches([big], DATA, vocabulary, seed=0, share=Share.whole(4))
    next(training)
    before = set()
    for number in range(20):
        whole([(big, "holdout")], vocabulary, share=Share.whole(4))
        abandoned = eval_batches([(big, "holdout")], DATA, vocabulary, seed=0, share=Share.whole(4))
        next(abandoned)
        abandoned.close()
        if number == 0:
            before = settled_threads()
    assert len(settled_threads()) <= len(before)
    training.close()


def settled_threads() -> set[threading.Thread]:
    """Threads that still run once those that are ending have ended; two of them are the training iterator's."""
    threads = {t for t in threading.enumerate() if t.name.startswith("grain-prefetch")}
    for thread in threads:
        thread.join(timeout=0.2)
    return {t for t in threads if t.is_alive()}


def test_an_error_while_reading_reaches_the_caller(tmp_path, vocabulary):
    manifest = write_set(tmp_path, vocabulary, train=20)
    batches = train_batches(
        [dataclasses.replace(manifest, length=LENGTH + 1)], DATA, vocabulary, seed=0, share=Share.whole(4)
    )
    with pytest.raises(Failed, match=f"{tmp_path}: rows cannot be read any more: .* no row of 17 uint16 ids"):
        next(batches)


def test_sets_that_do_not_fit_each_other_are_refused_by_name(big, tmp_path, vocabulary):
    longer = write_set(tmp_path / "longer", vocabulary, length=32, train=3)
    other = {"fingerprint": "g", "size": 9, "files": []}
    foreign = write_set(tmp_path / "foreign", vocabulary, train=3, tokenizer=other)
    assert check_manifests([big, big]) == (LENGTH, "f", vocabulary.size)
    with pytest.raises(Refused, match="longer has rows of 32 tokens"):
        take([big, longer], vocabulary, 1)
    with pytest.raises(Refused, match="foreign was prepared with another tokenizer"):
        whole([(big, "train"), (foreign, "train")], vocabulary, share=Share.whole(4))
    with pytest.raises(Refused, match="data.paths is empty"):
        train_batches([], DATA, vocabulary, seed=0, share=Share.whole(4))


def test_data_that_cannot_be_used_is_refused_before_anything_is_read(big, tmp_path, vocabulary):
    empty = write_set(tmp_path / "empty", vocabulary, train=4, holdout=0)
    wide = write_set(tmp_path / "wide", vocabulary, train=4, max_id=vocabulary.size)
    for manifest, split in ((empty, "holdout"), (wide, "holdout")):  # none, and none listed
        with pytest.raises(Refused, match=f"{manifest.path.name} holds no holdout rows"):
            eval_batches([(big, "holdout"), (manifest, split)], DATA, vocabulary, seed=0, share=Share.whole(4))
    with pytest.raises(Refused, match=f"wide holds token {vocabulary.size}, the vocabulary has {vocabulary.size} ids"):
        train_batches([wide], DATA, vocabulary, seed=0, share=Share.whole(4))
    with pytest.raises(Refused, match="empty: 4 train rows do not fill one batch of 5"):
        train_batches([empty], DATA, vocabulary, seed=0, share=Share.whole(5))
