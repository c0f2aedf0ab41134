"""Checkpoints: Orbax writes them, a digest of every file vouches for them, and only vouched ones are read.

Orbax restores a file with a flipped byte, takes an empty directory for the newest step and fills a template of another
shape without a word. So a step counts once `digest.json` (sha256 of each of its files, written last) is there and true.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from deberta_jax.config import CheckpointConfig
from deberta_jax.dist import hosts
from deberta_jax.errors import Failed, Refused
from deberta_jax.train import storage
from deberta_jax.train.hush import hush_orbax
from deberta_jax.train.optimizer import named_leaves
from deberta_jax.train.state import TrainState

DIGEST = "digest.json"
log = logging.getLogger(__name__)


class Checkpoints:
    """Saves states under `directory`/STEP while training goes on. A save that fails raises Failed at the next call."""

    def __init__(
        self,
        directory: Path | epath.Path,
        cfg: CheckpointConfig,
        clock: Callable[[], float],
        before_seal: Callable[[], None] = lambda: None,
    ):
        """`before_seal` is called, in the background, before each step counts."""
        self._directory = directory
        self._before_seal = before_seal
        self._cfg = cfg
        self._clock = clock
        self._last_time = clock()
        self._last_step = next(iter(steps_in(directory)), None)  # resumed, a run has saved the step it starts at
        hush_orbax()
        options = ocp.CheckpointManagerOptions(max_to_keep=cfg.keep_last, keep_period=cfg.keep_every or None)
        self._manager = ocp.CheckpointManager(_absolute(directory), options=options)
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-digest")
        self._sealing: Future | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._sealer.shutdown()
        with _named(self._directory / str(self._last_step)):  # Orbax raises a failed save once more
            self._manager.close()

    def due(self, step: int) -> bool:
        """True when it is time, by steps: on all hosts alike."""
        return self._cfg.every_steps > 0 and step % self._cfg.every_steps == 0

    def late(self) -> bool:
        """True when it is time by this host's clock."""
        return 0 < self._cfg.every_minutes <= (self._clock() - self._last_time) / 60

    def save(self, step: int, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Copies the state off the devices, then writes and seals it in the background. Twice the same step is once."""
        if step == self._last_step:
            return
        self.wait()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
        with _named(self._directory / str(step)):
            self._manager.save(step, args=items, force=True)
        self._sealing = self._sealer.submit(self._seal, step)
        self._last_step, self._last_time = step, self._clock()

    def check(self) -> None:
        """Raises what a finished background save failed with."""
        if self._sealing is not None and self._sealing.done():
            self._finish()

    def wait(self) -> None:
        """Returns once the last save is complete and vouched for, on every host."""
        self._finish()
        hosts.wait_for_all("checkpoint")

    def _finish(self) -> None:
        if self._sealing is not None:
            sealing, self._sealing = self._sealing, None
            sealing.result()

    def _seal(self, step: int) -> None:
        with _named(self._directory / str(step)):
            self._manager.wait_until_finished()  # on the first host, for all of them
            self._before_seal()
            if hosts.is_lead():
                seal(self._directory / str(step))


@contextlib.contextmanager
def _named(directory: Path) -> Iterator[None]:
    """Raises Failed, with the step's directory and the reason, where the disk or tensorstore (ValueError) refuses."""
    try:
        yield
    except (OSError, ValueError) as error:
        number = re.search(r"os_error_code='(\d+)'|\[Errno (\d+)\]", str(error))
        reason = os.strerror(int(number[1] or number[2])) if number else str(error)
        remedy = "run the same command to go on once it can be"
        raise Failed(f"checkpoint {directory} was not saved: {reason}; {remedy}") from error


def seal(directory: Path) -> None:
    """Writes the digest of a complete step, atomically."""
    if not directory.is_dir():
        raise Failed(f"checkpoint {directory} was not written")
    text = json.dumps(_digest(directory), indent=1, sort_keys=True)
    if storage.in_bucket(directory):  # there a file is whole or not there
        (directory / DIGEST).write_text(text)
        return
    temporary = directory / (DIGEST + ".tmp")
    temporary.write_text(text)
    temporary.rename(directory / DIGEST)


def fault_of(directory: Path) -> str:
    """Why a step's directory cannot be trusted, or "" when it can."""
    if not (directory / DIGEST).exists():
        return "it was never completed"
    try:
        promised = json.loads((directory / DIGEST).read_text())
    except ValueError:
        return f"its {DIGEST} is damaged"
    found = _digest(directory)
    wrong = sorted(name for name in promised.keys() | found.keys() if promised.get(name) != found.get(name))
    return f"{wrong[0]} is missing or changed" if wrong else ""


def newest_good(directory: Path) -> int | None:
    """The newest step that can be trusted; None when no step was ever completed. Changes nothing.

    Of several hosts the first looks for all. Raises Refused when steps were completed but every one is damaged:
    starting afresh would hide that.
    """
    return hosts.by_lead(lambda: _newest_good(directory))


def _newest_good(directory: Path) -> int | None:
    damaged = []
    for step in steps_in(directory):
        fault = fault_of(directory / str(step))
        if not fault:
            return step
        log.warning("checkpoint %s skipped: %s", directory / str(step), fault)
        damaged += [step] if (directory / str(step) / DIGEST).exists() else []
    if damaged:
        raise Refused(f"every checkpoint in {directory} is damaged; move the folder away to start afresh")
    return None


def set_aside(directory: Path, after: int | None) -> None:
    """Moves steps newer than `after`, which cannot be trusted, to `directory`/../rejected.

    What Orbax had not finished when the process ended is deleted: it would fill the disk, kill by kill. Of several
    hosts the first does it.
    """
    hosts.by_lead(lambda: _set_aside(directory, after))


def _set_aside(directory: Path, after: int | None) -> None:
    for unfinished in directory.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for step in steps_in(directory):
        if after is not None and step <= after:
            continue
        if storage.in_bucket(directory) and not (directory / str(step) / DIGEST).exists():  # Orbax's only place there
            (directory / str(step)).rmtree()
            continue
        rejected = directory.parent / "rejected"
        rejected.mkdir(exist_ok=True)
        place = rejected / f"{step}-{len(list(rejected.glob(f'{step}-*')))}"
        _move(directory / str(step), place)
        log.warning("checkpoint %s moved to %s", directory / str(step), place)


def _move(source: Path | epath.Path, place: Path | epath.Path) -> None:
    if storage.in_bucket(source):
        storage.bucket().mv(str(source), str(place), recursive=True)
    else:
        shutil.move(source, place)


def steps_in(directory: Path) -> list[int]:
    """Step numbers that have a directory, newest first."""
    if not directory.is_dir():
        return []
    return sorted((int(path.name) for path in directory.iterdir() if path.name.isdigit()), reverse=True)


def read_meta(directory: Path, step: int) -> dict[str, Any]:
    """What `save` was given as meta."""
    with _reader(directory) as manager:
        return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta


def contents(directory: Path, step: int) -> list[tuple[str, ocp.metadata.ArrayMetadata]]:
    """("params/encoder/...", shape, dtype and sharding as saved) of each array of a saved state; reads no values."""
    with _reader(directory) as manager:
        return named_leaves(manager.item_metadata(step).state.tree)


def restore(directory: Path, step: int, abstract: TrainState) -> TrainState:
    """The saved state, placed as `abstract` says. Raises Refused, naming a leaf, when names, shapes or types differ."""
    with _reader(directory) as manager:
        _check_same(_saved_shapes(manager, step), _shapes(abstract), directory / str(step))
        return _restored(manager, step, abstract, partial=False)


def restore_params(directory: Path, step: int, abstract: Any) -> Any:
    """Only the parameters of a saved state, placed as `abstract` says; refuses what `restore` refuses."""
    with _reader(directory) as manager:
        saved = _saved_shapes(manager, step)
        params = {name: shape for name, shape in saved.items() if name.startswith("params/")}
        _check_same(params, _shapes({"params": abstract}), directory / str(step))
        return _restored(manager, step, {"params": abstract}, partial=True)["params"]


def _reader(directory: Path) -> ocp.CheckpointManager:
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(create=False)
    return ocp.CheckpointManager(_absolute(directory), options=options, item_handlers=handlers)


def _restored(manager: ocp.CheckpointManager, step: int, wanted: Any, *, partial: bool) -> Any:
    arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
    state = ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=partial)
    return manager.restore(step, args=ocp.args.Composite(state=state)).state


