"""The Python in the README runs as it stands, in a directory that holds a model of the name it gives."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from deberta_jax.convert.weights import write_weights
from deberta_jax.tokenizers import load_tokenizer
from hf_directories import make_directory

ROOT = Path(__file__).parent.parent


def test_three_lines_load_a_directory_encode_a_sentence_and_print_logits(spm_dir, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) == 3
    (name,) = set(re.findall(r'\("([\w-]+)"', code)) - {"params"}
    directory = make_directory(tmp_path / name, "v3", "mlm", vocab_size=620)
    both = load_file(make_directory(tmp_path / "rtd", "v3", "rtd", vocab_size=620) / "model.safetensors")
    write_weights(directory / "model.safetensors", both | load_file(directory / "model.safetensors"))
    shutil.copy(spm_dir / "spm.model", directory)
    printed = "import numpy; numpy.set_printoptions(threshold=10**9)\n" + code  # every logit, not three dots
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", printed]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    numbers = np.array(re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", ended.stdout), float)
    tokens = len(load_tokenizer(directory).encode("Paris is the capital of France.").ids)
    assert numbers.size == tokens * 620
    assert np.isfinite(numbers).all() and numbers.std() > 0.1
