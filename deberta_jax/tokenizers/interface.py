"""What every tokenizer here offers, and what does not depend on its kind: special tokens, pairs, added tokens, files.

The layout is that of all released models: [CLS] A [SEP], and [CLS] A [SEP] B [SEP] for a pair. (transformers 5 writes
two [SEP] between the texts of a pair for v1; the models were trained with one.)
"""

import abc
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from deberta_jax.errors import Refused
from deberta_jax.tokenizers.added_tokens import check_added, finder, stretches
from deberta_jax.tokenizers.options import is_unicode, listed_token, shown, write_config

SETTINGS_FILE = "tokenizer_settings.json"
SPECIAL_ROLES = ("pad", "cls", "sep", "unk", "mask")


class Encoding(NamedTuple):
    """A sequence, or a pair of them, with its special tokens; the three lists have one entry a token."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # characters [start, end) of the text the token comes from; specials (0, 0)
    segments: list[int]  # 0 up to the first [SEP], 1 after it


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The ids that a model's own files define, and the special tokens they lack; n of them."""

    names: list[str]
    special: dict[str, int]  # role ("pad", "cls", "sep", "unk", "mask") -> id
    special_ids: tuple[int, ...]  # those, and other control pieces
    ordinary: np.ndarray  # bool [n]: what a random replacement may use
    starts_word: np.ndarray  # bool [n]


def fingerprint(files: Mapping[str, bytes], options: Mapping[str, bool], added: Sequence[str]) -> str:
    """sha256 of all that decides about ids; the plain one of the file where one file is all there is."""
    digests = [hashlib.sha256(files[name]).hexdigest() for name in sorted(files)]
    extras = {"options": {name: value for name, value in options.items() if value}, "added": list(added)}
    if len(digests) == 1 and not any(extras.values()):
        return digests[0]
    return hashlib.sha256(json.dumps([digests, extras], sort_keys=True).encode()).hexdigest()


