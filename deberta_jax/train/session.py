"""What a run finds and leaves in its workdir: config, environment, checkpoints that fit."""

import contextlib
import fcntl
import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from deberta_jax import config as configs
from deberta_jax.config import Config, ModelConfig, RunConfig
from deberta_jax.data.prepared import Manifest, write_text
from deberta_jax.dist import hosts
from deberta_jax.errors import Refused
from deberta_jax.tokenizers import Tokenizer
from deberta_jax.train import checkpoint, storage
from deberta_jax.train.build import Run

CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
CONFIG = "config.json"
BEST = "best"  # parameters that did best on validation; of a pretraining run there are none
# A run may go on with another value of these; they change how it computes, not what it is.
FREE_MODEL_KEYS = frozenset(
    {
        *("hidden_dropout", "attention_dropout", "stochastic_depth", "initializer_range"),
        *("dtype", "remat", "scan_layers", "attention", "dropout_bits"),
    }
)
FREE_DATA_KEYS = frozenset({"paths", "dir", "tokenizer", "read_threads"})  # what is read is compared by its hashes
FIXED_KEYS = ("seed", "batch_size", "objective", "rtd.embedding_sharing", "head.pooler_activation")
OF_START = ("init_from", "rtd.generator_init_from")  # a run that has begun goes on from its own checkpoint
MODELS = ("model.", "rtd.generator.")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy")
log = logging.getLogger(__name__)


def open_workdir(path: str) -> Path:
    """The workdir, made if it is not there. Raises Refused where nothing can be written."""
    workdir = storage.path_of(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise Refused(f"workdir {workdir} cannot be written: {error.strerror or error}") from error
    return workdir


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other processes from training in the workdir meanwhile. Raises Refused where one does.

    The system lets go of the folder with the process, however that ends. Of several hosts the first holds it for all.
    """
    folder = hosts.together(lambda: _locked(workdir) if hosts.is_lead() else None)
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def _locked(workdir: Path) -> int | None:
    """The descriptor of the folder, locked; None of a bucket, which holds no lock."""
    if storage.in_bucket(workdir):
        return None
    folder = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise Refused(f"workdir {workdir}: another process is training there") from error
    except OSError as error:  # some network file systems
        log.warning("%s: a second process would not be noticed, the file system holds no locks: %s", workdir, error)
    return folder


def meta_of(config: Config, manifests: Sequence[Manifest]) -> dict[str, Any]:
    """What a checkpoint says about itself, beside its arrays."""
    return {
        "config": configs.to_dict(config),
        "tokenizer": manifests[0].tokenizer_fingerprint,
        "manifests": [manifest.fingerprint for manifest in manifests],
        "top_id": top_id_of(manifests),
    }


def top_id_of(manifests: Sequence[Manifest]) -> int:
    """The most frequent token of the training rows (of the largest set, where there are several)."""
    return max(manifests, key=lambda manifest: manifest.splits["train"].rows).top_id


def write_run_files(workdir: Path, config: RunConfig, tokenizer: Tokenizer) -> None:
    """config.json (runs again as --config=WORKDIR/config.json), environment.json (what it ran on), the tokenizer.

    Of several hosts the first writes them.
    """
    if not hosts.is_lead():
        return
    tokenizer.save_vocabulary(workdir / TOKENIZER)
    _write_json(workdir / CONFIG, configs.to_dict(config))
    environment = {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "git": _git_commit(),
    }
    _write_json(workdir / "environment.json", environment)


def trained_meta(workdir: Path) -> dict[str, Any]:
    """What the checkpoint that counts says about itself. Raises Refused when there is none."""
    return checkpoint.read_meta(*trained_checkpoint(workdir))


def trained_checkpoint(workdir: Path) -> tuple[Path, int]:
    """(directory, step) of the checkpoint that counts: the best of a fine-tuned run, else the newest good one."""
    directory = workdir / BEST if checkpoint.steps_in(workdir / BEST) else workdir / CHECKPOINTS
    step = checkpoint.newest_good(directory)
    if step is None:
        raise Refused(f"{workdir} holds no complete checkpoint")
    return directory, step


def newest_params(run: Run, workdir: Path) -> tuple[int, Any]:
    """(step, parameters) of the newest good state. Raises Refused when there is none or it is another model's."""
    directory = workdir / CHECKPOINTS
    step = checkpoint.newest_good(directory)
    if step is None:
        raise Refused(f"{workdir} holds no complete checkpoint")
    _check_same_models(run.config, checkpoint.read_meta(directory, step)["config"], directory / str(step))
    return step, checkpoint.restore_params(directory, step, run.abstract.params)


def _check_same_models(config: RunConfig, saved: dict[str, Any], path: Path) -> None:
    if saved["objective"] != config.objective:
        raise Refused(f"checkpoint {path} was trained for {saved['objective']!r}, the config says {config.objective!r}")
    check_same_model("model", config.model, saved["model"], path)
    if config.rtd is not None:
        check_same_model("rtd.generator", config.rtd.generator, saved["rtd"]["generator"], path)
        mode, saved_mode = config.rtd.embedding_sharing, saved["rtd"]["embedding_sharing"]
        if mode != saved_mode:
            raise Refused(f"checkpoint {path} has rtd.embedding_sharing {saved_mode!r}, the config says {mode!r}")


def check_same_model(
    name: str, model: ModelConfig, saved: dict[str, Any], path: Path, *, but: Collection[str] = ()
) -> None:
    """Raises Refused where a saved model differs in a key that decides what it computes, `but` for some."""
    for key, value in flat(configs.to_dict(model)).items():
        if key not in FREE_MODEL_KEYS and key not in but and saved[key] != value:
            raise Refused(f"checkpoint {path} has {name}.{key} {saved[key]!r}, the config says {value!r}")


def check_same_run(now: dict[str, Any], saved: dict[str, Any], path: Path) -> None:
    """Raises Refused, by name, when a checkpoint is of another model, tokenizer, data or batch stream.

    Other changed keys are allowed and said: a learning rate may be lowered half way.
    """
    if saved["tokenizer"] != now["tokenizer"]:
        raise Refused(f"checkpoint {path} was trained with another tokenizer than the data have")
    if saved["manifests"] != now["manifests"]:
        raise Refused(f"checkpoint {path} was trained on other data (manifest); choose another --workdir")
    before, after = flat(saved["config"]), flat(now["config"])
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    for key in changed:
        group, _, name = key.partition(".")
        fixed = key in FIXED_KEYS or (group == "data" and name not in FREE_DATA_KEYS)
        fixed |= key.startswith(MODELS) and key.rpartition(".")[-1] not in FREE_MODEL_KEYS
        said = f"{key} was {before.get(key)!r}, is {after.get(key)!r}"
        if fixed:
            raise Refused(f"checkpoint {path} is of another run: {said}")
        log.warning("resuming with a change: %s%s", said, "; only a start looks at it" if key in OF_START else "")


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"model.num_layers": 4, ...} of nested dictionaries; tuples become lists, as JSON has them."""
    if not isinstance(values, dict):
        return {prefix[:-1]: json.loads(json.dumps(values))}
    return {key: value for name, inner in values.items() for key, value in flat(inner, f"{prefix}{name}.").items()}


def _git_commit() -> str:
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
        check=False,  # a copy without its history is legal
    )
    return done.stdout.strip() or "unknown"


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
