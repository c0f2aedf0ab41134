"""A run saved on eight devices goes on on one, two or four, in other meshes, as if it had stayed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from builders import LEXICON
from configs import meshes
from deberta_jax.data.prepared import read_manifest
from deberta_jax.train import checkpoint
from deberta_jax.train.build import Run, build_run, resolve
from deberta_jax.train.session import CHECKPOINTS
from runs import arrays, finish, metrics, tiny_config, tiny_flags

pytestmark = [pytest.mark.two_process, pytest.mark.slow]
EIGHT = {"mesh": (("data", 2), ("fsdp", 2), ("tensor", 2)), "rules": meshes.fsdp_tp}
OTHERS = {
    1: {"mesh": (("data", 1), ("fsdp", 1), ("tensor", 1)), "rules": meshes.dp},
    2: {"mesh": (("data", 1), ("fsdp", 2), ("tensor", 1)), "rules": meshes.fsdp},
    4: {"mesh": (("data", 1), ("fsdp", 1), ("tensor", 4)), "rules": meshes.fsdp_tp},
}
SMALL = {"model__num_layers": 1, "model__decoder": "none", "model__pos_att_type": ("c2p",)}  # to compile it four times
MODEL = SMALL | {"model__num_heads": 4, "eval__samples": 0, "eval__every": 0}
SAVED = 3  # of six steps


def trained(launch: Callable, prepared: Path, workdir: Path, devices: int, layout: dict) -> Path:
    """Trains to the end there; returns the notes of which rows each step was given."""
    notes = workdir.with_suffix(".notes")
    flags = [*tiny_flags(prepared, **MODEL, **layout), f"--workdir={workdir}"]
    done = finish(launch("tests/troubled_train.py", "SIGTERM", "never", str(notes), *flags, devices=devices))
    assert done.returncode == 0, done.stderr
    return notes


@pytest.fixture(scope="module")
def undisturbed(launch, prepared, tmp_path_factory) -> Path:
    """Six steps on eight devices."""
    workdir = tmp_path_factory.mktemp("eight") / "run"
    trained(launch, prepared, workdir, 8, EIGHT)
    return workdir


def run_on(devices: int, prepared: Path, layout: dict) -> Run:
    manifest = read_manifest(prepared)
    config = resolve(tiny_config(prepared, **MODEL, **layout), [manifest], manifest.length)
    return build_run(config, LEXICON, jax.devices()[:devices])


@pytest.mark.parametrize("devices", OTHERS)
def test_all_of_a_state_comes_back_bit_for_bit_wherever_it_is_placed(devices, undisturbed, prepared):
    run, directory = run_on(devices, prepared, OTHERS[devices]), undisturbed / CHECKPOINTS
    saved = arrays(directory, SAVED)
    restored = checkpoint.restore(directory, SAVED, run.abstract)
    params = checkpoint.restore_params(directory, SAVED, run.abstract.params)
    for found, wanted, placed in [
        (restored.params, saved["params"], run.abstract.params),
        (params, saved["params"], run.abstract.params),
        (restored.opt_state, saved["opt_state"], run.abstract.opt_state),
    ]:
        leaves = jax.tree.leaves(found)
        for leaf, other, shape in zip(leaves, jax.tree.leaves(wanted), jax.tree.leaves(placed), strict=True):
            np.testing.assert_array_equal(leaf, other)
            assert leaf.sharding == shape.sharding
    assert int(restored.step) == SAVED


@pytest.mark.parametrize("devices", OTHERS)
def test_the_next_batches_and_losses_are_those_of_the_run_that_stayed(devices, undisturbed, launch, prepared, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(workdir / CHECKPOINTS / "6")
    notes = trained(launch, prepared, workdir, devices, OTHERS[devices])
    stayed = undisturbed.with_suffix(".notes")
    given, wanted = ([json.loads(line) for line in file.read_text().splitlines()] for file in (notes, stayed))
    assert given == wanted[SAVED:]
    for line, other in zip(metrics(workdir), metrics(undisturbed), strict=True):
        assert line == pytest.approx(other, rel=1e-6, abs=1e-6)
