"""What the hosts of a run compare before the first step: that they see one workdir, and are about to do the same.

A host with another config, other data or other code would not fail: it would train something else, or wait for ever.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from deberta_jax.dist import hosts
from deberta_jax.errors import Refused
from deberta_jax.train.session import PACKAGES, flat

PACKAGE = Path(__file__).parents[1]


def check_hosts(workdir: Path, meta: Mapping[str, Any]) -> None:
    """Raises Refused, naming hosts, where one sees another workdir than the first or has other config, data or code."""
    if hosts.several():
        _check_workdir(workdir)
        mine = described(meta)
        first = hosts.by_lead(lambda: mine)
        hosts.together(lambda: check_same(mine, first))


def described(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be the same on all hosts, of what a checkpoint will say about itself; as JSON has it."""
    data = {"tokenizer": meta["tokenizer"], "manifests": meta["manifests"]}
    versions = {name: metadata.version(name) for name in PACKAGES}
    described = {"config": flat(meta["config"]), "data": data, "versions": versions, "code": _code()}
    return json.loads(json.dumps(described))


def check_same(mine: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raises Refused for the first difference from what the `first` host is about to do."""
    for group in ("versions", "config", "data"):
        for name in sorted(mine[group].keys() | first[group].keys()):
            own, other = (side[group].get(name) for side in (mine, first))
            if own != other:
                shown = f" {own!r}, on process 0 {other!r}" if group != "data" else " other than on process 0"
                raise Refused(f"{group} {name} is{shown}")
    if mine["code"] != first["code"]:
        raise Refused("the code of deberta_jax is another than on process 0")


def _code() -> str:
    """A hash of this package's sources: a commit says nothing of what was changed since."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _check_workdir(workdir: Path) -> None:
    """The first host writes a word there that all must read: a local folder of the same name does not hold it."""
    word = hosts.by_lead(lambda: _left_word(workdir))
    hosts.together(lambda: _read_word(workdir, word))
    if hosts.is_lead():
        _place(workdir, word).unlink()


def _left_word(workdir: Path) -> str:
    word = secrets.token_hex(8)
    _place(workdir, word).write_text(word)
    return word


def _read_word(workdir: Path, word: str) -> None:
    place = _place(workdir, word)
    if not place.exists() or place.read_text() != word:
        raise Refused(f"workdir {workdir} is not the one of process 0: name a folder that all hosts share, or gs://")


def _place(workdir: Path, word: str) -> Path:
    return workdir / f".roll-call-{word}"
