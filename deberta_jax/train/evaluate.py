"""Held-out numbers and samples."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from deberta_jax.dist.axes import batch_devices
from deberta_jax.errors import Refused
from deberta_jax.tokenizers import Tokenizer
from deberta_jax.train.build import Run, masked_model
from deberta_jax.train.lagged import Lagged

SHOWN = 5  # guesses listed for a sample


class Interrupted(Exception):
    """A stop was asked for while evaluating; what was counted so far is worth nothing."""


def evaluate(run: Run, params: Any, batches: Iterable[dict], stop: Callable[[], bool]) -> dict[str, float]:
    """The objective's summary of all rows, each position counted once."""
    totals: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))

    def add(sums: dict) -> None:
        for name, pair in jax.device_get(sums).items():
            totals[name] += np.array(pair, np.float64)  # float32 stops counting at 2 ** 24

    lagged = Lagged(add)
    for batch in batches:
        if stop():
            raise Interrupted
        lagged.push(run.evaluate(params, run.place(batch)))
    lagged.flush()
    return run.objective.summary(totals)


def samples(run: Run, params: Any, batch: dict[str, np.ndarray], piece: Callable[[int], str], count: int) -> str:
    """The first `count` masked positions of a batch: the true piece and the best guesses, a line each."""
    ids_bpk, probabilities_bpk = jax.device_get(run.predict(params, run.place(batch)))
    lines = []
    for row, place in np.argwhere(batch["weights"] > 0)[:count]:
        whole = batch["rows"][row], place  # in the outputs, which are those of all hosts
        guesses = zip(ids_bpk[whole][:SHOWN], probabilities_bpk[whole][:SHOWN], strict=True)
        listed = "  ".join(f"{piece(int(i))} {p:.2f}" for i, p in guesses)
        lines.append(f"{piece(int(batch['labels'][row, place])):>16} | {listed}")
    return "\n".join(lines)


def fill_mask(run: Run, params: Any, tokenizer: Tokenizer, text: str) -> list[list[tuple[str, float]]]:
    """For each [MASK] of `text`, the best (piece, probability) pairs, best first. Raises Refused for a text without."""
    ids = np.array(tokenizer.encode_masked(text), np.int32)
    places = np.flatnonzero(ids == tokenizer.mask_id)
    if not places.size:
        raise Refused(f"--fill_mask: no [MASK] in {text!r}")
    model = masked_model(run.config)
    if model.has_absolute_positions and len(ids) > model.max_position_embeddings:
        raise Refused(f"--fill_mask: {len(ids)} tokens, the model has {model.max_position_embeddings} positions")
    rows = batch_devices(run.config.rules, run.mesh)  # the mesh wants its share of rows; they are all the same one
    batch = {
        "input_ids": ids,
        "documents": np.ones_like(ids),
        "positions": np.arange(len(ids), dtype=np.int32),
        "masked_positions": places.astype(np.int32),
        "labels": np.zeros(len(places), np.int32),
        "weights": np.ones(len(places), np.float32),
    }
    batch = {name: np.tile(values, (rows, 1)) for name, values in batch.items()}
    batch["rows"] = np.arange(rows, dtype=np.int32)
    batch = {name: values[run.share(rows).columns] for name, values in batch.items()}
    best_ids, probabilities = jax.device_get(run.predict(params, run.place(batch)))
    return [
        [(piece_of(tokenizer, int(i)), float(p)) for i, p in zip(*pair, strict=True)]
        for pair in zip(best_ids[0], probabilities[0], strict=True)
    ]


def piece_of(tokenizer: Tokenizer, index: int) -> str:
    """The piece of an id; rows of the word table beyond the tokenizer (released tables have 99) by their number."""
    return tokenizer.piece(index) if index < tokenizer.size else f"<row {index}>"
