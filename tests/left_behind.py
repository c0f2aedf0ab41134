"""Folders as runs, sweeps and suites leave them, with made-up numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

STEPS, EVERY = 100, 20
CONFIG = {
    "objective": "mlm",
    "seed": 0,
    "steps": STEPS,
    "batch_size": 8,
    "model": {"num_layers": 2, "hidden_size": 32},
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
    "data": {"paths": ["rows"]},
    "rtd": None,
}
ENVIRONMENT = {
    "python": "3.11.7",
    "packages": {"jax": "0.10.2", "numpy": "2.4.6"},
    "devices": ["cpu"] * 2,
    "processes": 1,
    "git": "0123abc",
}


def config_with(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """CONFIG as nested dictionaries with the values of dotted keys."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in overrides.items():
        *groups, name = key.split(".")
        group = config
        for each in groups:
            group = group.setdefault(each, {})
        group[name] = value
    return config


def curve(final: float, until: int = STEPS, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl up to a step: a loss that falls to `final`, noisy in training; an accuracy held out."""
    noise = np.random.default_rng(seed).normal(0, 0.05, until + 1)
    lines = []
    for step in range(1, until + 1):
        loss = final + 4 * np.exp(-6 * step / STEPS) - 4 * np.exp(-6)
        lines.append({"step": step, "loss": loss + noise[step], "tokens": 256 * step})
        if step % EVERY == 0:
            lines.append({"step": step, "eval/loss": loss, "eval/accuracy": 1 / loss, "eval/perplexity": np.exp(loss)})
    return lines


def write_run(folder: Path, lines: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any] | None = None) -> Path:
    """A workdir of train.py."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", config_with(overrides or {}))
    _write(folder / "environment.json", ENVIRONMENT)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def write_kept(folder: Path, step: int) -> None:
    """The scores of the parameters that a fine-tuned run has kept."""
    (folder / "validation").mkdir()
    _write(folder / "validation" / "scores.json", {"task": "mrpc", "step": step, "score": 0.5, "scores": {}})


def write_sweep(
    folder: Path, trials: Mapping[str, Mapping[str, Any]], metric: str = "eval/loss", goal: str = "min"
) -> Path:
    """A sweep of which nothing has been run; `trials`: the overrides of each by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    planned = [{"name": name, "overrides": overrides} for name, overrides in trials.items()]
    said = {
        "config": "configs/quickstart.py",
        "metric": metric,
        "goal": goal,
        "command": "python -m sweep --x='<1 & 2>'",
    }
    _write(folder / "sweep.json", said | {"trials": planned})
    return folder


def write_trial(folder: Path, state: str, error: str = "", exit_code: int | None = None) -> None:
    """What a sweep notes of a trial that it has started."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "trial.json",
        {"state": state, "exit_code": exit_code, "error": error, "seconds": 61.5, "flags": []},
    )


def write_grid(folder: Path) -> Path:
    """A sweep of six variations over two parameters, two seeds each: one run failed, one was stopped, one not begun."""
    rates, names = (1e-4, 1e-3, 1e-2), ("a<b>&c", 'say "no"')
    trials = {
        f"optimizer.learning_rate={rate:g},model.note={name},seed={seed}": {
            "optimizer.learning_rate": rate,
            "model.note": name,
            "seed": seed,
        }
        for rate in rates
        for name in names
        for seed in (0, 1)
    }
    write_sweep(folder, trials)
    for number, (name, overrides) in enumerate(trials.items()):
        place = folder / name
        lines = curve(2.5 + 0.1 * (number // 2) + 0.01 * (number % 2), seed=number)
        if number == 11:
            continue
        if number == 4:
            write_trial(place, "failed", "ValueError: <script>alert('no')</script> & \"more\"", 1)
            continue
        if number == 7:
            lines = lines[:50]
        write_run(place, lines, overrides)
        write_trial(place, "stopped" if number == 7 else "done", "stopped: SIGTERM" * (number == 7), 75 * (number == 7))
    return folder


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))
