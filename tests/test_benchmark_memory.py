"""What the benchmark of memory makes of its samples."""

import pytest

from benchmarks.memory import GROWTH, LARGER, Sample, check, early_and_late, row
from deberta_jax.errors import Failed

SAMPLES = [Sample(step, step // 20, 500 + step / 100, 90 + (step % 50 == 0)) for step in range(0, 2001, 10)]


def rows(**changes) -> list[dict]:
    """Of two corpora; `changes` are of the first."""
    found = row(1, early_and_late(SAMPLES, 2000))
    return [found | {name.replace("_", " "): value for name, value in changes.items()}, found | {"corpus": 100}]


def test_early_is_after_a_tenth_and_late_before_the_last_tenth_is_over():
    early, late = early_and_late(SAMPLES, 2000)
    assert (early.step, late.step) == (200, 1800)
    assert (early.megabytes, late.megabytes) == (502, 518)


def test_of_threads_the_fewest_count():
    """A save in the background has some for a while."""
    assert [sample.threads for sample in early_and_late(SAMPLES, 2000)] == [90, 90]


def test_a_run_that_stays_as_it_is_passes():
    check(rows())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MB_late": 503 + GROWTH}, "grew by more than 50 MB"),
        ({"threads_late": 91}, "threads are left over"),
        ({"MB_early": 517 - LARGER, "MB_late": 517 - LARGER}, "the large corpus takes more than 200 MB more"),
    ],
)
def test_a_run_that_grows_fails(changes, said):
    with pytest.raises(Failed, match=said):
        check(rows(**changes))