def _saved_shapes(manager: ocp.CheckpointManager, step: int) -> dict[str, tuple]:
    return _shapes(manager.item_metadata(step).state.tree)


def _shapes(tree: Any) -> dict[str, tuple]:
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(tree)}


def _check_same(saved: dict[str, tuple], wanted: dict[str, tuple], path: Path) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        if name not in saved:
            raise Refused(f"checkpoint {path} lacks the parameter {name}")
        if name not in wanted:
            raise Refused(f"checkpoint {path} holds {name}, which this model does not have")
        if saved[name] != wanted[name]:
            raise Refused(f"checkpoint {path}: {name} is {saved[name]}, this model's is {wanted[name]}")


def _absolute(directory: Path | epath.Path) -> Path | epath.Path:
    return directory if storage.in_bucket(directory) else directory.absolute()


def _digest(directory: Path | epath.Path) -> dict[str, str]:
    if storage.in_bucket(directory):
        return _checksums(directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(DIGEST))
    return {str(path.relative_to(directory)): _sha256(path) for path in files}


def _checksums(directory: epath.Path) -> dict[str, str]:
    """What the bucket itself says of each file, which is checked as it comes in: none is read back."""
    root = str(directory).removeprefix(storage.BUCKET) + "/"
    found = storage.bucket().find(root, detail=True)
    sums = {name.removeprefix(root): f"{info['size']} {info['crc32c']}" for name, info in found.items()}
    return {name: value for name, value in sums.items() if name != DIGEST}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
