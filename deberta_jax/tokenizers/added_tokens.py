"""Tokens added to a vocabulary: what they may be, and where they stand in a text."""

import re
from collections.abc import Iterator, Sequence

from deberta_jax.errors import Refused


def check_added(added: Sequence[str], names: Sequence[str]) -> None:
    """Raises Refused for a token that is empty, given twice, or one of the pieces `names` already."""
    for place, token in enumerate(added):
        if not token.strip():
            raise Refused(f"added token {token!r} is empty")
        if token in added[:place]:
            raise Refused(f"added token {token!r} is given twice")
        if token in names:
            raise Refused(f"added token {token!r} exists: it is id {names.index(token)}")


def finder(added: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern that finds any of the tokens, the longest of those that begin at one place; None for no tokens."""
    longest_first = sorted(added, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if added else None


def stretches(text: str, tokens: re.Pattern[str] | None) -> Iterator[tuple[int, str]]:
    """(start, part) for each token in the text and each non-empty part between tokens, in order."""
    end = 0
    for match in () if tokens is None else tokens.finditer(text):
        if match.start() > end:
            yield end, text[end : match.start()]
        yield match.start(), match[0]
        end = match.end()
    if end < len(text):
        yield end, text[end:]
