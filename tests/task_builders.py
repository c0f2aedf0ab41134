"""Tiny configs, rows and batches of every kind of task that several test files share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from builders import VOCABULARY
from configs import finetune
from deberta_jax import config
from deberta_jax.config import FinetuneConfig, TaskDataConfig
from deberta_jax.data.batches import Batch, Share
from deberta_jax.tasks.batches import eval_batches
from deberta_jax.tasks.examples import KINDS
from deberta_jax.tasks.rows import ChoiceRow, Row, TextRow
from deberta_jax.tasks.tagging import TagRow
from deberta_jax.tasks.windows import SpanRow

LABELS = {
    "classification": ("no", "maybe", "yes"),
    "regression": ("score",),
    "multiple_choice": (),
    "tagging": ("B-X", "I-X", "O"),
    "span": (),
}
CHOICES = 3
PAD_ID = 3
SHORTEST = 5  # tokens of [CLS] question [SEP] context [SEP]


def task_config(kind: str = "classification", size: str = "tiny", **changes: Any) -> FinetuneConfig:
    """A run of a custom task of this kind on a tiny model of one layer; `changes` are keys and groups of keys."""
    c = finetune.get_config("custom", size)
    c.model.update(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=48,
        position_buckets=8,
        max_relative_positions=16,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        dtype="float32",
    )
    c.objective, c.steps, c.batch_size, c.optimizer.warmup_steps = kind, 10, 16, 2
    c.data.update(dir="files", max_length=64, buckets=(16, 32, 64), validation=("dev.tsv",))
    c.update(changes)
    return config.build(c)


def task_data(**changes: Any) -> TaskDataConfig:
    """The data of a custom task; `columns` are those of the group data.columns."""
    columns = changes.pop("columns", {})
    return task_config(data={**changes, "columns": columns}).data


def task_rows(kind: str, lengths: Sequence[int], seed: int = 0) -> list[Row]:
    """Rows with so many random tokens each (the longest option has them), and with random gold."""
    rng = np.random.default_rng(seed)
    return [_ROWS[kind](number, int(length), rng) for number, length in enumerate(lengths)]


def hidden(row: Row) -> Row:
    """The row as it is where its gold is not told."""
    if isinstance(row, SpanRow):
        return row._replace(start=0, end=0, usable=False)
    if isinstance(row, TagRow):
        return row._replace(labels=np.full_like(row.labels, -1))
    return row._replace(label=-1, value=math.nan) if isinstance(row, TextRow) else row._replace(label=-1)


def task_batch(kind: str, length: int = 24, seed: int = 0) -> Batch:
    """16 rows of at most so many tokens: 13 of a set, two of them without gold, and 3 fillers."""
    lengths = np.random.default_rng(seed).integers(SHORTEST, length + 1, 13)
    rows = task_rows(kind, lengths, seed)
    rows[4], rows[7] = hidden(rows[4]), hidden(rows[7])
    (batch,) = eval_batches(rows, batch_size=13, share=Share.whole(16), buckets=(length,), pad_id=PAD_ID, threads=1)
    return batch


def _ids(length: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(5, VOCABULARY, length).astype(np.int32)


def _text(number: int, length: int, rng: np.random.Generator) -> TextRow:
    return TextRow(number, _ids(length, rng), int(rng.integers(len(LABELS["classification"]))), math.nan)


def _value(number: int, length: int, rng: np.random.Generator) -> TextRow:
    return TextRow(number, _ids(length, rng), -1, float(rng.normal()))


def _choice(number: int, length: int, rng: np.random.Generator) -> ChoiceRow:
    lengths = rng.integers(3, length + 1, CHOICES)
    lengths[rng.integers(CHOICES)] = length
    return ChoiceRow(number, tuple(_ids(each, rng) for each in lengths), int(rng.integers(CHOICES)))


def _tags(number: int, length: int, rng: np.random.Generator) -> TagRow:
    """Some words have several tokens."""
    later = np.arange(2, length - 1)
    starts = np.concatenate([[1], later[rng.random(len(later)) < 0.6]]).astype(np.int32)
    return TagRow(number, _ids(length, rng), starts, rng.integers(0, 3, len(starts)).astype(np.int32))


def _span(number: int, length: int, rng: np.random.Generator) -> SpanRow:
    """One token of a question, the rest but the last one is context; a third of the questions have no answer."""
    tokens = length - 4
    offsets = np.stack([np.arange(tokens) * 2, np.arange(tokens) * 2 + 1], 1).astype(np.int32)
    start, end = np.sort(rng.integers(3, length - 1, 2)).tolist() if rng.random() < 0.7 else (0, 0)
    return SpanRow(number, _ids(length, rng), 3, offsets, np.ones(tokens, bool), start, end, True)


_ROWS = dict(zip(KINDS, (_text, _value, _choice, _tags, _span), strict=True))
