import jax
import numpy as np

from deberta_jax.ops.replacement import replaced


def random_case(rows=20, length=9, slots=4, seed=0):
    """Rows whose unused slots stand anywhere, on used positions too; row 0 uses none of its slots, row 1 all."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 50, (rows, length)).astype(np.int32)
    positions = np.stack([rng.choice(length, slots, replace=False) for _ in range(rows)]).astype(np.int32)
    used = rng.random((rows, slots)) < 0.5
    used[0], used[1] = False, True
    positions[~used] = rng.integers(0, length, (~used).sum())
    return ids, positions, rng.integers(0, 50, (rows, slots)).astype(np.int32), used


def slow_replaced(ids, positions, new, used):
    ids = ids.copy()
    for row, slot in zip(*np.nonzero(used), strict=True):
        ids[row, positions[row, slot]] = new[row, slot]
    return ids


def test_used_slots_are_put_into_the_row_and_unused_ones_are_not():
    ids, positions, new, used = random_case()
    filled = np.asarray(replaced(ids, positions, new, used))
    assert filled.dtype == np.int32
    np.testing.assert_array_equal(filled, slow_replaced(ids, positions, new, used))
    np.testing.assert_array_equal(filled[0], ids[0])


def test_an_unused_slot_at_position_zero_takes_nothing_from_a_used_one_there():
    ids = np.array([[7, 8, 9], [7, 8, 9], [7, 8, 9]], np.int32)
    positions = np.array([[0, 0], [0, 0], [2, 0]], np.int32)
    new = np.array([[1, 2], [1, 2], [1, 2]], np.int32)
    used = np.array([[True, False], [False, True], [True, False]])
    np.testing.assert_array_equal(replaced(ids, positions, new, used), [[1, 8, 9], [2, 8, 9], [7, 8, 1]])


def test_the_id_zero_is_put_in_like_any_other():
    ids, positions, new, used = random_case()
    zeros = np.zeros_like(new)
    filled = np.asarray(replaced(ids, positions, zeros, used))
    np.testing.assert_array_equal(filled, slow_replaced(ids, positions, zeros, used))
    assert (filled != ids).sum() > 20


def test_compiled_it_scatters_nothing():
    compiled = jax.jit(replaced).lower(*random_case()).as_text()
    assert "select" in compiled and "scatter" not in compiled
