"""The largest number of rows that fits, from as few trials as can be: each is a compilation."""

from collections.abc import Callable
from typing import NamedTuple

LINES = 5  # trials, and the state alone, after which a line is trusted no more


class Trial(NamedTuple):
    rows: int
    bytes: int  # needed
    fits: bool


class Found(NamedTuple):
    """The largest number of rows that fits (0: not even one), the next that was tried, and all trials in order."""

    rows: int
    too_many: int
    trials: list[Trial]


def largest_that_fits(attempt: Callable[[int], Trial], start: int, room: int, state: int) -> Found:
    """Tries numbers of rows from `start` on until one fits and the next coarser step does not.

    Memory grows along a line, more or less, from the bytes of the `state` without rows on: the first trials are where
    the line through the two nearest ones meets `room`. Where that is not enough, it doubles and bisects. Steps are an
    eighth of the rows (1 below 16, 2 below 32, ...).
    """
    trials = [attempt(start)]
    while True:
        low = max((each.rows for each in trials if each.fits), default=0)
        high = min((each.rows for each in trials if not each.fits), default=None)
        if high is not None and high - low <= step_at(low):
            return Found(low, high, trials)
        trials.append(attempt(_next([Trial(0, state, True), *trials], low, high, room)))


def step_at(rows: int) -> int:
    """The difference that is not looked into: a power of two, at most an eighth of `rows`."""
    return max(1, 1 << (max(rows, 1).bit_length() - 4)) if rows >= 8 else 1


def _next(trials: list[Trial], low: int, high: int | None, room: int) -> int:
    least, most = low + step_at(low), 16 * low if high is None else high - 1
    guess = line_meets(trials, room) if len(trials) <= LINES else None
    if guess is None:
        guess = 2 * low if high is None else (low + high) // 2
    step = step_at(guess)
    return max(least, min(guess // step * step, most))


def line_meets(trials: list[Trial], room: int) -> int | None:
    """Where the line through the two trials nearest to `room` reaches it; None where they give no rising line."""
    first, second = sorted(sorted(trials, key=lambda each: abs(each.bytes - room))[:2])
    if second.bytes <= first.bytes:
        return None
    slope = (second.bytes - first.bytes) / (second.rows - first.rows)
    return int(first.rows + (room - first.bytes) / slope)
