import json

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.reports.series import Series, read_series


def written(path, *lines, rest=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)
    return path


def test_every_number_stands_at_its_step_and_null_is_nan(tmp_path):
    path = written(
        tmp_path / "metrics.jsonl",
        {"step": 1, "loss": 3},
        {"step": 2, "loss": None, "samples": "Paris\nRome"},
        {"step": 2, "eval/loss": 2.5},
        rest='{"step": 3, "loss": 1',
    )
    found = read_series(path)
    assert found.keys() == {"step", "loss", "eval/loss"}
    np.testing.assert_array_equal(found["loss"].steps, [1, 2])
    np.testing.assert_array_equal(found["loss"].values, [3, np.nan])
    np.testing.assert_array_equal(found["eval/loss"].values, [2.5])


def test_an_empty_file_has_no_series(tmp_path):
    assert read_series(written(tmp_path / "metrics.jsonl")) == {}


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "1"}', ""])
def test_a_line_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2}}\n{line}\n{{"step": 2, "loss": 2}}\n')
    with pytest.raises(Refused, match=r"metrics\.jsonl line 2 is no JSON object with a step: "):
        read_series(path)


def test_what_is_no_number_can_be_left_out():
    finite = Series(np.array([1, 2, 3, 4]), np.array([1.0, np.nan, np.inf, 4.0])).finite()
    np.testing.assert_array_equal(finite.steps, [1, 4])
    np.testing.assert_array_equal(finite.values, [1.0, 4.0])
