"""Cutting segments to a common room, against the loop that takes one token at a time."""

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.truncation import room_for, truncated


def one_at_a_time(segments: list[list[int]], room: int) -> list[list[int]]:
    cut = [list(segment) for segment in segments]
    while sum(map(len, cut)) > room:
        longest = max(range(len(cut)), key=lambda number: (len(cut[number]), number))
        cut[longest].pop()
    return cut


def test_tokens_go_one_at_a_time_from_the_longest():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        lengths = rng.integers(0, rng.integers(1, 12), size=rng.integers(1, 6))
        segments = [[100 * number + place for place in range(length)] for number, length in enumerate(lengths)]
        room = int(rng.integers(0, lengths.sum() + 3))
        assert truncated(segments, room) == one_at_a_time(segments, room)


@pytest.mark.parametrize(
    ("lengths", "room", "expected"),
    [
        ((5, 2), 4, (2, 2)),
        ((2, 5), 4, (2, 2)),
        ((3, 3), 5, (3, 2)),  # a tie takes from the later
        ((4, 4, 4), 8, (3, 3, 2)),
        ((1, 9, 9), 11, (1, 5, 5)),
        ((0, 7), 3, (0, 3)),
        ((4, 4), 0, (0, 0)),
        ((4, 4), 9, (4, 4)),
    ],
)
def test_known_lengths(lengths, room, expected):
    assert tuple(map(len, truncated([list(range(n)) for n in lengths], room))) == expected


def test_the_input_stays_as_it_was_and_is_not_shared():
    segments = [[1, 2, 3], [4, 5, 6, 7]]
    for room in (3, 7):
        cut = truncated(segments, room)
        cut[0].append(0)
        assert segments == [[1, 2, 3], [4, 5, 6, 7]]
    assert truncated([(1, 2), np.array([3, 4, 5])], 4) == [[1, 2], [3, 4]]
    assert truncated([], 0) == []


def test_the_length_of_a_segment_costs_nothing():
    assert truncated([range(10**15), range(7, 10**15)], 5) == [[0, 1, 2], [7, 8]]


@pytest.mark.parametrize(("segments", "least"), [(1, 3), (2, 5), (3, 7)])
def test_a_row_has_room_for_a_token_of_every_segment(segments, least):
    assert room_for(segments, least) == segments
    assert room_for(segments, 100) == 100 - 1 - segments
    word = "segment" if segments == 1 else "segments"
    with pytest.raises(Refused, match=f"data.max_length {least - 1} is too small for {segments} {word}: .* {least}$"):
        room_for(segments, least - 1)
