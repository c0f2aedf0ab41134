import math

import pytest

from deberta_jax.reports.numbers import decimals, duration, said, setting, signed


@pytest.mark.parametrize(
    ("values", "deviations", "places"),
    [
        ([4.2055, 4.3], [0.005, 0.0061, 0.0048], 4),  # 4.2055 ± 0.0050
        ([0.8123], [0.021], 3),
        ([0.8123], [0.21], 3),  # three digits of the value all the same
        ([0.8123, 0.5], [], 4),
        ([68.9, 4.0], [], 2),
        ([12345.6], [], 0),
        ([0.0, -0.0], [], 0),
        ([], [], 0),
        ([math.nan, 0.5], [0.0, math.nan], 4),
        ([1e-12], [], 8),
    ],
)
def test_as_many_decimals_as_say_something(values, deviations, places):
    assert decimals(values, deviations) == places


def test_numbers_are_written_with_their_gaps_and_signs():
    assert [said(value, 2) for value in (1234.567, -0.5, 0, None, math.nan, math.inf)] == [
        *("1,234.57", "-0.50", "0.00", "–", "NaN", "NaN")
    ]
    assert [signed(value, 2) for value in (0.5, -0.5, -0.001, 1234.0)] == ["+0.50", "−0.50", "0.00", "+1,234.00"]


def test_settings_read_as_a_config_writes_them():
    values = [1e-05, 0.1, 0.1234567891, 3, True, None, "emd", "", ["c2p", "p2c"], []]
    assert [setting(value) for value in values] == [
        *("1e-05", "0.1", "0.1234567891", "3", "true", "null", "emd", '""', '["c2p", "p2c"]', "[]")
    ]


def test_times_are_written_in_the_unit_that_says_most():
    times = [None, 0.4, 119, 121, 3600, 7190, 7300, 90061]
    assert [duration(seconds) for seconds in times] == [
        *("–", "0 s", "119 s", "2 min", "60 min", "2 h 00 min", "2 h 02 min", "25 h 01 min")
    ]
