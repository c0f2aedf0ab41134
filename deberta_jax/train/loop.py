"""The training loop: next batch, dispatch, and whatever is due. Nothing here waits for the device but what must."""

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deberta_jax.data.documents import json_object
from deberta_jax.dist import hosts
from deberta_jax.dist.hosts import Agreement
from deberta_jax.errors import Diverged, Stopped
from deberta_jax.train.build import Run
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.evaluate import Interrupted
from deberta_jax.train.lagged import Lagged
from deberta_jax.train.logger import Logger
from deberta_jax.train.profile import Profile
from deberta_jax.train.signals import StopRequest
from deberta_jax.train.state import TrainState
from deberta_jax.train.watchdog import Watchdog

METRICS = "metrics.jsonl"
AHEAD = 2  # batches placed on the devices before they are needed
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where batches come from, and what is said about them."""

    train: Iterator[dict[str, np.ndarray]]  # from the state's step on
    every: int  # steps between evaluations; 0 = only at the end, where there always is one
    # (state, step, whether to stop) logs what it finds; True ends the training. Raises Interrupted once it is to stop
    evaluate: Callable[[TrainState, int, Callable[[], bool]], bool]
    counted: Callable[[int], dict[str, float]]  # what has been seen after a number of steps
    speed: Callable[[int, float], dict[str, float]]  # of a number of steps in so many seconds


def train(
    run: Run,
    state: TrainState,
    inputs: Inputs,
    workdir: Path,
    *,
    saves: Checkpoints,
    logger: Logger,
    meta: dict[str, Any],
    stop: StopRequest,
    watchdog: Watchdog,
) -> None:
    """Trains from `state` to config.steps, or until an evaluation says so; on return all is evaluated, saved, logged.

    Raises Stopped after a signal and Diverged after too many non-finite steps, both with the state saved.
    """
    config, step, ended = run.config, int(state.step), False
    evaluated = last_evaluated(workdir)
    reporter = Reporter(run, logger, inputs, int(state.skipped))
    report = Lagged(reporter)
    profile = Profile(config.profile_steps if hosts.is_lead() else (), workdir / "profile")
    decisions = Decisions(stop, saves, watchdog)
    with contextlib.closing(_placed_ahead(run, inputs.train)) as placed:
        try:
            while True:
                if step > evaluated and _due(inputs.every, step, config.steps):
                    report.flush()
                    ended = inputs.evaluate(state, step, decisions.stop)
                    reporter.pause()
                if ended or step >= config.steps or decisions.stop():
                    break
                profile.at(step, state)
                waiting = time.perf_counter()
                batch, examples = next(placed)
                waited = time.perf_counter() - waiting
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    state, sums = run.train_step(state, batch)
                step += 1
                report.push(step, sums, waited, examples)
                saves.check()
                if decisions.save(step):
                    report.flush()  # a line must not be lost to a kill after its step was saved
                    saves.save(step, state, meta)
            report.flush()
        except Interrupted:
            pass
        except Diverged:
            saves.save(step, state, meta)
            saves.wait()
            raise
        finally:
            profile.close()
        saves.save(step, state, meta)
        saves.wait()
        if decisions.stopped:
            who = stop.name or "another process was told to stop"
            raise Stopped(f"{who} at step {step}: the state is saved, run the same command to go on")


class Decisions:
    """Whether to stop and whether to save: on all hosts at the same step, whichever wished it.

    Asking says that something moves, too.
    """

    def __init__(self, stop: StopRequest, saves: Checkpoints, watchdog: Watchdog):
        self._request, self._saves, self._watchdog = stop, saves, watchdog
        self._stopping, self._saving = Agreement(), Agreement()
        self.stopped = False

    def stop(self) -> bool:
        """Asked between steps and between the batches of an evaluation."""
        self._watchdog.beat()
        self.stopped = self.stopped or self._stopping(bool(self._request.name))
        return self.stopped

    def save(self, step: int) -> bool:
        """Asked after each step. Of clocks the first host's counts."""
        due = self._saves.due(step)
        return self._saving(hosts.is_lead() and not due and self._saves.late()) or due


def last_evaluated(workdir: Path) -> int:
    """The last step whose evaluation the run has logged, -1 for none. Of several hosts the first looks for all."""
    lines = hosts.by_lead(lambda: [line["step"] for line in logged_lines(workdir) if "eval/loss" in line])
    return max(lines, default=-1)


def logged_lines(workdir: Path) -> list[dict[str, Any]]:
    """What the run has logged; a kill may have left half a line at the end, which does not count."""
    metrics = workdir / METRICS
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json_object(line, f"{metrics}, line {n}") for n, line in enumerate(lines, 1) if line.endswith("\n")]


class Reporter:
    """Turns one step's sums into logged numbers, and stops a run whose numbers are no numbers."""

    def __init__(self, run: Run, logger: Logger, inputs: Inputs, skipped: int):
        self._run = run
        self._logger = logger
        self._inputs = inputs
        self._skipped = skipped
        self._last: tuple[int, float] | None = None
        self._waited = 0.0

    def __call__(self, step: int, sums: dict, waited: float, examples: np.ndarray) -> None:
        config = self._run.config
        values = self._run.objective.summary(sums)
        self._waited += waited
        self._guard(step, int(values["skipped_steps"]), examples)
        if step % config.log_every == 0 or step == config.steps:
            self._logger.scalars(step, values | self._inputs.counted(step) | self._speed(step))

    def pause(self) -> None:
        """Leaves what comes before the next step (an evaluation) out of the speed."""
        self._last, self._waited = None, 0.0

    def _speed(self, step: int) -> dict[str, float]:
        """Since the last line: how fast it went, and the seconds spent waiting for rows."""
        now, last = time.perf_counter(), self._last
        self._last = (step, now)
        waited, self._waited = self._waited, 0.0
        if last is None:
            return {}  # compilation or an evaluation fell into this stretch
        before, since = last
        return self._inputs.speed(step - before, now - since) | {"data_wait_seconds": waited}

    def _guard(self, step: int, skipped: int, examples: np.ndarray) -> None:
        config = self._run.config
        before, self._skipped = self._skipped, skipped
        if skipped <= before:
            return
        what = (
            f"step {step}: non-finite loss or gradient, skipped ({skipped} so far); seed {config.seed}, "
            f"rows {examples.tolist()}"
        )
        if skipped > config.max_bad_steps:
            raise Diverged(f"{what}; look at it with the same command and --replay={step}")
        log.warning(what)


def _placed_ahead(run: Run, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[tuple[dict, np.ndarray]]:
    """(batch on the devices, its example numbers), a few batches ahead."""
    waiting: deque = deque()
    with contextlib.closing(batches):  # ends its reading threads
        for batch in batches:
            waiting.append((run.place(batch), batch["examples"]))
            if len(waiting) > AHEAD:
                yield waiting.popleft()


def _due(every: int, step: int, steps: int) -> bool:
    return step >= steps or (every > 0 and step > 0 and step % every == 0)  # beyond: steps were lowered half way
