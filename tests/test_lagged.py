import pytest

from deberta_jax.train.lagged import Lagged


def test_values_are_consumed_one_push_late_and_in_order():
    seen = []
    lagged = Lagged(lambda *values: seen.append(values))
    lagged.push(1, "a")
    assert seen == []
    lagged.push(2, "b")
    assert seen == [(1, "a")]
    lagged.flush()
    assert seen == [(1, "a"), (2, "b")]


def test_nothing_is_consumed_twice():
    seen = []
    lagged = Lagged(seen.append)
    lagged.flush()
    lagged.push(1)
    lagged.flush()
    lagged.flush()
    assert seen == [1]


def test_values_whose_reading_failed_are_not_read_again():
    def fail(value):
        raise RuntimeError(value)

    lagged = Lagged(fail)
    lagged.push(1)
    with pytest.raises(RuntimeError):
        lagged.flush()
    lagged.flush()
