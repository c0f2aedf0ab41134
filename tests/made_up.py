"""Made-up text, always the same, and a small tokenizer trained on it."""

import itertools
import json
from pathlib import Path

import numpy as np

from deberta_jax.tokenizers.train import train_unigram

PIECES = 600


def made_up_words(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct pronounceable words of one to four syllables, the shortest first, as frequent words are."""
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", ["a", "e", "i", "o", "u", "an", "or"])]
    words = {"".join(rng.choice(syllables, size=1 + index * 4 // count)): None for index in range(count)}
    return sorted(words, key=len)


def made_up_sentence(words: list[str], rng: np.random.Generator) -> str:
    """Words drawn as in language: the n-th most frequent in proportion to 1/n."""
    share = 1 / np.arange(1, len(words) + 1)
    drawn = rng.choice(words, size=rng.integers(4, 20), p=share / share.sum())
    return " ".join(drawn).capitalize() + "."


def made_up_documents() -> list[str]:
    """300 different documents of one to thirty sentences, a few hundred kilobytes."""
    rng = np.random.default_rng(0)
    words = made_up_words(2000, rng)
    return [" ".join(made_up_sentence(words, rng) for _ in range(rng.integers(1, 31))) for _ in range(300)]


def write_tokenizer(directory: Path, documents: list[str]) -> None:
    """A directory as tools.train_tokenizer leaves it: 600 pieces, specials included, [MASK] not."""
    settings = {"vocab_size": PIECES, "byte_fallback": False, "character_coverage": 1.0, "max_sentences": 0}
    directory.mkdir(exist_ok=True)
    (directory / "spm.model").write_bytes(train_unigram(documents, **settings))
    (directory / "tokenizer_settings.json").write_text(json.dumps(settings))
