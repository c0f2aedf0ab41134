"""Tiny training runs: prepared rows of made-up text, a model of 32 x 2, the command line that trains it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from deberta_jax import config as configs
from deberta_jax.config import Config
from deberta_jax.data.prepare import Job, prepare
from deberta_jax.data.prepared import Manifest
from deberta_jax.flags import load_config
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.session import CHECKPOINTS
from deberta_jax.train.state import TrainState
from xla_flags import FAST_TO_COMPILE

ROOT = Path(__file__).parents[1]
PATIENCE = 900  # seconds for a process that takes ten on a machine of its own
TIMES = ("tokens_per_second", "examples_per_second", "data_wait_seconds")  # the metrics that no two runs share
TINY = {
    "steps": 6,
    "batch_size": 8,
    "log_every": 1,
    "model.num_layers": 2,
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.intermediate_size": 64,
    "model.position_buckets": 8,
    "model.max_relative_positions": 16,
    "model.max_position_embeddings": 64,
    "model.hidden_dropout": 0.1,
    "model.attention_dropout": 0.1,
    "optimizer.warmup_steps": 2,
    "optimizer.schedule": "constant",  # so that runs of different lengths are one program, compiled once
    "eval.every": 3,
    "eval.batch_size": 16,
    "eval.max_rows": 40,
    "eval.samples": 0,  # tests/test_pretrain.py and test_train_command.py have some
    "checkpoint.every_steps": 3,
}
TINY_PAIR = {
    "rtd.generator.num_layers": 2,  # half of the discriminator's are too few for the decoder
    "rtd.generator.intermediate_size": 48,  # so that nobody can take one model for the other
    "rtd.optimizer.learning_rate": 5e-4,
    "checkpoint.every_minutes": 0.0,
}


def prepare_rows(documents: Sequence[str], tokenizer: Path, output: Path, *, length: int, holdout: float) -> Manifest:
    """`documents` as rows of `length` tokens in `output`."""
    text = output.with_suffix(".txt")
    text.write_text("\n\n".join(documents), encoding="utf-8")
    job = Job(
        source=str(text),
        field="text",
        one_per_line=False,
        tokenizer=tokenizer,
        length=length,
        holdout=holdout,
        shard=0,
        shards=1,
        unit_chars=100_000,
        processes=1,
        output=output,
    )
    return prepare(job).manifest


def tiny_flags(prepared: Path, **changes: object) -> list[str]:
    """The --config flags of a tiny run on `prepared`; `changes` name keys with __ for the dot."""
    values = {**TINY, "data.paths": (str(prepared),)}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return ["--config=configs/quickstart.py", *(f"--config.{key}={value}" for key, value in values.items())]


def tiny_config(prepared: Path, **changes: object) -> Config:
    """The Config that `tiny_flags` stand for."""
    source, *overrides = tiny_flags(prepared, **changes)
    path = ROOT / source.removeprefix("--config=")
    return configs.build(load_config([f"--config={path}", *overrides]).config)


def tiny_pair_flags(prepared: Path, **changes: object) -> list[str]:
    """The --config flags of a tiny run with a generator and a discriminator; `changes` as for `tiny_flags`."""
    _, *flags = tiny_flags(prepared, **(TINY_PAIR | changes))
    return ["--config=configs/laptop_rtd.py", *flags]


def tiny_pair_config(prepared: Path, **changes: object) -> Config:
    """The Config that `tiny_pair_flags` stand for."""
    source, *overrides = tiny_pair_flags(prepared, **changes)
    path = ROOT / source.removeprefix("--config=")
    return configs.build(load_config([f"--config={path}", *overrides]).config)


def save_run(
    workdir: Path, config: Config, params: Any, meta: dict[str, Any], *, step: int = 0, opt_state: Any = ()
) -> Path:
    """`workdir` with a checkpoint of any parameters, as a run of `config` leaves it."""
    counts = {"step": jnp.int32(step), "skipped": jnp.int32(0)}
    state = TrainState(**counts, params=jax.tree.map(jnp.asarray, params), opt_state=opt_state)
    with Checkpoints(workdir / CHECKPOINTS, config.checkpoint, time.monotonic) as saves:
        saves.save(step, state, meta)
        saves.wait()
    return workdir


def start(
    program: str,
    *flags: str,
    devices: int = 1,
    cache: Path | None = None,
    under: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen:
    """`python program flags` in a process of its own with so many simulated devices; its output is collected.

    With `cache`, what one process compiles the next one reads. `under`: a command that is to run it.
    """
    simulated = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": f"{FAST_TO_COMPILE} {simulated}"} | environment
    if cache is not None:
        environment |= {"JAX_ENABLE_COMPILATION_CACHE": "true", "XDG_CACHE_HOME": str(cache)}
    return subprocess.Popen(
        [*under, sys.executable, program, *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Waits for the end of a started process; never leaves one behind."""
    with process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    """Returns once `happened()`; fails when the process ends first or is too slow."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"waited {PATIENCE} s"
        time.sleep(0.01)


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without the times."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def arrays(directory: Path, step: int) -> dict:
    """Everything of a step of a folder of checkpoints, as it is on disk: parameters, optimizer state, counters."""
    path = (directory / str(step) / "state").absolute()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        names = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def assert_same_run(workdir: Path, other: Path, step: int) -> None:
    """Bit for bit the same parameters, optimizer state and logged numbers."""
    found, wanted = (arrays(run / CHECKPOINTS, step) for run in (workdir, other))
    assert found.keys() == {"params", "opt_state", "step", "skipped"}
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert metrics(workdir) == metrics(other)
