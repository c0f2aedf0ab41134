"""Fine-tuning from a config to a workdir with the best checkpoint, and evaluating it: what train.py and eval.py do."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deberta_jax import config as configs
from deberta_jax.config import CheckpointConfig, FinetuneConfig, TaskDataConfig
from deberta_jax.dist import hosts
from deberta_jax.errors import Refused
from deberta_jax.objectives.tasks import head_of_task
from deberta_jax.tasks import scoring
from deberta_jax.tasks.batches import steps_per_epoch, train_batches
from deberta_jax.tasks.loading import Examples, check_scorable, load_examples, open_task, read_split
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers import Tokenizer, load_tokenizer
from deberta_jax.train import checkpoint, session, storage
from deberta_jax.train.build import Run, build_run
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.initial import pretrained_vocabulary, starting_state, task_params
from deberta_jax.train.logger import Logger
from deberta_jax.train.loop import METRICS, Inputs, last_evaluated, logged_lines, train
from deberta_jax.train.pretrain import open_loggers
from deberta_jax.train.replay import replay_step
from deberta_jax.train.roll_call import check_hosts
from deberta_jax.train.selection import Selection
from deberta_jax.train.signals import StopRequest
from deberta_jax.train.state import TrainState
from deberta_jax.train.task_evaluation import (
    Split,
    check_names,
    evaluate_split,
    named_scores,
    selection_score,
    split_of,
    write_results,
)
from deberta_jax.train.watchdog import Watchdog

BEST_ONLY = CheckpointConfig(every_steps=0, every_minutes=0.0, keep_last=2, keep_every=0)
VALIDATION = "validation"  # folder of the best checkpoint's predictions and scores
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """A run's config with what the data decide, its examples and their rows."""

    config: FinetuneConfig
    task: Task
    tokenizer: Tokenizer
    examples: Examples
    train: Split
    validation: tuple[Split, ...]
    epoch_steps: int


def finetune(config: FinetuneConfig, workdir: str) -> None:
    """Trains for config.epochs, or until evaluations are no better any more; goes on where the workdir stopped."""
    with storage.opened(hosts.together(lambda: session.open_workdir(workdir))) as place:
        _finetune(config, place)


def _finetune(config: FinetuneConfig, place: storage.Workdir) -> None:
    path = place.states
    with StopRequest() as stop, Watchdog(config.watchdog_minutes) as watchdog, session.held(path):
        job = hosts.together(lambda: open_job(config))
        meta = meta_of(job)
        check_hosts(path, meta)
        run = build_run(job.config, job.task.labels)
        state = starting_state(run, path, meta)
        start = int(state.step)
        selection = Selection(config.eval.patience, scores_until(place.files, start))
        if (start >= job.config.steps and last_evaluated(place.files) >= start) or selection.exhausted:
            log.warning("%s is trained: step %d of %d", path, start, job.config.steps)
            _conclude(job, place.files)
            return
        _set_aside_bests(path / session.BEST, start, selection)
        batches = open_batches(job, run, start)
        session.write_run_files(place.files, job.config, job.tokenizer)
        _introduce(run, job)
        push = functools.partial(storage.push, place)
        with (
            contextlib.closing(open_loggers(place.files, start, job.config.steps)) as logger,
            Checkpoints(path / session.CHECKPOINTS, config.checkpoint, time.monotonic, push) as saves,
            Checkpoints(path / session.BEST, BEST_ONLY, time.monotonic) as bests,
        ):
            validate = Validation(job, run, place.files, meta, selection, saves, bests, logger)
            inputs = inputs_of(job, batches, validate)
            train(run, state, inputs, place.files, saves=saves, logger=logger, meta=meta, stop=stop, watchdog=watchdog)
    _conclude(job, place.files)


def open_job(config: FinetuneConfig) -> Job:
    """Reads the examples and cuts them into rows. Raises Refused for whatever does not fit."""
    tokenizer = open_tokenizer(config)
    examples = load_examples(config.data, config.objective, config.seed)
    check_names(tuple(examples.validation))
    split = functools.partial(split_of, config, examples.task, tokenizer)
    training = split("train", examples.train)
    if config.objective == "span":  # an answer whose place is not known teaches nothing
        training = dataclasses.replace(training, rows=[row for row in training.rows if row.usable])
    if not training.rows:
        raise Refused(f"data.train {config.data.train!r} holds nothing to train on")
    epoch_steps = steps_per_epoch(len(training.rows), config.batch_size)
    config = resolve(config, examples.task, tokenizer, epoch_steps)
    validation = tuple(split(name, found) for name, found in examples.validation.items())
    return Job(config, examples.task, tokenizer, examples, training, validation, epoch_steps)


