"""Which evaluation was the best, and when enough of them were not."""

import math
from collections.abc import Iterable


class Selection:
    """The scores of a run's evaluations, in their order."""

    def __init__(self, patience: int, history: Iterable[tuple[int, float]] = ()):
        """`patience`: evaluations without a better score that end a training, 0 = none do; `history`: earlier ones."""
        self._patience = patience
        self._since = 0
        self.step, self.score = -1, -float("inf")  # of the best
        for step, score in history:
            self.add(step, score)

    def add(self, step: int, score: float) -> bool:
        """Whether this score is better than all before; an equal one is not. NaN is worse than any."""
        score = -math.inf if math.isnan(score) else score
        if self.step < 0 or score > self.score:
            self.step, self.score, self._since = step, score, 0
            return True
        self._since += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether there were as many evaluations without a better score as `patience` says."""
        return 0 < self._patience <= self._since
