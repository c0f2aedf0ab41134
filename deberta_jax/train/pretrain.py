"""Pretraining from a config to a trained workdir: the story that train.py tells."""

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from deberta_jax.config import Config, DataConfig, EvalConfig
from deberta_jax.data.batches import check_manifests, eval_batches, train_batches
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import Manifest, read_manifest, verify_shards, write_text
from deberta_jax.dist import hosts
from deberta_jax.errors import Refused
from deberta_jax.objectives import Lexicon, Objective
from deberta_jax.objectives.models import training_attention
from deberta_jax.tokenizers import Tokenizer, load_tokenizer
from deberta_jax.train import session, storage
from deberta_jax.train.build import Run, build_run, models_of, resolve, with_vocabulary
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.evaluate import evaluate, fill_mask, piece_of, samples
from deberta_jax.train.initial import starting_state
from deberta_jax.train.logger import JsonLines, Logger, Loggers, Progress, TensorBoard
from deberta_jax.train.loop import METRICS, Inputs, last_evaluated, train
from deberta_jax.train.replay import replay_step
from deberta_jax.train.roll_call import check_hosts
from deberta_jax.train.signals import StopRequest
from deberta_jax.train.state import TrainState
from deberta_jax.train.throughput import peak_flops, token_speed, tokens_until
from deberta_jax.train.watchdog import Watchdog

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared data, checked: every shard is what its manifest says."""

    manifests: tuple[Manifest, ...]
    held_out: tuple[tuple[Manifest, str], ...]  # (set, split) to evaluate on
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    length: int


def pretrain(config: Config, workdir: str) -> None:
    """Trains to config.steps in `workdir`, from its newest checkpoint if it has one."""
    with storage.opened(hosts.together(lambda: session.open_workdir(workdir))) as place:
        _pretrain(config, place)


def _pretrain(config: Config, place: storage.Workdir) -> None:
    path = place.states
    # from StopRequest on a signal waits for the next moment when the state can be saved
    with StopRequest() as stop, Watchdog(config.watchdog_minutes) as watchdog, session.held(path):
        corpus = hosts.together(lambda: open_corpus(config.data, config.eval))
        config = resolve(config, corpus.manifests, corpus.length)
        meta = session.meta_of(config, corpus.manifests)
        check_hosts(path, meta)
        run = build_run(config, lexicon_of(corpus.tokenizer, session.top_id_of(corpus.manifests)))
        state = starting_state(run, path, meta)
        start = int(state.step)
        if start >= config.steps and last_evaluated(place.files) >= config.steps:
            log.warning("%s is trained: step %d of %d", path, start, config.steps)
            _conclude(run.objective, place.files)  # a run killed after its last step has not come that far
            return
        batches = open_batches(run, corpus, start)  # first: what cannot be read is told before anything is written
        session.write_run_files(place.files, config, corpus.tokenizer)
        _introduce(run, corpus)
        push = functools.partial(storage.push, place)
        with (
            contextlib.closing(open_loggers(place.files, start, config.steps)) as logger,
            Checkpoints(path / session.CHECKPOINTS, config.checkpoint, time.monotonic, push) as saves,
        ):
            inputs = inputs_of(run, corpus, batches, logger)
            train(run, state, inputs, place.files, saves=saves, logger=logger, meta=meta, stop=stop, watchdog=watchdog)
    _conclude(run.objective, place.files)


def lexicon_of(tokenizer: Tokenizer, top_id: int) -> Lexicon:
    """What objectives ask about the text."""
    return Lexicon(top_id, tokenizer.size, tuple(tokenizer.special_ids), tokenizer.mask_id)


def _conclude(objective: Objective, workdir: Path) -> None:
    """Draws the curves and says the last held-out scores, beside what a model without parameters would reach."""
    if not hosts.is_lead():
        return
    from deberta_jax.reports.curves import plot_curves  # imports Matplotlib: only where something is drawn

    png = workdir / "plots" / "curves.png"
    png.parent.mkdir(exist_ok=True)
    plot_curves(workdir / METRICS, png)
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    last = [line for line in lines if "eval/loss" in line][-1]
    scores = {name.removeprefix("eval/"): value for name, value in last.items() if name.startswith("eval/")}
    print(f"held out after step {last['step']}: {objective.conclusion(scores)}; curves in {png}")


def open_loggers(workdir: Path, start: int, steps: int) -> Loggers:
    """All that a run writes its numbers to; of several hosts the first does."""
    if not hosts.is_lead():
        return Loggers([])
    tensorboard = TensorBoard(workdir / "tensorboard", start)
    return Loggers([JsonLines(workdir / METRICS, start), tensorboard, Progress(steps, start)])


def open_corpus(data: DataConfig, evaluation: EvalConfig, *, training: bool = True) -> Corpus:
    """Reads manifests and tokenizer, and hashes the shards that will be read (those of `training` too).

    Raises Refused for anything that does not fit together.
    """
    manifests = tuple(read_manifest(path) for path in data.paths)
    common = check_manifests(manifests)
    others = tuple(read_manifest(path) for path in evaluation.paths)
    check_manifests(manifests + others)
    held_out = held_out_splits(manifests, others)
    read = [(manifest, "train") for manifest in manifests if training] + list(held_out)
    for manifest, split in {(manifest.path, split): (manifest, split) for manifest, split in read}.values():
        verify_shards(manifest, [split])
    tokenizer = load_tokenizer(manifests[0].tokenizer_path)
    if tokenizer.fingerprint != manifests[0].tokenizer_fingerprint:
        raise Refused(f"{manifests[0].tokenizer_path} is not the tokenizer that {manifests[0].path} was prepared with")
    return Corpus(manifests, held_out, tokenizer, Vocabulary.of(tokenizer), common.length)


def held_out_splits(training: Sequence[Manifest], others: Sequence[Manifest]) -> tuple[tuple[Manifest, str], ...]:
    """Every split of the evaluation sets, or the hold-outs of the training sets when there are none."""
    if others:
        return tuple((manifest, split) for manifest in others for split, rows in manifest.splits.items() if rows.rows)
    held_out = tuple((manifest, "holdout") for manifest in training if manifest.splits["holdout"].rows)
    if not held_out:
        raise Refused("no held-out rows: prepare with --holdout, or name prepared sets in eval.paths")
    return held_out


def inputs_of(run: Run, corpus: Corpus, batches: Iterator[dict[str, np.ndarray]], logger: Logger) -> Inputs:
    """Training batches and evaluations of the held-out rows."""
    return Inputs(
        train=batches,
        every=run.config.eval.every,
        evaluate=functools.partial(_evaluate, run, corpus, logger),
        counted=functools.partial(tokens_until, run, corpus.length),
        speed=functools.partial(token_speed, run, corpus.length),
    )


def open_batches(run: Run, corpus: Corpus, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This host's part of the training batches from step `start` on."""
    config = run.config
    share = run.share(config.batch_size)
    return train_batches(
        corpus.manifests, config.data, corpus.vocabulary, seed=config.seed, share=share, start_step=start
    )


