"""What a model predicts for the examples of a task, each once, and how good that is."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deberta_jax.config import FinetuneConfig
from deberta_jax.data.prepared import write_text
from deberta_jax.dist import hosts
from deberta_jax.dist.axes import batch_devices
from deberta_jax.errors import Failed, Refused
from deberta_jax.objectives.sums import ratios
from deberta_jax.tasks.batches import eval_batches
from deberta_jax.tasks.examples import Example, Prediction
from deberta_jax.tasks.loading import is_known
from deberta_jax.tasks.predictions import predictions_of, write_predictions
from deberta_jax.tasks.rows import Row, encode
from deberta_jax.tasks.submission import write_submission
from deberta_jax.tasks.task import Task
from deberta_jax.tokenizers import Tokenizer
from deberta_jax.train.build import Run
from deberta_jax.train.evaluate import Interrupted
from deberta_jax.train.lagged import Lagged


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples with their rows."""

    name: str
    examples: Sequence[Example]
    rows: Sequence[Row]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was predicted for a split."""

    split: Split
    predictions: list[Prediction]
    scores: dict[str, float]  # of the task, "loss", and "examples"; {} beyond that where golds are hidden


def split_of(config: FinetuneConfig, task: Task, tokenizer: Tokenizer, name: str, examples: Sequence[Example]) -> Split:
    """The rows of examples, as the config cuts them."""
    data = config.data
    limits = {"max_length": data.max_length, "stride": data.stride, "max_query": data.max_query}
    return Split(name, examples, encode(examples, task.kind, tokenizer, labels=task.labels, **limits))


def evaluate_split(
    run: Run, params: Any, task: Task, tokenizer: Tokenizer, split: Split, stop: Callable[[], bool]
) -> Result:
    """Predictions and scores of a split. Raises Interrupted once `stop()`."""
    outputs, totals = _outputs(run, params, tokenizer, split.rows, stop)
    predictions = predictions_of(task, split.examples, split.rows, outputs, run.config.eval)
    scores = {"examples": float(len(predictions))}
    if all(map(is_known, split.examples)):
        scores |= {"loss": ratios({"loss": totals})["loss"]} | task.score(split.examples, predictions)
    return Result(split, predictions, scores)


def check_names(splits: Sequence[str]) -> None:
    """Raises Refused where two splits would be written to files of one name."""
    names = [_plain_name(split) for split in splits]
    for split, name in zip(splits, names, strict=True):
        if names.count(name) > 1:
            raise Refused(f"{split}: there is another split or file {name!r}, and predictions are called by that name")


def selection_score(task: Task, results: Sequence[Result]) -> float:
    """The mean of the task's selecting metrics over its splits."""
    return float(np.mean([result.scores[metric] for result in results for metric in task.selection]))


def named_scores(results: Sequence[Result]) -> dict[str, float]:
    """{"accuracy": ...} of one split, {"validation_matched/accuracy": ...} of several."""
    if len(results) == 1:
        return results[0].scores
    return {f"{result.split.name}/{name}": value for result in results for name, value in result.scores.items()}


def write_results(directory: Path, task_name: str, results: Sequence[Result], said: Mapping[str, Any]) -> None:
    """predictions-SPLIT.jsonl, the files that official servers and scorers read, and, last, scores.json.

    In JSON what is no number is null. Of several hosts the first writes them.
    """
    if not hosts.is_lead():
        return
    directory.mkdir(parents=True, exist_ok=True)
    for result in results:
        name = _plain_name(result.split.name)
        write_predictions(directory / f"predictions-{name}.jsonl", result.split.examples, result.predictions)
        place = directory / "submission" / name
        place.mkdir(parents=True, exist_ok=True)
        if write_submission(place, task_name, name, result.split.examples, result.predictions) is None:
            place.rmdir()
    with contextlib.suppress(OSError):
        (directory / "submission").rmdir()  # where it stayed empty
    values = dict(said) | {"scores": {result.split.name: result.scores for result in results}}
    write_text(directory / "scores.json", json.dumps(_finite(values), indent=2, allow_nan=False) + "\n")


def _finite(values: Any) -> Any:
    """Numbers that are none as None: JSON has no NaN."""
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _plain_name(split: str) -> str:
    """Of a split, which may be a file anywhere."""
    name = Path(split).name
    for extension in (".tsv", ".csv", ".jsonl", ".json"):
        name = name.removesuffix(extension)
    return name


def _outputs(
    run: Run, params: Any, tokenizer: Tokenizer, rows: Sequence[Row], stop: Callable[[], bool]
) -> tuple[list[Any], np.ndarray]:
    """(outputs of each row, sum and weight of the loss). Every row comes from exactly one batch."""
    found: list[Any] = [None] * len(rows)
    totals = np.zeros(2)

    def keep(batch_outputs: Any, sums: dict) -> None:
        nonlocal totals
        (numbers, outputs), loss = jax.device_get(batch_outputs), jax.device_get(sums["loss"])
        totals = totals + np.array(loss, np.float64)
        for place, number in enumerate(numbers):
            if number >= 0:
                if found[number] is not None:
                    raise Failed(f"row {number} was evaluated twice")
                found[number] = jax.tree.map(lambda x, place=place: x[place], outputs)

    lagged = Lagged(keep)
    with contextlib.closing(_batches(run, tokenizer, rows)) as batches:
        for batch in batches:
            if stop():
                raise Interrupted
            lagged.push(*run.predict(params, run.place(batch)))
    lagged.flush()
    if missing := [number for number, outputs in enumerate(found) if outputs is None]:
        raise Failed(f"{len(missing)} rows were not evaluated, the first is {missing[0]}")
    return found, totals


def _batches(run: Run, tokenizer: Tokenizer, rows: Sequence[Row]):
    config = run.config
    parts = batch_devices(config.rules, run.mesh)
    return eval_batches(
        rows,
        batch_size=config.eval.batch_size,
        share=run.share(-(-config.eval.batch_size // parts) * parts),
        buckets=config.data.buckets,
        pad_id=tokenizer.pad_id,
        threads=config.data.read_threads,
    )
