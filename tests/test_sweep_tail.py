"""The end of a metrics file that is being written."""

import json

import pytest

from deberta_jax.sweep.tail import BYTES, last_line


@pytest.fixture
def run(tmp_path):
    """A run that is being written: its last line is half of one; a loss was no number."""
    rows = [{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0, "eval/accuracy": 0.5}, {"step": 3, "loss": None}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(lines + '{"step": 4, "lo')
    return tmp_path


def test_the_last_line_with_a_number(run):
    assert last_line(run, "loss") == {"step": 2, "loss": 4.0, "eval/accuracy": 0.5}
    assert last_line(run, "step") == {"step": 3, "loss": None}
    assert last_line(run, "accuracy") == {}


def test_damaged_lines_are_passed_over(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(bytes(9) + b"\n7\n\xff\n")
    assert last_line(run, "loss")["step"] == 2


def test_a_run_without_numbers_has_none(tmp_path):
    assert last_line(tmp_path, "loss") == {}
    (tmp_path / "metrics.jsonl").write_text("")
    assert last_line(tmp_path, "loss") == {}


@pytest.mark.parametrize("shift", range(25))
def test_the_end_of_a_long_file_is_enough_wherever_it_is_cut(shift, tmp_path):
    lines = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1000, 9000))
    assert len(lines) > BYTES
    (tmp_path / "metrics.jsonl").write_text(" " * shift + lines)
    assert last_line(tmp_path, "loss")["step"] == 8999
    assert last_line(tmp_path, "eval/loss") == {}