def _evaluate(run: Run, corpus: Corpus, logger: Logger, state: TrainState, step: int, stop: Callable[[], bool]) -> bool:
    """Logs scores and samples of the held-out rows; never ends the training."""
    config, piece = run.config, functools.partial(piece_of, corpus.tokenizer)
    with contextlib.closing(held_out_batches(run, corpus)) as held_out:
        scores = evaluate(run, state.params, held_out, stop)
    if config.eval.samples:
        with contextlib.closing(held_out_batches(run, corpus)) as held_out:
            first = next(held_out)
        logger.text(step, "samples", samples(run, state.params, first, piece, config.eval.samples))
    logger.scalars(step, {f"eval/{name}": value for name, value in scores.items()})  # last: says that all is logged
    return False


def held_out_batches(run: Run, corpus: Corpus) -> Iterator[dict[str, np.ndarray]]:
    """One pass over the held-out rows, this host's part."""
    data, evaluation = run.config.data, run.config.eval
    share = run.share(evaluation.batch_size)
    return eval_batches(
        corpus.held_out, data, corpus.vocabulary, seed=evaluation.seed, share=share, max_rows=evaluation.max_rows
    )


def evaluate_workdir(config: Config, workdir: str, data: str | None, output: str | None) -> None:
    """Prints and writes (OUTPUT/scores.json) the scores of the newest checkpoint: on the run's held-out rows, or on all
    rows of the prepared directory `data`."""
    path, evaluation = Path(workdir), config.eval
    if data is not None:
        evaluation = dataclasses.replace(evaluation, paths=(data,), max_rows=0)
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, paths=(data,), weights=()))
    config = dataclasses.replace(config, eval=evaluation)
    corpus = open_corpus(config.data, evaluation, training=False)
    if load_tokenizer(path / session.TOKENIZER).fingerprint != corpus.tokenizer.fingerprint:
        raise Refused(f"{corpus.manifests[0].path} was prepared with another tokenizer than {workdir} was trained with")
    config = resolve(config, corpus.manifests, corpus.length)
    top_id = session.trained_meta(path)["top_id"]
    if top_id is None:  # converted weights come without the text they were trained on
        top_id = session.top_id_of(corpus.manifests)
    run = build_run(config, lexicon_of(corpus.tokenizer, top_id))
    step, params = session.newest_params(run, path)
    with contextlib.closing(held_out_batches(run, corpus)) as batches:
        scores = evaluate(run, params, batches, stop=lambda: False)
    sets = [{"path": str(manifest.path), "split": split} for manifest, split in corpus.held_out]
    text = json.dumps({"step": step, "sets": sets} | scores, indent=2)
    if hosts.is_lead():
        write_text(session.open_workdir(output or str(path / "eval")) / "scores.json", text + "\n")
        print(text)


