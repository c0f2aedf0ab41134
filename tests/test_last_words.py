import pytest

from deberta_jax import errors
from deberta_jax.reports.last_words import ending_of, error_in

TRACEBACK = "Traceback (most recent call last):\n  File x, line 1\n    f()\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", ""),
        ("step 1\rstep 2\n\n", "step 2"),
        (f"{TRACEBACK}ValueError: first\n{TRACEBACK}KeyError: 'b'\na note\n", "KeyError: 'b'"),
        (f"{TRACEBACK}ValueError: handled\nfailed: disk is full\n", "failed: disk is full"),
    ],
)
def test_the_line_that_says_why_is_found(log, error):
    assert error_in(log) == error


@pytest.mark.parametrize("kind", errors.RunError.__subclasses__())
def test_every_ending_that_a_run_says_is_known(kind):
    assert ending_of(errors.line_of(kind("why: because"))) == kind.__name__.lower()


@pytest.mark.parametrize("line", ["", "step 3: failed", "stopping: no", "ValueError: failed: x"])
def test_another_line_is_no_ending(line):
    assert ending_of(line) == ""
