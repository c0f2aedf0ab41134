import os
import subprocess
import sys
from pathlib import Path

import pytest

from deberta_jax.train.hidden import hidden

ROOT = Path(__file__).parent.parent
HEAVY = ("tensorflow", "torch", "transformers", "matplotlib", "pyarrow")


def test_a_hidden_package_is_not_found_and_found_again_afterwards(tmp_path, monkeypatch):
    (tmp_path / "seldom_imported.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError), hidden("seldom_imported"):
        import seldom_imported
    import seldom_imported  # noqa: F811

    assert seldom_imported.__file__ == str(tmp_path / "seldom_imported.py")
    with hidden("seldom_imported"):
        import seldom_imported as again  # what somebody has imported is theirs
    assert again is seldom_imported
    assert sys.modules.pop("seldom_imported") is seldom_imported


def test_training_starts_without_other_frameworks_and_what_draws_and_reads_documents(tmp_path):
    """Each of them is installed and would announce its import."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(f"print('imported {name}')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "from deberta_jax.train import finetune, pretrain; import torch"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "imported torch\n"  # by the test itself