def check_unicode(text: str) -> None:
    """Raises ValueError for a lone surrogate, which no bytes spell: the libraries end in errors of many kinds."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text holds a lone surrogate, which is no character: place {error.start}") from error


class Tokenizer(abc.ABC):
    """A model's pieces with DeBERTa's special tokens, and tokens that were added to them.

    `size` counts the ids that exist; added tokens have the last ones. `special_ids` are [PAD], [CLS], [SEP], [UNK],
    [MASK] and the model's other control pieces; `ordinary_ids` (int32) what a random replacement may use: no special,
    control, unused or byte piece. `starts_word` (bool [size]) tells the pieces that begin a word; specials and added
    tokens do. `files` are the bytes of the files that define the model, by name; `settings` those of the settings file
    beside them, b"" without one; `options` what tokenizer_config.json may switch on; `added` the added tokens.
    `fingerprint` is the sha256 of all that decides about ids (of the model file alone when nothing was added).

    `ids`, `id_array`, `ids_of`, `encode` and `encode_masked` raise ValueError for a text that holds a lone surrogate.
    """

    def __init__(
        self,
        pieces: Pieces,
        files: Mapping[str, bytes],
        settings: bytes,
        options: Mapping[str, bool],
        added: Sequence[str],
    ):
        check_added(added, pieces.names)
        if wrong := [token for token in added if not is_unicode(token)]:
            raise Refused(f"added token {shown(wrong[0])} holds a lone surrogate, which is no character")
        self.files, self.settings, self.options, self.added = dict(files), settings, dict(options), tuple(added)
        self.fingerprint = fingerprint(files, options, added)
        self._names = [*pieces.names, *added]
        self._added_ids = {token: len(pieces.names) + i for i, token in enumerate(added)}
        self._finder = finder(added)
        self.size = len(self._names)
        self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id = (pieces.special[r] for r in SPECIAL_ROLES)
        self.special_ids = pieces.special_ids
        self.starts_word = np.append(pieces.starts_word, np.ones(len(added), bool))
        self.ordinary_ids = np.flatnonzero(np.append(pieces.ordinary, np.ones(len(added), bool))).astype(np.int32)

    @abc.abstractmethod
    def _stretch_ids(self, text: str, continues: bool) -> list[int]:
        """Ids of text without added tokens; `continues` gives its first word no mark of a word's start."""

    @abc.abstractmethod
    def _stretch_tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of text without added tokens, and the characters of each, without white space at their ends."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids. [MASK] and [UNK] show as such, the other special tokens not at all."""

    @abc.abstractmethod
    def with_added_tokens(self, tokens: Sequence[str]) -> Self:
        """A tokenizer that also has `tokens`, with the ids from `size` on, in this order.

        They are found in a text before it is encoded, the longest first, and never split; the text on either side is
        encoded as a text of its own. Raises Refused for a token that is empty, given twice or there already, or holds
        a lone surrogate.
        """

    def ids(self, text: str) -> list[int]:
        """Ids of the text, no special tokens. Text that spells a special token stays text."""
        return self._ids(text, continues=False)

    def id_array(self, text: str) -> np.ndarray:
        """`ids` as int32 [n]."""
        return np.array(self.ids(text), np.int32)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """`ids` of each text, on one thread."""
        return [self.ids(text) for text in texts]

    def _ids(self, text: str, continues: bool) -> list[int]:
        check_unicode(text)
        if self._finder is None:
            return self._stretch_ids(text, continues)
        ids: list[int] = []
        for start, part in stretches(text, self._finder):
            added = self._added_ids.get(part)
            ids += self._stretch_ids(part, continues and start == 0) if added is None else [added]
        return ids

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

        `text[start:end]` of a token's offsets has no white space at its ends. Tokens that are parts of one character
        (the bytes of an unknown one, the letters of a ligature) all get this character.
        """
        encoding = Encoding([self.cls_id], [(0, 0)], [0])
        for segment, part in enumerate((text,) if pair is None else (text, pair)):
            ids, offsets = self._tokens(part)
            encoding.ids.extend([*ids, self.sep_id])
            encoding.offsets.extend([*offsets, (0, 0)])
            encoding.segments.extend([segment] * (len(ids) + 1))
        return encoding

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        check_unicode(text)
        for start, part in stretches(text, self._finder):
            added = self._added_ids.get(part)
            part_ids, spans = self._stretch_tokens(part) if added is None else ([added], [(0, len(part))])
            ids += part_ids
            offsets += [(start + s, start + e) for s, e in spans]
        return ids, offsets

    def encode_masked(self, text: str) -> list[int]:
        """[CLS] text [SEP] in which, here alone, each "[MASK]" of the text is the special token.

        A mask stands for a word with the space before it. What follows a mask without a space ("[MASK].") continues
        its word: it gets no mark of a word's start.
        """
        check_unicode(text)  # as a whole: the message counts from its beginning
        first, *others = text.split("[MASK]")
        ids = [self.cls_id, *self._ids(first.rstrip() if others else first, continues=False)]
        for number, part in enumerate(others, 1):
            text_ids = self._ids(part.rstrip() if number < len(others) else part, continues=not part[:1].isspace())
            ids += [self.mask_id, *text_ids]
        return [*ids, self.sep_id]

    def piece(self, index: int) -> str:
        """The piece of an id as the model spells it. Raises ValueError for an id that does not exist."""
        if not 0 <= index < self.size:
            raise ValueError(f"id {index} is outside the {self.size} ids of the tokenizer")
        return self._names[index]

    def build_inputs_with_special_tokens(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """[CLS] ids [SEP], or [CLS] ids [SEP] pair [SEP]."""
        second = [] if pair is None else [*pair, self.sep_id]
        return [self.cls_id, *ids, self.sep_id, *second]

    def get_special_tokens_mask(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """1 where `build_inputs_with_special_tokens` of the same arguments put a special token, else 0."""
        second = [] if pair is None else [*[0] * len(pair), 1]
        return [1, *[0] * len(ids), 1, *second]

    def create_token_type_ids_from_sequences(self, ids: Sequence[int], pair: Sequence[int] | None = None) -> list[int]:
        """0 up to the first [SEP] of `build_inputs_with_special_tokens` of the same arguments, 1 after it."""
        second = [] if pair is None else [1] * (len(pair) + 1)
        return [0] * (len(ids) + 2) + second

    def save_vocabulary(self, directory: str | Path) -> None:
        """Writes the model's files and settings, byte for byte as they were read, for `load_tokenizer`.

        tokenizer_config.json is written when an option is on or tokens were added, and only then.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (directory / name).write_bytes(content)
        if self.settings:
            (directory / SETTINGS_FILE).write_bytes(self.settings)
        if self._added_ids or any(self.options.values()):
            tokens = {index: listed_token(token) for token, index in self._added_ids.items()}
            write_config(directory, self.options, tokens)
