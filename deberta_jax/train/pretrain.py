"""Pretraining from a config to a trained workdir: the story that train.py tells."""

import contextlib
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import optax

from deberta_jax.config import Config, DataConfig, EvalConfig
from deberta_jax.data.batches import check_manifests, eval_batches, train_batches
from deberta_jax.data.masking import Vocabulary
from deberta_jax.data.prepared import Manifest, read_manifest, verify_shards
from deberta_jax.errors import Failed, Refused
from deberta_jax.reports.curves import plot_curves
from deberta_jax.tokenizers import SentencePieceTokenizer, load_tokenizer
from deberta_jax.train import session
from deberta_jax.train.build import Run, build_run, resolve
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.evaluate import evaluate, fill_mask
from deberta_jax.train.logger import JsonLines, Loggers, Progress, TensorBoard
from deberta_jax.train.loop import METRICS, Inputs, last_evaluated, peak_flops, train
from deberta_jax.train.optimizer import named_leaves
from deberta_jax.train.signals import StopRequest
from deberta_jax.train.step import batch_gradients

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prepared data, checked: every shard is what its manifest says."""

    manifests: tuple[Manifest, ...]
    held_out: tuple[tuple[Manifest, str], ...]  # (set, split) to evaluate on
    tokenizer: SentencePieceTokenizer
    vocabulary: Vocabulary
    length: int


def pretrain(config: Config, workdir: str) -> None:
    """Trains to config.steps in `workdir`, from its newest checkpoint if it has one."""
    with StopRequest() as stop:  # from here on a signal waits for the next moment when the state can be saved
        path = session.open_workdir(workdir)
        corpus = open_corpus(config.data, config.eval)
        config = resolve(config, corpus.manifests, corpus.length)
        run = build_run(config, corpus.manifests[0].top_id)
        meta = session.meta_of(config, corpus.manifests)
        state = session.starting_state(run, path, meta)
        start = int(state.step)
        if start >= config.steps and last_evaluated(path) >= config.steps:
            log.warning("%s is trained: step %d of %d", workdir, start, config.steps)
            return
        session.write_run_files(path, config, corpus.tokenizer)
        _introduce(run, corpus)
        inputs = open_inputs(config, corpus, start)
        with (
            contextlib.closing(_open_loggers(path, start, config.steps)) as logger,
            Checkpoints(path / session.CHECKPOINTS, config.checkpoint, time.monotonic) as saves,
        ):
            train(run, state, inputs, path, saves=saves, logger=logger, meta=meta, stop=stop)
    plots = path / "plots"
    plots.mkdir(exist_ok=True)
    plot_curves(path / METRICS, plots / "curves.png")
    log.warning("curves: %s", plots / "curves.png")


def _open_loggers(workdir: Path, start: int, steps: int) -> Loggers:
    tensorboard = TensorBoard(workdir / "tensorboard", start)
    return Loggers([JsonLines(workdir / METRICS, start), tensorboard, Progress(steps, start)])


def open_corpus(data: DataConfig, evaluation: EvalConfig) -> Corpus:
    """Reads manifests, tokenizer and hashes. Raises Refused for anything that does not fit together."""
    manifests = tuple(read_manifest(path) for path in data.paths)
    common = check_manifests(manifests)
    others = tuple(read_manifest(path) for path in evaluation.paths)
    check_manifests(manifests + others)
    held_out = held_out_splits(manifests, others)
    for manifest in {manifest.path: manifest for manifest in manifests + others}.values():
        verify_shards(manifest, manifest.splits)
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


def open_inputs(config: Config, corpus: Corpus, start: int) -> Inputs:
    """Training batches from step `start` on, and passes over the held-out rows."""
    hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
    batches = train_batches(
        corpus.manifests,
        config.data,
        corpus.vocabulary,
        seed=config.seed,
        batch_size=config.batch_size,
        start_step=start,
        **hosts,
    )
    held_out = functools.partial(held_out_batches, config, corpus)
    return Inputs(batches, held_out, corpus.tokenizer.piece, corpus.length)


def held_out_batches(config: Config, corpus: Corpus) -> Iterator[dict[str, np.ndarray]]:
    """One pass over the held-out rows, this host's part."""
    return eval_batches(
        corpus.held_out,
        config.data,
        corpus.vocabulary,
        seed=config.eval.seed,
        batch_size=config.eval.batch_size,
        max_rows=config.eval.max_rows,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )


def evaluate_workdir(config: Config, workdir: str, data: str | None, output: str | None) -> None:
    """Prints and writes (OUTPUT/scores.json) the scores of the newest checkpoint: on the run's held-out rows, or on all
    rows of the prepared directory `data`."""
    if data is not None:
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, paths=(data,), weights=()),
            eval=dataclasses.replace(config.eval, paths=(data,)),
        )
    corpus = open_corpus(config.data, config.eval)
    if load_tokenizer(Path(workdir) / session.TOKENIZER).fingerprint != corpus.tokenizer.fingerprint:
        raise Refused(f"{corpus.manifests[0].path} was prepared with another tokenizer than {workdir} was trained with")
    config = resolve(config, corpus.manifests, corpus.length)
    run = build_run(config, corpus.manifests[0].top_id)
    step, params = session.trained_params(run, Path(workdir))
    with contextlib.closing(held_out_batches(config, corpus)) as batches:
        scores = {"step": step} | evaluate(run, params, batches, stop=lambda: False)
    text = json.dumps(scores, indent=2)
    folder = session.open_workdir(output or str(Path(workdir) / "eval"))
    (folder / "scores.json").write_text(text + "\n")
    print(text)


def fill_masks(config: Config, workdir: str, texts: Sequence[str]) -> None:
    """Prints the best tokens for each [MASK] of each text."""
    tokenizer = load_tokenizer(Path(workdir) / session.TOKENIZER)
    run = build_run(config, top_id=0)
    _, params = session.trained_params(run, Path(workdir))
    for text in texts:
        print(text)
        for guesses in fill_mask(run, params, tokenizer, text):
            print("  " + "  ".join(f"{piece} {probability:.3f}" for piece, probability in guesses))


def replay(config: Config, workdir: str, step: int) -> None:
    """Runs step number `step` again from the newest checkpoint and prints what was not finite; updates nothing."""
    corpus = open_corpus(config.data, config.eval)
    config = resolve(config, corpus.manifests, corpus.length)
    run = build_run(config, corpus.manifests[0].top_id)
    state = session.starting_state(run, Path(workdir), session.meta_of(config, corpus.manifests))
    inputs = open_inputs(config, corpus, step - 1)
    batch = next(inputs.train)
    key = jax.random.fold_in(jax.random.key(config.seed), step - 1)
    gradients, loss, _ = jax.jit(functools.partial(batch_gradients, run.objective, micro_batches=config.micro_batches))(
        state.params, run.place(batch), key
    )
    print(f"step {step} with the parameters of step {int(state.step)}: loss {float(loss)}")
    print(f"gradient norm {float(optax.tree.norm(gradients))}, rows {batch['examples'].tolist()}")
    bad = [name for name, leaf in named_leaves(gradients) if not np.isfinite(np.asarray(leaf)).all()]
    if bad or not np.isfinite(float(loss)):
        raise Failed(f"step {step} is not finite; gradients that are not: {', '.join(bad) or 'none'}")


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
    if peak_flops(run) is None:
        log.warning("no MFU: the peak FLOP/s of %r is not in train/flops.py", device)
