"""From a model's outputs to predictions of examples, and to the files that hold them."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax.config import TaskEvalConfig
from deberta_jax.data.prepared import write_text
from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Example, Prediction, Question, Sentence
from deberta_jax.tasks.rows import Row
from deberta_jax.tasks.tagging import decode_tags
from deberta_jax.tasks.task import Task
from deberta_jax.tasks.windows import decode


def predictions_of(
    task: Task, examples: Sequence[Example], rows: Sequence[Row], outputs: Sequence[Any], settings: TaskEvalConfig
) -> list[Prediction]:
    """What is predicted for each example, from the outputs of its rows (objectives/tasks.py says what they are)."""
    parts: dict[int, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        parts[row.example].append(number)
    decoder = _DECODERS[task.kind]
    return [
        decoder(task, example, [rows[i] for i in parts[number]], [outputs[i] for i in parts[number]], settings)
        for number, example in enumerate(examples)
    ]


def write_predictions(path: Path, examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    """One JSON object a line: id, gold (null where it is hidden), prediction, and what the model gave the others."""
    lines = (json.dumps(_line(*pair), ensure_ascii=False) for pair in zip(examples, predictions, strict=True))
    write_text(path, "".join(line + "\n" for line in lines))


def _line(example: Example, prediction: Prediction) -> dict[str, Any]:
    line = {"id": example.id, "gold": _gold(example), "prediction": prediction.value}
    if prediction.probabilities:
        line["probabilities"] = [round(value, 6) for value in prediction.probabilities]
    if isinstance(example, Question):
        line["best"] = [[text, round(probability, 6)] for text, probability in prediction.best]
        line["null_odds"] = round(prediction.null_odds, 6) if np.isfinite(prediction.null_odds) else None
    return line


def _gold(example: Example) -> Any:
    if isinstance(example, Question):
        return None if example.impossible is None else [answer.text for answer in example.answers]
    return example.tags if isinstance(example, Sentence) else example.label


def _class(task: Task, example: Example, rows: Sequence[Row], outputs: Sequence[Any], _) -> Prediction:
    probabilities = softmax(outputs[0])
    return Prediction(task.labels[int(np.argmax(outputs[0]))], tuple(probabilities.tolist()))


def _value(task: Task, example: Example, rows: Sequence[Row], outputs: Sequence[Any], _) -> Prediction:
    return Prediction(float(outputs[0]))


def _option(task: Task, example: Example, rows: Sequence[Row], outputs: Sequence[Any], _) -> Prediction:
    return Prediction(int(np.argmax(outputs[0])), tuple(softmax(outputs[0]).tolist()))


def _tags(task: Task, example: Example, rows: Sequence[Row], outputs: Sequence[Any], _) -> Prediction:
    likeliest = [np.argmax(logits_lc, axis=-1) for logits_lc in outputs]
    of_words = [logits_c for row, logits_lc in zip(rows, outputs, strict=True) for logits_c in logits_lc[row.starts]]
    probabilities = tuple(float(softmax(logits_c).max()) for logits_c in of_words)
    return Prediction(decode_tags(rows, likeliest, task.labels, len(example.words)), probabilities)


def _answer(
    task: Task, example: Example, rows: Sequence[Row], outputs: Sequence[Any], settings: TaskEvalConfig
) -> Prediction:
    starts, ends = zip(*outputs, strict=True)
    found = decode(example, rows, starts, ends, n_best=settings.n_best, max_answer_length=settings.max_answer_length)
    none = task.score is scoring.squad_v2 and found.null_odds > settings.null_threshold
    return found._replace(value="") if none else found


def softmax(logits_c: np.ndarray) -> np.ndarray:
    """Probabilities, float64."""
    odds = np.exp(np.asarray(logits_c, np.float64) - np.max(logits_c))
    return odds / odds.sum()


_DECODERS: Mapping[str, Callable[..., Prediction]] = {
    "classification": _class,
    "regression": _value,
    "multiple_choice": _option,
    "tagging": _tags,
    "span": _answer,
}