def fill_masks(config: Config, workdir: str, texts: Sequence[str]) -> None:
    """Prints the best tokens for each [MASK] of each text."""
    tokenizer = load_tokenizer(Path(workdir) / session.TOKENIZER)
    if not config.model.vocab_size:  # a preset leaves it to the data
        config = with_vocabulary(config, tokenizer.size)
    run = build_run(config, lexicon_of(tokenizer, top_id=0))
    _, params = session.newest_params(run, Path(workdir))
    for text in texts:
        found = fill_mask(run, params, tokenizer, text)
        if hosts.is_lead():
            print(text)
            for guesses in found:
                print("  " + "  ".join(f"{piece} {probability:.3f}" for piece, probability in guesses))


def replay(config: Config, workdir: str, step: int) -> None:
    """Computes step number `step` again with the newest parameters and names what is not finite; changes nothing.

    Raises Failed when something is not. The parameters are those of the newest checkpoint, which may be some steps
    later than the failure; skipped steps left them as they were. Of a pair both losses see these parameters, where a
    decoupled step judges beside the updated generator.
    """
    if step < 1:
        raise Refused(f"--replay counts steps from 1, got {step}")
    corpus = open_corpus(config.data, config.eval)
    config = resolve(config, corpus.manifests, corpus.length)
    run = build_run(config, lexicon_of(corpus.tokenizer, session.top_id_of(corpus.manifests)))
    saved, params = session.newest_params(run, Path(workdir))
    replay_step(run, params, saved, open_batches(run, corpus, step - 1), step)


def _introduce(run: Run, corpus: Corpus) -> None:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params))
    rows = sum(manifest.splits["train"].rows for manifest in corpus.manifests)
    device = run.mesh.devices.flat[0].device_kind
    log.warning(
        "%.1fM parameters; %d rows of %d tokens; %d x %s, mesh %s",
        parameters / 1e6,
        rows,
        corpus.length,
        run.mesh.devices.size,
        device,
        dict(run.mesh.shape),
    )
    rows_at_once = run.config.batch_size // run.config.micro_batches
    with run.train_step.in_force():
        for name, model in models_of(run.config).items():
            log.warning("attention of %s: %s (%s)", name, *training_attention(model, rows_at_once, corpus.length))
    if peak_flops(run) is None:
        log.warning("no MFU: the peak FLOP/s of %r is not in train/flops.py", device)
