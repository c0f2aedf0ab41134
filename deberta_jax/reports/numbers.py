"""How numbers, times and settings are written: as many digits as say something."""

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

NONE = "–"
MOST_DECIMALS = 8


def decimals(values: Sequence[float], deviations: Sequence[float]) -> int:
    """Decimals for a column: two digits of the usual deviation and three of the largest value, four without one."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    spreads = [each for each in deviations if math.isfinite(each) and each > 0]
    wanted = [_place(largest, 3 if spreads else 4)] if largest else [0]
    wanted += [_place(statistics.median(spreads), 2)] if spreads else []
    return min(max(0, *wanted), MOST_DECIMALS)


def _place(value: float, digits: int) -> int:
    """The decimals that show so many digits of `value`."""
    return digits - 1 - math.floor(math.log10(value))


def said(value: float | None, places: int) -> str:
    """A number with so many decimals; a dash for None, "NaN" for what is no number."""
    if value is None:
        return NONE
    return f"{value:,.{places}f}" if math.isfinite(value) else "NaN"


def signed(value: float, places: int) -> str:
    """With its sign, but zero."""
    text = f"{value:+,.{places}f}".replace("-", "−")
    return text if any(digit in text for digit in "123456789") else text[1:]


def setting(value: Any) -> str:
    """A value of a config: 1e-05, true, [a, b]."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value)


def duration(seconds: float | None) -> str:
    """ "45 s", "12 min", "3 h 05 min"; a dash for None."""
    if seconds is None:
        return NONE
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