def open_tokenizer(config: FinetuneConfig) -> Tokenizer:
    """That of the config, or of the workdir it starts from."""
    if config.data.tokenizer:
        return load_tokenizer(config.data.tokenizer)
    if not config.init_from:
        raise Refused("no tokenizer: name its directory in data.tokenizer, or a workdir to start from in init_from")
    path = Path(config.init_from) / session.TOKENIZER
    if not path.is_dir():
        raise Refused(
            f"init_from: {path} does not exist: no workdir of a run, or converted without its tokenizer's files"
        )
    return load_tokenizer(path)


def resolve(config: FinetuneConfig, task: Task, tokenizer: Tokenizer, epoch_steps: int) -> FinetuneConfig:
    """The config with what the data decide: steps, labels, the vocabulary."""
    steps = math.ceil(config.epochs * epoch_steps)
    if config.steps not in (0, steps):
        raise Refused(f"steps is {config.steps}, but {config.epochs:g} epochs are {steps}: leave it 0 and set epochs")
    data = config.data
    if data.task == "custom" and config.objective in ("classification", "tagging"):
        data = dataclasses.replace(data, labels=task.labels)
    rows = config.model.vocab_size or pretrained_vocabulary(config.init_from) or tokenizer.size
    if rows < tokenizer.size:
        raise Refused(f"model.vocab_size is {rows}, the tokenizer has {tokenizer.size} ids")
    model = dataclasses.replace(config.model, vocab_size=rows)
    limit = model.max_position_embeddings
    if model.has_absolute_positions and data.max_length > limit:
        raise Refused(f"data.max_length {data.max_length} needs model.max_position_embeddings >= it, it is {limit}")
    return dataclasses.replace(config, steps=steps, data=data, model=model)


def meta_of(job: Job) -> dict[str, Any]:
    """What a checkpoint says about itself, beside its arrays."""
    head, head_cfg = head_of_task(job.config, job.task.labels)
    return {
        "config": configs.to_dict(job.config),
        "tokenizer": job.tokenizer.fingerprint,
        "manifests": [job.examples.fingerprint],
        "top_id": None,
        "head": head,
        "head_config": dataclasses.asdict(head_cfg) if head_cfg else None,
        "labels": list(job.task.labels),
        "answerless": job.task.score is scoring.squad_v2,
    }


