"""Compiled programs kept from start to start: jax's persistent compilation cache, and what it leaves to others.

jax never writes an entry again that is there. One that a killed process wrote by half would be read, found wanting and
compiled at every start; so such entries are deleted, and of all entries the longest unused when they grow too many.

They are code that is run as it is, so they are kept in the user's own cache folder and not beside a run, which may come
from elsewhere.
"""

import contextlib
import logging
import os
import warnings
from pathlib import Path

import jax
import zstandard

LARGEST = 2 << 30  # bytes that are kept; the step of a large model takes some ten million
FOLDER = "deberta_jax"  # in the user's cache folder
CHECKED = "checked"  # its time is that of the last check: an entry is written once
log = logging.getLogger(__name__)


def keep_compiled() -> None:
    """Lets this process read and keep compiled programs. To be called before anything is compiled.

    Of several processes each would need the same folder, and one that finds a program while others compile it may wait
    for them in vain: they use what JAX_COMPILATION_CACHE_DIR names. Nothing is deleted in a folder that it names.
    """
    # jax compiles what it cannot read, and goes on: a warning must not end a run where warnings are errors.
    warnings.filterwarnings("default", message="Error (reading|writing) persistent compilation cache entry")
    own = jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache
    if own or jax.distributed.is_initialized():
        return
    try:
        folder = user_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(folder, LARGEST)
    except (OSError, RuntimeError) as error:  # a home that cannot be written, or none at all
        log.warning("compiled programs are not kept, every start compiles anew: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs take seconds too


def user_folder() -> Path:
    """$XDG_CACHE_HOME/deberta_jax, or ~/.cache/deberta_jax. Raises RuntimeError where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / FOLDER


def tidy(folder: Path, largest: int) -> None:
    """Deletes entries that are not whole, and the longest unused beyond `largest` bytes. Raises OSError."""
    checked = folder / CHECKED
    last = checked.stat().st_mtime_ns if checked.exists() else 0
    checked.touch()  # before the check: what is written meanwhile is checked next time
    entries = []
    for path in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies too
            state = path.stat()
            if state.st_mtime_ns >= last and not is_whole(path):
                path.unlink()
            else:
                entries.append((max(state.st_atime_ns, state.st_mtime_ns), state.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= largest:
            break
        path.unlink(missing_ok=True)
        total -= size


def is_whole(entry: Path) -> bool:
    """Whether an entry of the cache can be unpacked to its end."""
    try:
        zstandard.ZstdDecompressor().decompress(entry.read_bytes())
    except zstandard.ZstdError:
        return False
    return True
