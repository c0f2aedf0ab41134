"""Competitors timed fairly on a machine that others use too: turn by turn, in one process, compared as ratios."""

import statistics
import time
from collections.abc import Callable, Mapping

Step = Callable[[], None]  # returns when its work is done


def alternating(steps: Mapping[str, Step], *, rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each step in each round; a round has a turn for every step, so that slow minutes fall on all of them.

    A turn is two steps, of which the second counts: the first one also pays for what the one before it left behind,
    such as threads of another framework that still spin: of two seconds, 0.6 went there.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """The median over rounds of how many times longer one step took than the other."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))
