import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "torch", "transformers", "jax")


@pytest.fixture
def planted(tmp_path):
    """An environment where every heavy package exists and announces its import."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(f"print('imported {name}')\n")
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_importing_the_package_imports_no_other_framework_and_not_yet_jax(planted, tmp_path):
    command = [sys.executable, "-c", "import deberta_jax"]
    ended = subprocess.run(command, env=planted, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == ""


def test_the_planted_packages_would_be_noticed(planted, tmp_path):
    command = [sys.executable, "-c", "import deberta_jax, torch"]
    ended = subprocess.run(command, env=planted, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "imported torch\n"


def test_training_starts_without_what_draws_and_what_reads_documents(tmp_path):
    """tensorboardX brings PyTorch in where that is installed."""
    for name in ("tensorflow", "transformers", "matplotlib", "pyarrow"):
        (tmp_path / f"{name}.py").write_text(f"print('imported {name}')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "from deberta_jax.train import finetune, pretrain; import matplotlib"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "imported matplotlib\n"  # by the test itself
