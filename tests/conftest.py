"""Eight simulated devices, strict shapes, and a small tokenizer trained on made-up text.

The environment is set before anything imports jax; processes that tests start inherit it.
"""

import os
import signal

# pytest-xdist's workers ignore Ctrl-C, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # not for the tests; `runs.start` does for what it starts
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools  # noqa: E402
import itertools  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from deberta_jax.tokenizers.train import train_unigram  # noqa: E402
from runs import prepare_rows, start  # noqa: E402

PIECES = 600


def made_up_words(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct pronounceable words of one to four syllables, the shortest first, as frequent words are."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", ["a", "e", "i", "o", "u", "an", "or"])]
    words = {"".join(rng.choice(syllables, size=1 + index * 4 // count)): None for index in range(count)}
    return sorted(words, key=len)


def made_up_sentence(words: list[str], rng: np.random.Generator) -> str:
    """Words drawn as in language: the n-th most frequent in proportion to 1/n."""
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, size=rng.integers(4, 20), p=share / share.sum())
    return " ".join(drawn).capitalize() + "."


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """300 different made-up documents of one to thirty sentences, a few hundred kilobytes, always the same."""
    rng = np.random.default_rng(0)
    words = made_up_words(2000, rng)
    return [" ".join(made_up_sentence(words, rng) for _ in range(rng.integers(1, 31))) for _ in range(300)]


@pytest.fixture(scope="session")
def spm_dir(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as tools.train_tokenizer leaves it: 600 pieces, specials included, [MASK] not."""
    directory = tmp_path_factory.mktemp("tokenizer")
    settings = {"vocab_size": PIECES, "byte_fallback": False, "character_coverage": 1.0, "max_sentences": 0}
    (directory / "spm.model").write_bytes(train_unigram(documents, **settings))
    (directory / "tokenizer_settings.json").write_text(json.dumps(settings))
    return directory


@pytest.fixture(scope="session")
def prepared(documents: list[str], spm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as rows of 32 tokens, a tenth of them held out."""
    output = tmp_path_factory.mktemp("prepared") / "rows"
    prepare_rows(documents, spm_dir, output, length=32, holdout=0.1)
    return output


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.Popen]:
    """`runs.start` for processes that share one compilation cache: of equal programs only the first compiles."""
    return functools.partial(start, cache=tmp_path_factory.mktemp("compiled"))
