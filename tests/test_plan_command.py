"""tools.plan as users call it: in a process of its own, since it decides how many devices there are."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deberta_jax import errors
from deberta_jax.tools import plan as command

ROOT = Path(__file__).parent.parent
SMALL = ["--config.model.num_layers=3", "--config.batch_size=64", "--config.eval.batch_size=64"]


def plan(*flags: str, program=("-m", "deberta_jax.tools.plan")) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    started = [sys.executable, *program, *flags]
    return subprocess.run(started, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


WITHOUT_COMPILER = (  # the same command where libtpu is not installed
    "import importlib.util, sys;"
    "found = importlib.util.find_spec;"
    "importlib.util.find_spec = lambda name, *rest: None if name == 'libtpu' else found(name, *rest);"
    "from deberta_jax import errors; from deberta_jax.tools import plan;"
    "sys.exit(errors.run(plan.main, sys.argv[1:]))"
)


def test_without_the_compiler_arithmetic_alone_and_it_says_so(tmp_path):
    flags = [
        "--config=configs/rtd.py:v3_small,fsdp",
        "--topology=v5e:4x4",
        *SMALL[1:],
        f"--json={tmp_path / 'plan.json'}",
    ]
    mesh = "--config.mesh=(('data',2),('fsdp',8),('tensor',1))"
    done = plan(*flags, mesh, program=("-c", WITHOUT_COMPILER))
    assert done.returncode == 0, done.stderr
    assert "unknown without the TPU compiler" in done.stdout
    assert "128,100: of the published table" in done.stdout
    values = json.loads((tmp_path / "plan.json").read_text())
    assert values["configured"] is None
    assert values["mesh"] == {"data": 2, "fsdp": 8, "tensor": 1}
    # Nearly all of it is split in eight: 4 bytes a parameter, and 8 of the optimizer.
    eighth = values["parameter_count"] / 8
    assert 4 * eighth < values["state"]["parameters"] < 4.1 * eighth
    assert 8 * eighth < values["state"]["optimizer"] < 8.2 * eighth


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology=v5q:4x4"], "unknown chip"),
        (["--topology=v5e:4x4", "--config.data.paths=nowhere"], "nowhere"),
        (["--topology=v5e:4x4", "--json=nowhere/plan.json"], "folder nowhere does not exist"),
        (["--topology=v5e:4x4", "--slices=0"], "argument --slices: must be at least 1, got 0"),
        (["--topology=v5e:4x4", "--length=-5"], "argument --length: must be at least 1, got -5"),
        (["--topologie=v5e:4x4"], "did you mean '--topology'"),
    ],
)
def test_mistakes_are_refused_in_one_line(flags, said, capsys):
    assert errors.run(command.main, ["--config=configs/mlm.py:v3_small", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_task_has_no_plan():
    with pytest.raises(errors.Refused, match="pretraining"):
        command.main(["--config=configs/finetune.py:mnli", "--config.data.dir=glue", "--topology=v5e:4x4"])


@pytest.mark.libtpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler")
class TestWithTheCompiler:
    def test_a_run_that_fits(self, tmp_path):
        done = plan(
            "--config=configs/mlm.py:v3_small", "--topology=v5e:2x4", *SMALL, f"--json={tmp_path / 'plan.json'}"
        )
        assert done.returncode == 0, done.stderr
        values = json.loads((tmp_path / "plan.json").read_text())
        point, largest = values["configured"], values["largest"]
        assert point["fits"] and largest["rows"] > point["rows"] == 8
        # The gradients of all parameters are added over the chips, most in float32.
        assert 2 < point["collectives"]["all-reduce"]["bytes"] / values["parameter_count"] < 8
        assert point["unknown_loops"] == []
        assert len(point["buffers"]) == 5 and point["buffers"][0]["shape"] == "f32[128128,768]"
        assert 0 < point["mfu"] < 1
        assert "modelled" in done.stdout and "Largest batch that fits" in done.stdout

    def test_one_that_does_not_exits_with_3_and_advice(self):
        done = plan("--config=configs/mlm.py:v3_small", "--topology=v5e:2x4", *SMALL[:1], "--config.batch_size=2048")
        assert done.returncode == 3
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("doesnotfit: ") and "GiB more" in last and "remat" in last and "fit" in last
