"""The training loop: next batch, dispatch, and whatever is due. Nothing here waits for the device but what must."""

import contextlib
import dataclasses
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deberta_jax.data.masking import predictions_per_row
from deberta_jax.dist.axes import batch_devices
from deberta_jax.errors import Diverged, Stopped
from deberta_jax.train.build import Run
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.evaluate import Interrupted, evaluate, samples
from deberta_jax.train.flops import PEAK_FLOPS, flops_per_row
from deberta_jax.train.lagged import Lagged
from deberta_jax.train.logger import Logger
from deberta_jax.train.profile import Profile
from deberta_jax.train.signals import StopRequest
from deberta_jax.train.state import TrainState

METRICS = "metrics.jsonl"
AHEAD = 2  # batches placed on the devices before they are needed
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Where rows come from and how they are shown."""

    train: Iterator[dict[str, np.ndarray]]  # from the state's step on
    held_out: Callable[[], Iterator[dict[str, np.ndarray]]]  # one pass
    piece: Callable[[int], str]
    length: int


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
) -> None:
    """Trains from `state` to config.steps; on return everything is evaluated, saved and logged.

    Raises Stopped after a signal and Diverged after too many non-finite steps, both with the state saved.
    """
    config, step = run.config, int(state.step)
    evaluated = last_evaluated(workdir)
    reporter = Reporter(run, logger, inputs.length, int(state.skipped))
    report = Lagged(reporter)
    profile = Profile(config.profile_steps, workdir / "profile")
    with contextlib.closing(_placed_ahead(run, inputs.train)) as placed:
        try:
            while True:
                if step > evaluated and _due(config.eval.every, step, config.steps):
                    report.flush()
                    _evaluate(run, state, inputs, logger, step, lambda: bool(stop.name))
                    reporter.pause()
                if step >= config.steps or stop.name:
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
                if saves.due(step):
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
        if stop.name:
            raise Stopped(f"{stop.name} at step {step}: the state is saved, run the same command to go on")


def last_evaluated(workdir: Path) -> int:
    """The last step whose evaluation the run has logged, -1 for none."""
    metrics = workdir / METRICS
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    logged = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may have left half a line
    return max((line["step"] for line in logged if "eval/loss" in line), default=-1)


class Reporter:
    """Turns one step's sums into logged numbers, and stops a run whose numbers are no numbers."""

    def __init__(self, run: Run, logger: Logger, length: int, skipped: int):
        self._run = run
        self._logger = logger
        self._length = length
        self._skipped = skipped
        self._last: tuple[int, float] | None = None
        self._waited = 0.0

    def __call__(self, step: int, sums: dict, waited: float, examples: np.ndarray) -> None:
        config = self._run.config
        values = self._run.objective.summary(sums)
        self._waited += waited
        self._guard(step, int(values["skipped_steps"]), examples)
        if step % config.log_every == 0 or step == config.steps:
            values["tokens"] = float(step * config.batch_size * self._length)
            self._logger.scalars(step, values | self._speed(step))

    def pause(self) -> None:
        """Leaves what comes before the next step (an evaluation) out of the speed."""
        self._last, self._waited = None, 0.0

    def _speed(self, step: int) -> dict[str, float]:
        """Since the last line: tokens (positions) per second, share of the peak, seconds spent waiting for rows."""
        now, last = time.perf_counter(), self._last
        self._last = (step, now)
        waited, self._waited = self._waited, 0.0
        if last is None:
            return {}  # compilation or an evaluation fell into this stretch
        (before, since), config = last, self._run.config
        seconds = now - since
        rows = (step - before) * config.batch_size
        speed = {"tokens_per_second": rows * self._length / seconds, "data_wait_seconds": waited}
        peak = peak_flops(self._run)
        if peak:
            predictions = predictions_per_row(self._length, config.data.mask.rate)
            rows_at_once = config.batch_size // config.micro_batches // batch_devices(config.rules, self._run.mesh)
            per_row = flops_per_row(config, self._length, predictions, rows_at_once)
            speed["mfu"] = rows * per_row / seconds / peak
        return speed

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


def peak_flops(run: Run) -> float | None:
    """FLOP/s of all devices of the mesh, None for a device whose peak is not in the table."""
    kind = run.mesh.devices.flat[0].device_kind
    return PEAK_FLOPS[kind] * run.mesh.devices.size if kind in PEAK_FLOPS else None


def _placed_ahead(run: Run, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[tuple[dict, np.ndarray]]:
    """(batch on the devices, its example numbers), a few batches ahead."""
    waiting: deque = deque()
    with contextlib.closing(batches):  # ends its reading threads
        for batch in batches:
            waiting.append((run.place(batch), batch["examples"]))
            if len(waiting) > AHEAD:
                yield waiting.popleft()


def _due(every: int, step: int, steps: int) -> bool:
    return step == steps or (every > 0 and step > 0 and step % every == 0)


def _evaluate(run: Run, state: TrainState, inputs: Inputs, logger: Logger, step: int, stop) -> None:
    with contextlib.closing(inputs.held_out()) as held_out:
        scores = evaluate(run, state.params, held_out, stop)
    if run.config.eval.samples:
        with contextlib.closing(inputs.held_out()) as held_out:
            first = next(held_out)
        logger.text(step, "samples", samples(run, state.params, first, inputs.piece, run.config.eval.samples))
    logger.scalars(step, {f"eval/{name}": value for name, value in scores.items()})  # last: says that all is logged
