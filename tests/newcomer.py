"""A newcomer's folder: the repository's programs beside small files of the names that the pages use.

The pages are read in their order and each command is done as it stands, so a page may go on with what one before it
left; what was done on a page before is not done again. The one change is that train.py is tests/short_train.py. The
newcomer has installed requirements.txt and no more, and has brought along

text/              two files of made-up words, enough for 16,000 pieces
deberta-v3-base/   as if downloaded: a masked language model of v3's layout, its sizes those of tests/short_train.py
glue/MRPC/         its three files, 24 rows each
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from hf_directories import make_directory
from pages import blocks_in, pages
from runs import PATIENCE, ROOT
from short_train import MODEL
from xla_flags import FAST_TO_COMPILE

THEIRS = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}  # in config.json
LINKED = ("benchmarks", "configs", "deberta_jax", "docs", "eval.py", "launch", "Makefile")


class Newcomer:
    """Has read no page yet. `failures` of a page that was read: what did not work, in the words of the shell."""

    def __init__(self, folder: Path, cache: Path, spm_dir: Path):
        self.folder, self.cache = folder, cache
        self.failures: dict[Path, list[str]] = {}
        self._done: set[str] = set()
        furnish(folder, spm_dir)

    def read_until(self, page: Path) -> list[str]:
        """Reads the pages up to this one, those that were not read before; returns the failures of this one."""
        order = pages()
        for before in order[: order.index(page) + 1]:
            if before not in self.failures:
                self.failures[before] = [said for command in to_do(before.read_text()) if (said := self._do(command))]
        return self.failures[page]

    def _do(self, command: list[str]) -> str:
        """What to say of a command that failed, empty if it did not."""
        if command[-1] in self._done:
            return ""
        self._done.add(command[-1])
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        return f"{command[-1]}\nended with {done.returncode}:\n{done.stderr[-3000:]}" if done.returncode else ""

    def _environment(self) -> dict[str, str]:
        """One device, one cache of compiled programs for all, and this Python, without PyTorch, as `python`."""
        own = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "absent"),
            "XLA_FLAGS": FAST_TO_COMPILE,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "XDG_CACHE_HOME": str(self.cache),
            "JAX_NUMPY_RANK_PROMOTION": "allow",  # as anywhere but in our tests
        }
        return os.environ | own


def to_do(text: str) -> list[list[str]]:
    """What a page says to do and needs nothing for: each line of commands, then its Python in one process."""
    blocks = [block for block in blocks_in(text) if not block.needs]
    lines = "".join(block.text for block in blocks if block.language == "bash").replace("\\\n", " ").splitlines()
    commands = (re.sub(r"\s+", " ", re.sub(r"(^|\s)#.*", "", line)).strip() for line in lines)
    done = [["bash", "-euo", "pipefail", "-c", command] for command in commands if command]
    python = "\n".join(block.text for block in blocks if block.language == "python")
    return done + ([["python", "-c", python]] if python else [])


def furnish(folder: Path, spm_dir: Path) -> None:
    """Puts in place what the newcomer has."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "train.py").symlink_to(ROOT / "tests" / "short_train.py")
    for name in ("bin", "absent"):
        (folder / name).mkdir()
    (folder / "absent" / "torch.py").write_text("raise ImportError('not in requirements.txt')\n")
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')  # a link would lose the virtual environment
    python.chmod(0o755)
    rng = np.random.default_rng(0)
    words = many_words(rng)
    write_text(folder / "text", words, rng)
    write_mrpc(folder / "glue" / "MRPC", words, rng)
    sizes = {THEIRS.get(key, key): value for key, value in MODEL.items()}
    sizes |= {"vocab_size": 1_000, "max_position_embeddings": 512, "attention_head_size": 16}
    shutil.copy(spm_dir / "spm.model", make_directory(folder / "deberta-v3-base", "v3", "mlm", **sizes))


def many_words(rng: np.random.Generator) -> np.ndarray:
    """40,000 made-up words: text of them has far more pieces than 16,000."""
    vowels = ["a", "e", "i", "o", "u", "an", "or", "is"]
    syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnprstvwxz", vowels)]
    drawn = zip(rng.choice(syllables, (40_000, 4)), rng.integers(2, 5, 40_000), strict=True)
    return np.array(["".join(some[:size]) for some, size in drawn])


def write_text(folder: Path, words: np.ndarray, rng: np.random.Generator) -> None:
    """Two files of 600 short documents each, separated by blank lines: of 0.5 % some are held out."""
    folder.mkdir()
    for name in ("first.txt", "second.txt"):
        documents = (". ".join(" ".join(rng.choice(words, 10)) for _ in range(4)) + "." for _ in range(600))
        (folder / name).write_text("\n\n".join(documents) + "\n")


def write_mrpc(folder: Path, words: np.ndarray, rng: np.random.Generator) -> None:
    """train.tsv, dev.tsv, and test.tsv, which has numbers in place of labels."""
    folder.mkdir(parents=True)
    for name, first in (("train", "Quality"), ("dev", "Quality"), ("test", "index")):
        pairs = ("\t".join(" ".join(rng.choice(words, 4)) for _ in range(2)) for _ in range(24))
        rows = [f"{number % 2}\t{number}\t{number}\t{pair}" for number, pair in enumerate(pairs)]
        (folder / f"{name}.tsv").write_text("\n".join([f"{first}\t#1 ID\t#2 ID\t#1 String\t#2 String", *rows]) + "\n")
