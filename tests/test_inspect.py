"""tools.inspect: what checkpoints hold, and how parameters would be split."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from builders import LEXICON, tiny_config
from configs import meshes
from deberta_jax import config as configs
from deberta_jax.errors import run
from deberta_jax.tools import inspect
from deberta_jax.train import listing
from deberta_jax.train.build import build_run
from deberta_jax.train.checkpoint import Checkpoints
from deberta_jax.train.session import BEST, CHECKPOINTS
from runs import ROOT

GOLDEN = Path(__file__).parent / "golden"
MESH = (("data", 2), ("fsdp", 2), ("tensor", 2))


@pytest.fixture
def inspected(capsys, monkeypatch):
    """flags -> (exit code, lines of output, the complaint)."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # which the command sets, and is then set back

    def inspected(*flags):
        code = run(inspect.main, [str(flag) for flag in flags])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return inspected


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run over (2, 2, 2) devices: step 9 is damaged, 6 and 3 are good, 12 was never completed."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    config = dataclasses.replace(tiny_config(), mesh=MESH, rules=meshes.fsdp_tp)
    abstract = build_run(config, LEXICON).abstract
    state = jax.tree.map(lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract)
    with Checkpoints(path / CHECKPOINTS, config.checkpoint, lambda: 0.0) as saves:
        for step in (3, 6, 9):
            saves.save(step, state, {})
        saves.wait()
    (path / "config.json").write_text(json.dumps(configs.to_dict(config)))
    (path / CHECKPOINTS / "9" / "digest.json").write_text("{}")
    (path / CHECKPOINTS / "12").mkdir()
    return path


def row(lines, name):
    (line,) = [line.split() for line in lines if line.split()[:1] == [name]]
    return line[1:]


def test_a_workdir_is_shown_with_its_config_its_checkpoints_and_its_parameters(inspected, workdir):
    code, lines, _ = inspected(workdir)
    assert code == 0
    assert lines[0] == f"{workdir}: mlm, 10 steps of 16 rows, seed 0"
    assert lines[1] == "  model: 3 layers of 32, 2 heads of 16, 100 ids, decoder emd, float32"
    assert lines[2] == "  mesh data 2 x fsdp 2 x tensor 2, across slices data -1 x fsdp 1 x tensor 1"
    assert lines[3] == "checkpoints/12: damaged, it was never completed"
    assert lines[4].startswith("checkpoints/9: damaged, ") and lines[4].endswith("is missing or changed")
    assert lines[5:7] == ["checkpoints/6: good", "checkpoints/3: good"]
    assert lines[7:10] == ["", "parameters of checkpoints/6", "saved from mesh data 2 x fsdp 2 x tensor 2"]
    assert lines[10].split() == ["name", "shape", "dtype", "bytes", "split", "by"]
    assert row(lines, "encoder/embeddings/word") == ["128x32", "float32", "16,384", "tensor", "fsdp"]
    assert row(lines, "encoder/blocks/mlp_in/kernel") == ["2x32x48", "float32", "12,288", "-", "fsdp", "tensor"]
    parameters = build_run(tiny_config(), LEXICON).abstract.params
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    assert lines[-1] == f"{count:,} parameters, {4 * count:,} bytes; beside them {8 * count + 12:,} bytes"
    assert len(lines) == 12 + len(jax.tree.leaves(parameters))


def test_the_best_of_a_fine_tuned_run_come_first(inspected, workdir, tmp_path):
    copy = tmp_path / "tuned"
    (copy / BEST).mkdir(parents=True)
    (copy / "config.json").write_text((workdir / "config.json").read_text())
    (copy / BEST / "3").symlink_to(workdir / CHECKPOINTS / "3")
    (copy / CHECKPOINTS).symlink_to(workdir / CHECKPOINTS)
    assert "parameters of best/3" in inspected(copy)[1]


def test_a_run_without_a_good_checkpoint_is_no_error(inspected, workdir, tmp_path):
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    code, lines, _ = inspected(tmp_path)
    assert code == 0 and lines[-1] == "no good checkpoint"


def test_a_wrong_path_is_refused_with_the_nearest(inspected, workdir):
    code, _, said = inspected(workdir.parent / "tinny")
    assert code == 2 and f"{workdir.parent / 'tinny'} does not exist, did you mean 'tiny'?" in said
    code, _, said = inspected(workdir.parent.with_name(workdir.parent.name + "x") / "tiny")
    assert code == 2 and f"{workdir.parent}x does not exist, did you mean '{workdir.parent.name}'?" in said
    code, _, said = inspected(workdir / CHECKPOINTS / "6")
    assert code == 2 and f"no workdir, it has no config.json, did you mean '{workdir}'?" in said


