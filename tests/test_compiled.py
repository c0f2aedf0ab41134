import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import zstandard

from deberta_jax.train.compiled import CHECKED, is_whole, keep_compiled, tidy, user_folder
from runs import ROOT

PLENTY = 1 << 30
BROKEN = {
    "nothing": lambda entry: b"",
    "its first bytes": lambda entry: entry[:3],
    "half of it": lambda entry: entry[: len(entry) // 2],
    "all but a byte": lambda entry: entry[:-1],
    "zeros": lambda entry: bytes(len(entry)),
}


def packed(size: int = 300_000) -> bytes:
    return zstandard.ZstdCompressor().compress(os.urandom(size))


def entry(folder: Path, name: str, content: bytes, used: float = 0.0) -> Path:
    """An entry that was written and last used so many seconds ago."""
    path = folder / f"jit_{name}-0123-cache"
    path.write_bytes(content)
    os.utime(path, (time.time() - used, time.time() - used))
    return path


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_a_killed_process_left_is_deleted_and_nothing_else(broken, tmp_path):
    whole, half = packed(), entry(tmp_path, "half", broken(packed()))
    kept = [entry(tmp_path, "step", whole), tmp_path / "note.txt"]
    kept[1].write_bytes(broken(whole))
    assert is_whole(kept[0]) and not is_whole(half)
    tidy(tmp_path, PLENTY)
    assert set(tmp_path.iterdir()) == {*kept, tmp_path / CHECKED}


def test_what_was_written_before_the_last_check_is_not_read_again(tmp_path):
    old = entry(tmp_path, "old", b"", used=60)
    (tmp_path / CHECKED).touch()
    new = entry(tmp_path, "new", b"", used=-60)
    tidy(tmp_path, PLENTY)
    assert old.exists() and not new.exists()


def test_the_longest_unused_entries_go_when_they_are_too_large_together(tmp_path):
    days = (3, 1, 4, 2)
    entries = {day: entry(tmp_path, f"day{day}", packed(1000), used=86400 * day) for day in days}
    size = entries[1].stat().st_size
    tidy(tmp_path, 3 * size - 1)
    assert {day for day, path in entries.items() if path.exists()} == {1, 2}


def test_what_was_used_lately_stays_though_it_is_old(tmp_path):
    one, other = (entry(tmp_path, name, packed(1000), used=86400 * 9) for name in ("one", "other"))
    os.utime(one, (time.time(), one.stat().st_mtime))
    tidy(tmp_path, one.stat().st_size)
    assert one.exists() and not other.exists()


def test_programs_are_kept_in_the_users_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert user_folder() == Path("/caches/deberta_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert user_folder() == Path("/home/somebody/.cache/deberta_jax")


def test_who_wants_no_cache_gets_none(tmp_path, monkeypatch, caplog):
    """As this process, see conftest.py."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert not caplog.messages and not any(tmp_path.iterdir())


def test_without_a_place_to_write_nothing_is_kept_and_the_run_goes_on(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_enable_compilation_cache", True)
    try:
        keep_compiled()
    finally:
        jax.config.update("jax_enable_compilation_cache", False)
    assert jax.config.jax_compilation_cache_dir is None
    (line,) = caplog.messages
    assert line.startswith("compiled programs are not kept, every start compiles anew: ") and "file" in line


PROGRAM = """
import json, sys
import jax
from deberta_jax.train.compiled import keep_compiled
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
keep_compiled()
for factor in (2, 3):
    jax.jit(lambda x: x * factor + 1)(1.0)
print(json.dumps({name: events.count(name) for name in ("cache_hits", "cache_misses")}))
"""


def run_program(tmp_path: Path, **environment: str) -> dict[str, int]:
    """How many programs were found and how many were compiled in a process where every warning is an error."""
    here = {"XDG_CACHE_HOME": str(tmp_path), "JAX_ENABLE_COMPILATION_CACHE": "true", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env=os.environ | here | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.two_process
def test_a_second_start_compiles_nothing_and_a_broken_entry_is_written_again(tmp_path):
    first = run_program(tmp_path)
    assert first["cache_hits"] == 0 and first["cache_misses"] >= 2
    broken = next((tmp_path / "deberta_jax").glob("jit__lambda*-cache"))
    os.truncate(broken, broken.stat().st_size // 2)
    assert run_program(tmp_path) == {"cache_hits": first["cache_misses"] - 1, "cache_misses": 1}
    assert run_program(tmp_path) == {"cache_hits": first["cache_misses"], "cache_misses": 0}


@pytest.mark.two_process
def test_the_users_own_folder_is_used_and_what_is_broken_in_it_ends_no_run(tmp_path):
    own = tmp_path / "own"
    here = {"JAX_COMPILATION_CACHE_DIR": str(own), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = run_program(tmp_path, **here)
    entries = list(own.glob("*-cache"))
    assert len(entries) == first["cache_misses"] and not (tmp_path / "deberta_jax").exists()
    os.truncate(entries[0], 0)
    assert run_program(tmp_path, **here)["cache_hits"] == first["cache_misses"] - 1
    assert entries[0].exists()
