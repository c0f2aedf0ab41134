"""Which evaluation is kept, and when training ends for want of a better one."""

import pytest

from deberta_jax.train.selection import Selection

SCORES = [(10, 0.5), (20, 0.7), (30, 0.7), (40, 0.6), (50, 0.8), (60, 0.1), (70, 0.2), (80, 0.3)]


def told(patience: int) -> tuple[Selection, list[bool], list[bool]]:
    """(the selection, which scores were the best so far, after which training would end)."""
    selection = Selection(patience)
    better, ended = [], []
    for step, score in SCORES:
        better.append(selection.add(step, score))
        ended.append(selection.exhausted)
    return selection, better, ended


def test_a_higher_score_is_better_and_an_equal_one_is_not():
    selection, better, _ = told(patience=0)
    assert better == [True, True, False, False, True, False, False, False]
    assert (selection.step, selection.score) == (50, 0.8)


@pytest.mark.parametrize(
    ("patience", "ends"),
    [(0, []), (1, [30, 40, 60, 70, 80]), (2, [40, 70, 80]), (3, [80]), (4, [])],
)
def test_so_many_evaluations_without_a_better_one_end_the_training(patience, ends):
    _, _, ended = told(patience)
    assert [step for (step, _), end in zip(SCORES, ended, strict=True) if end] == ends


@pytest.mark.parametrize("patience", [0, 2, 3])
@pytest.mark.parametrize("known", range(len(SCORES) + 1))
def test_a_history_stands_for_having_been_there(patience, known):
    through, better, ended = told(patience)
    resumed = Selection(patience, iter(SCORES[:known]))
    assert resumed.exhausted == (ended[known - 1] if known else False)
    assert [resumed.add(*each) for each in SCORES[known:]] == better[known:]
    assert (resumed.step, resumed.score, resumed.exhausted) == (through.step, through.score, through.exhausted)


@pytest.mark.parametrize("score", [0.0, -1.0, -float("inf")])
def test_the_first_is_the_best_whatever_it_is(score):
    selection = Selection(1)
    assert (selection.step, selection.exhausted) == (-1, False)
    assert selection.add(0, score) and (selection.step, selection.score) == (0, score)
    assert not selection.add(1, score) and selection.exhausted


def test_a_score_that_is_no_number_is_worse_than_any():
    selection = Selection(0)
    assert selection.add(1, float("nan"))  # something has to be kept
    assert selection.add(2, -0.5)
    assert not selection.add(3, float("nan"))
    assert (selection.step, selection.score) == (2, -0.5)
