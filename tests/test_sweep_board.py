"""What a sweep shows while it runs, on a screen and in a log."""

import contextlib
import fcntl
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from deberta_jax.sweep.board import Board
from deberta_jax.sweep.process import LOCK
from deberta_jax.sweep.trial import Record, Trial, write_record

LONG = "refused: no file " + 30 * "very/" + "long.txt"  # than the screen is wide
NAMES = ("one[bold]", "two", "three", "four", "five")


@pytest.fixture
def sweep(tmp_path):
    """Five trials: done, failed, one that runs, one whose process is gone, one that waits."""
    states = {
        "one[bold]": ("done", ""),
        "two": ("failed", LONG),
        "three": ("running", ""),
        "four": ("running", ""),
    }
    for name, (state, error) in states.items():
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, Record(state, None, error, None, []))
    rows = [{"step": 1200, "loss": 2.34567, "tokens_per_second": 1500.4}, {"step": 1200, "eval/loss": 2.5}]
    (tmp_path / "three" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (tmp_path / "three" / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    with contextlib.suppress(OSError), open("/dev/full", "w") as file:  # what it holds back fails again at its end
        yield file


def board(workdir: Path, screen: io.StringIO, height: int | None) -> Board:
    trials = [Trial(name, {}, ()) for name in NAMES]
    console = Console(file=screen, force_terminal=height is not None, width=100, height=height, color_system=None)
    return Board(trials, workdir, [0, 5000, 5000, 5000, 5000], "eval/loss", console)


def test_a_log_gets_a_line_for_each_change(sweep):
    screen = io.StringIO()
    with board(sweep, screen, None) as shown:
        shown.show()
        shown.show()
        assert screen.getvalue().splitlines() == [
            "[2/5] one[bold]: done",
            f"[2/5] two: failed, {LONG}",
            "[2/5] three: running",
        ]
        write_record(sweep / "three", Record("stopped", 75, "stopped: x", 1.0, []))
    assert screen.getvalue().splitlines()[3:] == ["[2/5] three: stopped, stopped: x"]


def rows_of(screen: str) -> dict[str, list[str]]:
    """Cells of the last table that was drawn, by name."""
    last = screen[screen.rindex("tokens/s") :]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in last.splitlines() if line.startswith("│")]
    return {name: rest for name, *rest in cells}


def test_a_screen_gets_a_table(sweep):
    screen = io.StringIO()
    with board(sweep, screen, 40) as shown:
        shown.show()
        found = rows_of(screen.getvalue())
    assert list(found) == ["three", "two", "one[bold]", "four", "five"]  # what one looks for comes first
    assert found["three"] == ["running", "1,200/5,000", "2.346", "2.5", "1500"]
    assert found["two"] == ["failed", "", "", "", ""]
    assert found["four"] == found["five"] == ["waiting", "", "", "", ""]


def test_a_small_screen_shows_what_runs(sweep):
    screen = io.StringIO()
    with board(sweep, screen, 8) as shown:
        shown.show()
        assert list(rows_of(screen.getvalue())) == ["three", "two"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_screen_that_cannot_be_written_ends_nothing_and_is_told_afterwards(terminal, sweep, full_disk):
    trials = [Trial(name, {}, ()) for name in NAMES]
    console = Console(file=full_disk, force_terminal=terminal, width=100, height=40)
    with Board(trials, sweep, [0] * 5, "eval/loss", console) as shown:
        shown.show()
        shown.show()
    assert shown.fault.startswith("the table of trials could not be shown: No space left on device: ")
    console.file = io.StringIO()
    shown.show()
    assert shown.fault == ""  # it was for a moment