TINY = ("--config=configs/mlm.py:tiny,fsdp_tp", "--config.mesh=(('data',-1),('fsdp',4),('tensor',2))")


def test_a_config_is_shown_on_devices_that_are_not_there(inspected):
    code, lines, _ = inspected(*TINY, "--devices=64", "--slices=2")
    assert code == 0
    assert lines[0] == "configs/mlm.py:tiny,fsdp_tp on 64 devices, mesh data 8 x fsdp 4 x tensor 2"
    assert row(lines, "encoder/embeddings/word") == ["4224x128", "tensor", "fsdp", "2,162,688", "270,336"]
    assert row(lines, "encoder/blocks/attention/key/bias") == ["2x2x64", "-", "tensor", "-", "1,024", "512"]
    assert lines[-2].endswith("; 0.00% are whole on every device")
    params, state = (
        int(line.split(" on a device")[0].split()[at].replace(",", ""))
        for line, at in zip(lines[-2:], (-1, -2), strict=True)
    )
    assert state == 3 * params + 12  # two moments; step, skipped steps and Adam's count


@pytest.mark.parametrize(
    ("more", "devices"),
    [((), 8), (("--devices=16",), 16), (("--config.mesh=(('data',1),('fsdp',1),('tensor',1))",), 1)],
)
def test_without_their_number_the_devices_are_those_of_the_mesh(inspected, more, devices):
    assert f"on {devices} devices" in inspected(*TINY, *more)[1][0]


def test_on_one_device_and_with_dp_everything_is_whole(inspected):
    lines = inspected("--config=configs/mlm.py:tiny", "--devices=8")[1]
    assert lines[-2].endswith("; 100.00% are whole on every device")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "give a WORKDIR, or --config"),
        (("--device=8",), "unknown flag --device, did you mean '--devices'"),
        ((*TINY, "--devices=12"), "mesh {'data': -1, 'fsdp': 4, 'tensor': 2} does not cover 12 devices"),
        ((*TINY, "--config.mesh=(('data',1),('fsdp',1),('tensor',4))"), "key/bias has an axis of 2, which the mesh"),
        ((*TINY, "--config.rules=(('embd','fsdp'),)"), "unknown logical axis 'embd', did you mean 'embed'"),
        ((*TINY, "--devices=0"), "argument --devices: must be at least 1, got 0"),
        ((*TINY, "--devices=8", "--slices=0"), "argument --slices: must be at least 1, got 0"),
        ((".", "--devices=8"), "to see how . would be split give --config=./config.json in its place"),
        (("--config=configs/finetune.py:cola,v3_base", "--config.data.dir=x"), "splits are listed for pretraining"),
    ],
)
def test_what_makes_no_sense_is_refused(inspected, given, said):
    code, _, complaint = inspected(*given)
    assert code == 2 and said in complaint


def test_tables_are_aligned_and_numbers_of_bytes_to_the_right():
    lines = list(listing.table(("name", "bytes"), [("a", "1,000"), ("longer", "5")]))
    assert lines == ["name    bytes", "a       1,000", "longer      5"]


def test_splits_name_every_axis():
    assert listing.split_text(("tensor", None, ("data", "fsdp")), 4) == "tensor - data+fsdp -"
    assert listing.split_text((), 0) == ""


CASES = {
    "shardings_v3_base_fsdp": (
        "--config=configs/mlm.py:v3_base,fsdp",
        "--config.mesh=(('data',2),('fsdp',8),('tensor',1))",
    ),
    "shardings_v2_xxlarge_fsdp_tp": (
        "--config=configs/mlm.py:v2_xxlarge,fsdp_tp",
        "--config.mesh=(('data',2),('fsdp',16),('tensor',4))",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_published_sizes_are_split_as_ever(inspected, name):
    lines = inspected(*CASES[name])[1]
    refresh = shlex.join(["python", "-m", "deberta_jax.tools.inspect", *CASES[name]])
    assert lines == (GOLDEN / f"{name}.txt").read_text().splitlines(), (
        f"if it is meant: {refresh} > tests/golden/{name}.txt"
    )


def test_no_accelerator_is_looked_for():
    """With a platform that is not there in the environment, a process of its own answers all the same."""
    command = [sys.executable, "-m", "deberta_jax.tools.inspect", *TINY]
    environment = {"PATH": "/usr/bin", "JAX_PLATFORMS": "tpu"}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "mesh data 1 x fsdp 4 x tensor 2" in found.stdout
