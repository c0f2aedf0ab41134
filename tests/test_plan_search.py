import pytest

from deberta_jax.plan.search import Trial, largest_that_fits, line_meets, step_at

ROOM = 1000


def memory(base: float, per_row: float, bend: float = 0.0):
    """A device's memory by its rows, and how often it was asked."""
    asked = []

    def attempt(rows: int) -> Trial:
        asked.append(rows)
        needed = int(base + per_row * rows + bend * rows**2)
        return Trial(rows, needed, needed <= ROOM)

    return attempt, asked


@pytest.mark.parametrize("start", [1, 3, 8, 64, 500])
@pytest.mark.parametrize(
    ("base", "per_row", "bend"), [(100, 9, 0), (0, 1.5, 0), (700, 40, 0), (50, 3, 0.02), (0, 130, 0)]
)
def test_what_it_finds_fits_and_a_step_more_does_not(start, base, per_row, bend):
    attempt, asked = memory(base, per_row, bend)
    found = largest_that_fits(attempt, start, ROOM, base)
    assert attempt(found.rows).fits
    assert not attempt(found.too_many).fits
    assert 0 < found.too_many - found.rows <= step_at(found.rows)
    assert len(found.trials) == len({trial.rows for trial in found.trials}) <= 10


def test_along_a_line_a_handful_of_trials_is_enough():
    attempt, asked = memory(100, 9)
    found = largest_that_fits(attempt, 8, ROOM, 100)
    assert (found.rows, found.too_many) == (96, 104)
    assert asked == [8, 96, 104]


def test_where_not_even_one_row_fits():
    attempt, asked = memory(2000, 1)
    found = largest_that_fits(attempt, 16, ROOM, 2000)
    assert (found.rows, found.too_many) == (0, 1)
    assert len(asked) <= 6


def test_a_verdict_counts_more_than_the_bytes():
    """The compiler may squeeze a program that seems too large, or refuse one that seems to fit."""
    found = largest_that_fits(lambda rows: Trial(rows, 10 * rows, rows <= 11), 4, ROOM, 0)
    assert (found.rows, found.too_many) == (11, 12)


@pytest.mark.parametrize(
    ("rows", "step"), [(0, 1), (1, 1), (8, 1), (15, 1), (16, 2), (31, 2), (32, 4), (64, 8), (100, 8)]
)
def test_steps_are_an_eighth(rows, step):
    assert step_at(rows) == step


def test_the_line_through_two_points():
    assert line_meets([Trial(2, 300, True), Trial(4, 500, True)], ROOM) == 9
    assert line_meets([Trial(2, 300, True), Trial(4, 300, True)], ROOM) is None
