"""Imports run one way; this is the table of docs/architecture.md in the form of a test."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {  # room of deberta_jax -> other rooms; errors may be imported by all
    "errors": set(),
    "config": set(),
    "flags": set(),
    "ops": set(),
    "dist": set(),
    "scores": set(),
    "tokenizers": set(),
    "reports": set(),
    "data": {"tokenizers", "config"},
    "tasks": {"tokenizers", "config", "data", "scores"},
    "model": {"ops", "dist", "config"},
    "objectives": {"model", "ops", "dist", "config"},
    "train": {"objectives", "dist", "data", "tasks", "config", "tokenizers", "reports"},
    "plan": {"train", "objectives", "dist", "data", "config"},
    "sweep": {"data", "dist", "reports", "config"},
    "convert": {"model", "dist", "tokenizers", "config"},
}
MAY_IMPORT_EVERYTHING = {"tools", "__init__"}
OUTSIDE_THE_PACKAGE = {"train", "eval", "benchmarks", "configs", "tests"}  # as top-level modules: nothing imports them
ROOMS_WITHOUT_JAX = {"errors", "config", "flags", "data", "tokenizers", "scores", "tasks", "sweep"}
JAX_FAMILY = {"jax", "jaxlib", "flax", "optax", "orbax"}
EXPERIMENTAL = {"pallas", "topologies", "multihost_utils", "mesh_utils"}
ONLY_INSIDE_FUNCTIONS = {"tensorflow", "tensorflow_datasets", "torch", "transformers"}
NO_IDEA = {"utils", "util", "helpers", "common", "misc"}  # names of files without one


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in `tree`: "a.b.c" for `from a.b import c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)


def attributes(tree: ast.AST) -> Iterator[str]:
    """Dotted names such as jax.experimental.pallas that are used without being imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def room_of(path: str) -> str:
    """deberta_jax/data/packing.py -> data; deberta_jax/errors.py -> errors."""
    return Path(path).parts[1].removesuffix(".py")


def wrong_imports(path: str, source: str) -> list[str]:
    """What `source`, the file at `path` below the repository's root, imports against the rules."""
    tree = ast.parse(source)
    wrong = [name for name in imported(tree) if name.startswith(".")]
    wrong += [name for name in imported(tree) if name == "jax.experimental"]
    wrong += [name for name in (*imported(tree), *attributes(tree)) if is_private_or_experimental(name)]
    if path.startswith("configs/"):
        wrong += [name for name in imported(tree) if name.partition(".")[0] not in {"ml_collections", "configs"}]
    if path.startswith("deberta_jax/"):
        wrong += [name for name in imported(tree) if breaks_the_order(room_of(path), name)]
        inside = {name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for name in imported(node)}
        at_import = set(imported(tree)) - inside
        wrong += [name for name in at_import if name.partition(".")[0] in ONLY_INSIDE_FUNCTIONS]
    return wrong


def is_private_or_experimental(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "jax" or len(parts) < 2:
        return False
    return parts[1] == "_src" or (parts[1] == "experimental" and (len(parts) > 2 and parts[2] not in EXPERIMENTAL))


def breaks_the_order(room: str, name: str) -> bool:
    if room in MAY_IMPORT_EVERYTHING:
        return False
    top, _, rest = name.partition(".")
    if top == "deberta_jax":
        return rest.partition(".")[0] not in MAY_IMPORT[room] | {room, "errors"}
    return top in OUTSIDE_THE_PACKAGE or (top in JAX_FAMILY and room in ROOMS_WITHOUT_JAX)


def python_files() -> list[str]:
    folders = ["deberta_jax", "configs", "benchmarks", "tests"]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]
    return sorted(str(file.relative_to(ROOT)) for file in files)


def test_every_file_imports_only_what_its_room_may():
    wrong = {path: found for path in python_files() if (found := wrong_imports(path, (ROOT / path).read_text()))}
    assert wrong == {}


def test_every_room_has_a_rule():
    rooms = {room_of(path) for path in python_files() if path.startswith("deberta_jax/")}
    assert rooms <= MAY_IMPORT.keys() | MAY_IMPORT_EVERYTHING


def test_every_file_is_named_after_an_idea():
    assert [path for path in python_files() if Path(path).stem in NO_IDEA] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("deberta_jax/ops/buckets.py", "from deberta_jax.config import ModelConfig"),
        ("deberta_jax/ops/buckets.py", "import deberta_jax.model.encoder"),
        ("deberta_jax/model/encoder.py", "from deberta_jax import train"),
        ("deberta_jax/model/encoder.py", "def f():\n    from deberta_jax.data import masking"),
        ("deberta_jax/train/loop.py", "from deberta_jax.tools import prepare"),
        ("deberta_jax/train/loop.py", "from deberta_jax import load_pretrained"),
        ("deberta_jax/train/loop.py", "from configs import sizes"),
        ("deberta_jax/errors.py", "from deberta_jax.config import require"),
        ("deberta_jax/data/packing.py", "import jax.numpy as jnp"),
        ("deberta_jax/tokenizers/spm.py", "def f():\n    import flax"),
        ("deberta_jax/data/packing.py", "from . import masking"),
        ("deberta_jax/data/documents.py", "import tensorflow_datasets as tfds"),
        ("deberta_jax/convert/names.py", "if True:\n    import torch"),
        ("deberta_jax/dist/mesh.py", "from jax._src import mesh"),
        ("deberta_jax/dist/mesh.py", "from jax import _src"),
        ("deberta_jax/dist/mesh.py", "import jax\nx = jax._src.mesh"),
        ("deberta_jax/dist/mesh.py", "from jax.experimental.shard_map import shard_map"),
        ("deberta_jax/dist/mesh.py", "from jax.experimental import pjit"),
        ("deberta_jax/dist/mesh.py", "from jax import experimental"),
        ("deberta_jax/dist/mesh.py", "import jax\nx = jax.experimental.pjit.pjit"),
        ("configs/mlm.py", "import jax"),
        ("configs/mlm.py", "from deberta_jax.config import build"),
        ("tests/test_mesh.py", "import jax._src.mesh"),
    ],
)
def test_a_planted_violation_is_found(path, source):
    assert wrong_imports(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("deberta_jax/ops/buckets.py", "import numpy as np\nfrom deberta_jax.errors import Refused"),
        ("deberta_jax/ops/attention.py", "from deberta_jax.ops import buckets\nfrom deberta_jax.ops.buckets import f"),
        (
            "deberta_jax/ops/attention.py",
            "from jax.experimental import pallas as pl\nimport jax.experimental.pallas.tpu",
        ),
        ("deberta_jax/model/encoder.py", "import flax.linen as nn\nfrom deberta_jax import dist, ops"),
        ("deberta_jax/data/documents.py", "def f():\n    import tensorflow_datasets as tfds"),
        ("deberta_jax/data/documents.py", "class A:\n    def f(self):\n        import tensorflow_datasets"),
        ("deberta_jax/tools/prepare.py", "import jax\nfrom deberta_jax.train import loop"),
        ("configs/mlm.py", "import ml_collections\nfrom configs import sizes"),
        ("train.py", "from deberta_jax.train import loop"),
    ],
)
def test_what_is_allowed_is_not_refused(path, source):
    assert wrong_imports(path, source) == []
