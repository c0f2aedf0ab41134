"""Small files of every kind of task, made of a few words, and the command line that fine-tunes a tiny model on them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deberta_jax import config as configs
from deberta_jax.config import FinetuneConfig
from deberta_jax.flags import load_config
from runs import ROOT

EXAMPLES = 64
COLUMNS = {
    "classification": {"segments": ("first", "second"), "label": "label"},
    "regression": {"segments": ("first", "second"), "label": "label"},
    "multiple_choice": {"segments": ("first",), "options": ("a", "b", "c"), "label": "label"},
    "tagging": {"words": "words", "tags": "tags"},
    "span": {"question": "question", "context": "context", "answers": "answers", "answer_start": "start"},
}
KINDS = tuple(COLUMNS)
TINY = {
    "log_every": 1,
    "epochs": 2,
    "batch_size": 16,
    "model.num_layers": 2,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.intermediate_size": 64,
    "model.position_buckets": 8,
    "model.max_relative_positions": 16,
    "model.initializer_range": 0.1,
    "model.dtype": "float32",
    "data.max_length": 48,
    "data.buckets": (24, 48),
    "data.stride": 4,
    "data.max_query": 8,
    "data.read_threads": 1,
    "eval.batch_size": 64,
    "optimizer.warmup_steps": 2,
    "optimizer.learning_rate": 3e-3,
    "checkpoint.every_minutes": 0.0,
}


def write_task(folder: Path, kind: str, words: Sequence[str], count: int = EXAMPLES, seed: int = 0) -> Path:
    """`folder`/train.jsonl with `count` different examples of a kind, whose golds have to be learnt by heart."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"n{number}"} | _ROWS[kind](rng, words) for number in range(count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def task_flags(kind: str, folder: Path, tokenizer: Path, **changes: Any) -> list[str]:
    """The --config flags of a run on `folder`/train.jsonl; `changes` name keys with __ for the dot."""
    values = TINY | {
        "objective": kind,
        "data.dir": str(folder),
        "data.train": "train.jsonl",
        "data.validation": ("train.jsonl",),
        "data.tokenizer": str(tokenizer),
        "data.columns.id": "id",
        **{f"data.columns.{name}": value for name, value in COLUMNS[kind].items()},
    }
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return ["--config=configs/finetune.py:custom,tiny", *(f"--config.{key}={value}" for key, value in values.items())]


def task_config(kind: str, folder: Path, tokenizer: Path, **changes: Any) -> FinetuneConfig:
    """The config that `task_flags` stand for."""
    source, *overrides = task_flags(kind, folder, tokenizer, **changes)
    path = ROOT / source.removeprefix("--config=")
    return configs.build(load_config([f"--config={path}", *overrides]).config)


def _text(rng: np.random.Generator, words: Sequence[str], least: int = 2, most: int = 7) -> str:
    return " ".join(rng.choice(words, rng.integers(least, most)))


def _class(rng: np.random.Generator, words: Sequence[str]) -> dict[str, Any]:
    return {"first": _text(rng, words), "second": _text(rng, words), "label": str(rng.choice(["no", "perhaps", "yes"]))}


def _value(rng: np.random.Generator, words: Sequence[str]) -> dict[str, Any]:
    return {"first": _text(rng, words), "second": _text(rng, words), "label": round(rng.uniform(-1, 1), 3)}


def _choice(rng: np.random.Generator, words: Sequence[str]) -> dict[str, Any]:
    texts = {name: _text(rng, words) for name in ("first", "a", "b", "c")}
    return texts | {"label": int(rng.integers(3))}


def _tagged(rng: np.random.Generator, words: Sequence[str]) -> dict[str, Any]:
    chosen = [str(word) for word in rng.choice(words, rng.integers(3, 12))]
    return {"words": chosen, "tags": [("O", "B-PLACE", "B-NAME")[words.index(word) % 3] for word in chosen]}


def _question(rng: np.random.Generator, words: Sequence[str]) -> dict[str, Any]:
    chosen = [str(word) for word in rng.choice(words, rng.integers(6, 18), replace=False)]
    place = int(rng.integers(len(chosen)))
    start = len(" ".join([*chosen[:place], ""]))  # a short word may be a part of a longer one before it
    return {"question": _text(rng, words), "context": " ".join(chosen), "answers": chosen[place], "start": start}


_ROWS = {
    "classification": _class,
    "regression": _value,
    "multiple_choice": _choice,
    "tagging": _tagged,
    "span": _question,
}
