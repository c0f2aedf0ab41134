"""Eight simulated devices, strict shapes, and a small tokenizer trained on made-up text.

The environment is set before anything imports jax; processes that tests start inherit it.
"""

import gc
import importlib.util
import os
import signal

from xla_flags import FAST_TO_COMPILE

# pytest-xdist's workers ignore Ctrl-C, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # not for the tests; `runs.start` does for what it starts
# The TPU's compiler ends a process that has flags of the CPU's, and would compile by those that it knows.
fast = "" if importlib.util.find_spec("libtpu") else FAST_TO_COMPILE
os.environ["XLA_FLAGS"] = f"{fast} --xla_force_host_platform_device_count=8"

# A worker makes millions of objects that stay: by its defaults Python would look through them all for cycles again and
# again. What tests start has the defaults, as users have: what a failed save leaves behind complains when it is found.
gc.set_threshold(100_000, 20, 10)

import functools  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from made_up import made_up_documents, write_tokenizer  # noqa: E402
from runs import prepare_rows, start  # noqa: E402


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """300 different made-up documents of one to thirty sentences, a few hundred kilobytes, always the same."""
    return made_up_documents()


@pytest.fixture(scope="session")
def spm_dir(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as tools.train_tokenizer leaves it: 600 pieces, specials included, [MASK] not."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory, documents)
    return directory


@pytest.fixture(scope="session")
def prepared(documents: list[str], spm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as rows of 32 tokens, a tenth of them held out."""
    output = tmp_path_factory.mktemp("prepared") / "rows"
    prepare_rows(documents, spm_dir, output, length=32, holdout=0.1)
    return output


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled programs that processes share: of equal programs only the first compiles."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def launch(compiled: Path) -> Callable[..., subprocess.Popen]:
    """`runs.start` for processes that share one compilation cache."""
    return functools.partial(start, cache=compiled)
