"""What happens to a text before SentencePiece sees it, as in the released DeBERTa v2 tokenizer: both off by default."""

import unicodedata
from collections.abc import Iterator

ASCII_SYMBOLS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")  # "$", "+" and others are no punctuation to Unicode


def lower_case(text: str) -> tuple[str, list[int]]:
    """The text in lower case, and for each of its characters, and its end, the place in `text` it comes from.

    "İ" becomes two characters, which both come from it.
    """
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered, list(range(len(text) + 1))
    origin = [place for place, character in enumerate(text) for _ in character.lower()]
    return lowered, [*origin, len(text)]


def is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and all of ASCII that is neither letter, digit, space nor control character."""
    return character in ASCII_SYMBOLS or unicodedata.category(character).startswith("P")


def punctuation_chunks(text: str) -> Iterator[tuple[int, str]]:
    """(start, chunk): each punctuation character alone, and each non-empty part between them."""
    start = 0
    for place, character in enumerate(text):
        if is_punctuation(character):
            if start < place:
                yield start, text[start:place]
            yield place, character
            start = place + 1
    if start < len(text):
        yield start, text[start:]
