"""Making segments fit: how many tokens there is room for, and which ones go where there are more."""

from bisect import bisect_right
from collections.abc import Sequence

from deberta_jax.errors import Refused


def room_for(segments: int, max_length: int) -> int:
    """Tokens that remain in a row of `max_length` beside its special tokens: [CLS], and a [SEP] after each segment.

    Raises Refused when not every segment can have one.
    """
    room = max_length - 1 - segments
    if room < segments:
        raise Refused(
            f"data.max_length {max_length} is too small for {segments} segment{'s' if segments > 1 else ''}: "
            f"special tokens and one token of each are {1 + 2 * segments}"
        )
    return room


def truncated(segments: Sequence[Sequence[int]], room: int) -> list[list[int]]:
    """The segments, in their order, of `room` tokens (at least 0) in all where they have more.

    Tokens go one at a time from the end of the segment that is the longest then, of several the last. So the longest
    end at one common length, and the first of them keep one token more as far as the room lasts. (BERT's rule for
    pairs; the official DeBERTa takes from both ends by chance, sorts the segments by length and changes its input.)
    """
    lengths = [len(segment) for segment in segments]
    if sum(lengths) <= room:
        return [list(segment) for segment in segments]
    common = bisect_right(range(max(lengths)), room, key=lambda limit: _total(lengths, limit)) - 1
    spare = room - _total(lengths, common)
    cut = []
    for segment in segments:
        extra = min(spare, len(segment) > common)
        cut.append(list(segment[: common + extra]))
        spare -= extra
    return cut


def _total(lengths: Sequence[int], limit: int) -> int:
    """Tokens in all when no segment has more than `limit`."""
    return sum(min(length, limit) for length in lengths)
