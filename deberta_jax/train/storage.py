"""Where a run's workdir is: a folder, or gs://BUCKET/PATH.

In a bucket Orbax writes checkpoints where they belong. What a run appends to (metrics, events) no bucket can hold, so
all its other files are kept in a folder of the first host: filled from the bucket at the start, copied there with
every checkpoint, before that counts, and at the end.
"""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
from etils import epath

from deberta_jax.dist import hosts
from deberta_jax.errors import Refused

BUCKET = "gs://"
OF_ORBAX = ("checkpoints", "best", "rejected")


class Workdir(NamedTuple):
    """The two places of a workdir, one and the same where it is a folder."""

    states: Path | epath.Path  # checkpoints are below
    files: Path  # all else


def in_bucket(path: str | Path | epath.Path) -> bool:
    return str(path).startswith(BUCKET)


def path_of(path: str) -> Path | epath.Path:
    """Raises Refused for gs:// where what reads it is not installed."""
    if not in_bucket(path):
        return Path(path)
    if importlib.util.find_spec("gcsfs") is None:
        raise Refused(f"{path}: buckets need gcsfs: pip install -r requirements-gcs.txt")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # would ask for each bucket's kind, aloud
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False  # tensorstore writes past it
    return epath.Path(path)


def bucket() -> fsspec.AbstractFileSystem:
    """The file system of gs://; `path_of` must have been called before."""
    return fsspec.filesystem("gcs", finalize_on_close=True)  # as etils asks for it: one connection


@contextlib.contextmanager
def opened(states: Path | epath.Path) -> Iterator[Workdir]:
    """The two places of a workdir, while a run works there. Leaving copies what is new to the bucket."""
    if not in_bucket(states):
        yield Workdir(states, states)
        return
    with tempfile.TemporaryDirectory(prefix="deberta_jax-") as folder:
        workdir = Workdir(states, Path(folder))
        if hosts.is_lead():
            _pull(workdir)
        try:
            yield workdir
        finally:
            push(workdir)


def _pull(workdir: Workdir) -> None:
    root = str(workdir.states).removeprefix(BUCKET) + "/"
    for name in bucket().find(root):
        relative = Path(name.removeprefix(root))
        if relative.parts[0] not in OF_ORBAX:
            place = workdir.files / relative
            place.parent.mkdir(parents=True, exist_ok=True)
            bucket().get_file(name, str(place))
            _mark_copied(place)


def push(workdir: Workdir) -> None:
    """Copies the files that were written since they were last copied; of several hosts the first does."""
    if workdir.states == workdir.files or not hosts.is_lead():
        return
    for place in sorted(path for path in workdir.files.rglob("*") if path.is_file()):
        written = place.stat().st_mtime_ns
        if written != 0:
            with tempfile.NamedTemporaryFile() as still:  # training goes on and writes
                shutil.copyfile(place, still.name)
                bucket().put_file(still.name, f"{workdir.states}/{place.relative_to(workdir.files)}")
            if place.stat().st_mtime_ns == written:
                _mark_copied(place)


def _mark_copied(place: Path) -> None:
    """A time that no clock gives; whoever writes sets another."""
    os.utime(place, ns=(0, 0))