def open_batches(job: Job, run: Run, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the training batches from step `start` on."""
    config = job.config
    return train_batches(
        job.train.rows,
        seed=config.seed,
        share=run.share(config.batch_size),
        buckets=config.data.buckets,
        pad_id=job.tokenizer.pad_id,
        threads=config.data.read_threads,
        start_step=start,
    )


def inputs_of(job: Job, batches: Iterator[dict[str, np.ndarray]], validate: Callable) -> Inputs:
    """Training batches, and an evaluation after each epoch or as the config says."""
    rows = job.config.batch_size
    return Inputs(
        train=batches,
        every=job.config.eval.every or job.epoch_steps,
        evaluate=validate,
        counted=lambda step: {"epoch": step / job.epoch_steps},
        speed=lambda steps, seconds: {"examples_per_second": steps * rows / seconds},
    )


@dataclasses.dataclass(frozen=True)
class Validation:
    """Evaluates the validation examples while training, and keeps the best parameters."""

    job: Job
    run: Run
    workdir: Path
    meta: dict[str, Any]
    selection: Selection
    saves: Checkpoints
    bests: Checkpoints
    logger: Logger

    def __call__(self, state: TrainState, step: int, stop: Callable[[], bool]) -> bool:
        """Logs the scores after `step`; whether training should end.

        The state is saved first, so that a killed run never comes back to a step before an evaluation it has seen; the
        line of scores is last and says that all is done.
        """
        self.saves.save(step, state, self.meta)
        task = self.job.task
        evaluate = functools.partial(evaluate_split, self.run, state.params, task, self.job.tokenizer)
        results = [evaluate(split, stop) for split in self.job.validation]
        score, scores = selection_score(task, results), named_scores(results)
        if self.selection.add(step, score):
            self.bests.save(step, {"params": state.params}, self.meta | {"score": score})
            self.bests.wait()
            name = self.job.config.data.task
            said = {"task": name, "labels": task.labels, "step": step, "score": score}
            write_results(self.workdir / VALIDATION, name, results, said)
        loss = float(np.mean([result.scores["loss"] for result in results]))
        self.logger.scalars(step, {f"eval/{name}": v for name, v in (scores | {"loss": loss, "score": score}).items()})
        return self.selection.exhausted


def _set_aside_bests(directory: Path, start: int, selection: Selection) -> None:
    """Moves away what a killed run wrote by half, or after the step that is gone back to."""
    good = checkpoint.newest_good(directory)
    checkpoint.set_aside(directory, after=None if good is None else min(good, start))
    if selection.step >= 0 and not (directory / str(selection.step)).is_dir():
        raise Refused(f"{directory} has lost its step {selection.step}, the best so far: start in another --workdir")


def scores_until(workdir: Path, start: int) -> list[tuple[int, float]]:
    """(step, score) of the evaluations up to step `start`; NaN for a score that is no number, null in the log."""
    lines = hosts.by_lead(lambda: logged_lines(workdir))
    scored = [line for line in lines if "eval/score" in line]
    found = [(line["step"], line["eval/score"]) for line in scored if line["step"] <= start]
    return [(step, math.nan if score is None else score) for step, score in found]


def _introduce(run: Run, job: Job) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params))
    counts = ", ".join(f"{len(split.examples)} {split.name}" for split in job.validation)
    config = job.config
    log.warning(
        "%s: %d training examples in %d rows, %s; %.1fM parameters; %d steps of %d rows; rows padded to %s",
        config.data.task,
        len(job.train.examples),
        len(job.train.rows),
        counts,
        parameters / 1e6,
        config.steps,
        config.batch_size,
        ", ".join(map(str, config.data.buckets)),
    )


def _conclude(job: Job, workdir: Path) -> None:
    """Draws the curves and says the scores of the best checkpoint."""
    if not hosts.is_lead():
        return
    from deberta_jax.reports.curves import plot_curves  # imports Matplotlib: only where something is drawn

    png = workdir / "plots" / "curves.png"
    png.parent.mkdir(exist_ok=True)
    plot_curves(workdir / METRICS, png)
    best = json.loads((workdir / VALIDATION / "scores.json").read_text())
    print(f"best after step {best['step']} of {job.config.steps}; curves in {png}")
    for split, scores in best["scores"].items():
        print(f"{split}: {_said(scores)}")


def _said(scores: dict[str, float | None]) -> str:
    values = {name: "no number" if value is None else f"{value:.4f}" for name, value in scores.items()}
    said = ", ".join(f"{name} {value}" for name, value in values.items() if name not in ("examples", "loss"))
    loss = f", loss {values['loss']}" if "loss" in values else ""
    return f"{scores['examples']:.0f} examples" + (f": {said}{loss}" if said else " predicted, none has a label")


def evaluate_task(
    config: FinetuneConfig,
    workdir: str,
    *,
    task_name: str | None,
    directory: str | None,
    splits: Sequence[str],
    output: str | None,
) -> None:
    """Predicts splits (or files) with a workdir's best parameters; prints scores, writes everything to `output`.

    Without `splits` the validation splits. `task_name` and `directory` may name another task with the same labels, as
    the diagnostic set of GLUE for a model of MNLI.
    """
    path = Path(workdir)
    meta = session.trained_meta(path)
    data = dataclasses.replace(config.data, dir=directory or config.data.dir)
    if task_name:  # it brings its own labels and columns
        data = dataclasses.replace(data, task=task_name, labels=(), columns=None, validation=())
    task = open_task(data, config.objective, *_known_at_training(meta, data))
    tokenizer = load_tokenizer(path / session.TOKENIZER)
    names = tuple(splits) or data.validation or task.validation
    if not names:
        raise Refused(f"task {data.task!r} has no validation split: name what to predict in --split")
    check_names(names)
    rows = config.model.vocab_size or pretrained_vocabulary(workdir)
    config = dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, vocab_size=rows))
    run = build_run(config, task.labels)
    examples = {name: read_split(data, task, name) for name in names}
    for name, of_split in examples.items():
        check_scorable(task, name, of_split)
    found = [split_of(config, task, tokenizer, name, of_split) for name, of_split in examples.items()]
    step, params = task_params(run, path)
    results = [evaluate_split(run, params, task, tokenizer, split, lambda: False) for split in found]
    place = session.open_workdir(output or str(path / "eval"))
    write_results(place, data.task, results, {"task": data.task, "labels": task.labels, "step": step})
    if hosts.is_lead():
        for result in results:
            print(f"{result.split.name}: {_said(result.scores)}")
        print(f"scores.json, predictions in {place}")


def _known_at_training(meta: dict[str, Any], data: TaskDataConfig) -> tuple[tuple[str, ...], bool]:
    """(labels, whether questions may have no answer) that a custom task had; of converted weights those of the head."""
    if "labels" in meta:
        return tuple(meta["labels"]), meta["answerless"]
    head = meta["head_config"] if "head" in meta else None
    return data.labels or (tuple(head["labels"]) if head else ()), False


def replay(config: FinetuneConfig, workdir: str, step: int) -> None:
    """Computes step number `step` again with the newest parameters; see replay.py. Changes nothing."""
    if step < 1:
        raise Refused(f"--replay counts steps from 1, got {step}")
    job = open_job(config)
    run = build_run(job.config, job.task.labels)
    saved, params = session.newest_params(run, Path(workdir))
    replay_step(run, params, saved, open_batches(job, run, step - 1), step)
