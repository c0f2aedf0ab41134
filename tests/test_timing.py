import pytest

from benchmarks import timing


def test_a_turn_is_one_step_untimed_and_one_that_counts():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = timing.alternating(steps, rounds=2, warm_up=1)
    assert "".join(calls) == "ab" + "aabb" * 2
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert all(time >= 0 for times in seconds.values() for time in times)


def test_a_ratio_is_the_median_over_rounds():
    assert timing.ratio([2.0, 9.0, 3.0], [1.0, 1.0, 2.0]) == pytest.approx(2.0)
