"""Byte-level BPE, as DeBERTa v1 and GPT-2 use it: any text becomes bytes, bytes become pieces, nothing is unknown.

The released v1 vocabulary has [PAD] 0, [CLS] 1, [SEP] 2, [UNK] 3 and [MASK] 50264 inside, and takes a text as it is:
no normalisation, case kept. A pair is [CLS] A [SEP] B [SEP], the layout v1 was trained with; the DebertaTokenizer of
transformers 5 writes a second [SEP] between the texts.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from deberta_jax.errors import Refused
from deberta_jax.tokenizers.interface import SPECIAL_ROLES, Pieces, Tokenizer
from deberta_jax.tokenizers.options import is_unicode, read_object, section, shown, switch, tokens_by_id

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
JSON_FILE = "tokenizer.json"
SPECIALS = {role: f"[{role.upper()}]" for role in SPECIAL_ROLES}
# The first characters of pieces that begin with white space, as byte-level BPE spells bytes: "Ġ" is the space.
SPACES = tuple("ĠĉĊċČč")
# Ids may have gaps, but each id below the largest becomes a name here and a row of the embedding: with more free ids
# than pieces and these, the file is damaged, and a single digit too many would take all memory.
MOST_FREE_IDS = 1000
PLAIN_MODEL = {  # fields of a tokenizer.json that change ids, and the only values that are known here
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


class Definition(NamedTuple):
    """What the files of a byte-level BPE say."""

    vocab: dict[str, int]  # special tokens included
    merges: list[tuple[str, str]]
    add_prefix_space: bool
    added: dict[int, dict[str, Any]]  # tokens that tokenizer.json lists beside the vocabulary, by id


def read_definition(files: Mapping[str, bytes]) -> Definition:
    """The definition in {vocab.json, merges.txt} or {tokenizer.json}. Raises Refused for what is not byte-level BPE."""
    if JSON_FILE in files:
        definition = _from_json(read_object(JSON_FILE, files[JSON_FILE]))
    else:
        vocab = read_object(VOCAB_FILE, files[VOCAB_FILE])
        definition = Definition(vocab, _pairs(_merge_lines(files[MERGES_FILE])), False, {})
    _check(definition, " and ".join(sorted(files)))
    return definition


def is_unigram(where: str | Path, tokenizer_json: bytes) -> bool:
    """Whether a tokenizer.json holds a Unigram model, as SentencePiece's are. Raises Refused for what is none."""
    return section(where, read_object(where, tokenizer_json), "model").get("type") == "Unigram"


def _merge_lines(content: bytes) -> list[str]:
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise Refused(f"{MERGES_FILE} is not UTF-8") from error
    return [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]


def _from_json(values: dict[str, Any]) -> Definition:
    model, cutter = section(JSON_FILE, values, "model"), section(JSON_FILE, values, "pre_tokenizer")
    kind = model.get("type", "BPE")
    if kind == "Unigram":
        raise Refused(f"{JSON_FILE} holds a Unigram model; ids are read from the spm.model it was made of")
    is_bpe = kind == "BPE" and isinstance(model.get("vocab"), dict) and "merges" in model
    if not is_bpe or cutter.get("type") != "ByteLevel" or values.get("normalizer"):
        raise Refused(f"{JSON_FILE} holds no byte-level BPE without normalisation")
    for field, known in PLAIN_MODEL.items():
        if model.get(field) not in known:
            raise Refused(f"{JSON_FILE}: {field}={shown(model[field])} is not supported")
    if not switch(JSON_FILE, cutter, "use_regex", otherwise=True):
        raise Refused(f"{JSON_FILE}: use_regex=False is not supported")
    added = _added(values.get("added_tokens"))
    named = {token["content"]: index for index, token in added.items() if token["content"] in SPECIALS.values()}
    prefix = switch(JSON_FILE, cutter, "add_prefix_space", otherwise=False)
    return Definition(model["vocab"] | named, _pairs(model["merges"]), prefix, added)


def _added(tokens: Any) -> dict[int, dict[str, Any]]:
    """The list of added tokens in a tokenizer.json, by id."""
    if not isinstance(tokens, list | None):
        raise Refused(f"{JSON_FILE}: added_tokens={shown(tokens)} must be a list")
    return tokens_by_id(
        JSON_FILE, ((token.get("id"), token) if isinstance(token, dict) else (None, token) for token in tokens or ())
    )


def _pairs(merges: Any) -> list[tuple[str, ...]]:
    """Merges, "a b" or ["a", "b"], as tuples; `_check` wants two pieces in each. Raises Refused for no strings."""
    if not isinstance(merges, list):
        raise Refused(f"{JSON_FILE}: merges={shown(merges)} must be a list")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not isinstance(pair, list) or not all(isinstance(piece, str) for piece in pair):
            raise Refused(f"{JSON_FILE}: the merge {shown(pair)} is no pair of pieces")
    return [tuple(pair) for pair in pairs]


def _check(definition: Definition, where: str) -> None:
    """Refuses what the library would end the process for, or read otherwise than it is meant."""
    ids = list(definition.vocab.values())
    if not all(type(index) is int and index >= 0 for index in ids) or len(set(ids)) != len(ids):
        raise Refused(f"{where}: the ids of the pieces are not distinct numbers")
    if ids and max(ids) >= 2 * len(ids) + MOST_FREE_IDS:
        raise Refused(f"{where}: id {shown(max(ids))} is too large for {len(ids)} pieces")
    if not is_unicode("".join(definition.vocab)):
        raise Refused(f"{where}: a piece holds a lone surrogate, which is no character")
    for name in SPECIALS.values():
        if name not in definition.vocab:
            raise Refused(f"{where}: no piece {name}")
    for pair in definition.merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= definition.vocab.keys():
            raise Refused(f"{where}: the merge {shown(' '.join(pair))} is not made of pieces of the vocabulary")


def read_pieces(definition: Definition) -> Pieces:
    """The pieces by id. An id that no piece has is named "[unused ID]"; nothing becomes it."""
    names = [f"[unused {index}]" for index in range(max(definition.vocab.values()) + 1)]
    ordinary = np.zeros(len(names), bool)
    for piece, index in definition.vocab.items():
        names[index], ordinary[index] = piece, True
    special = {role: definition.vocab[name] for role, name in SPECIALS.items()}
    ordinary[list(special.values())] = False
    starts_word = np.array([name.startswith(SPACES) for name in names])
    starts_word[list(special.values())] = True
    return Pieces(names, special, tuple(sorted(special.values())), ordinary, starts_word)


def library_tokenizer(definition: Definition, add_prefix_space: bool) -> tokenizers.Tokenizer:
    """The library's tokenizer of a definition, without special and added tokens."""
    vocab = {name: index for index, name in enumerate(read_pieces(definition).names)}
    model = tokenizers.models.BPE(vocab=vocab, merges=definition.merges, unk_token=SPECIALS["unk"])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


class ByteLevelBPETokenizer(Tokenizer):
    """A byte-level BPE with DeBERTa's special tokens; `Tokenizer` says what it offers.

    `files` are the bytes of vocab.json and merges.txt, or of tokenizer.json, by these names. `add_prefix_space` encodes
    a text that begins without a space as if there were one; off for the released models, whose first word of a text
    therefore has no piece with a space, and `starts_word` is False for it: it is known to begin a word because [CLS]
    or another special token stands before it. Raises Refused when the files hold something else.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        settings: bytes = b"",
        *,
        add_prefix_space: bool = False,
        added: Sequence[str] = (),
    ):
        definition = read_definition(files)
        super().__init__(read_pieces(definition), files, settings, {"add_prefix_space": add_prefix_space}, added)
        self._library = library_tokenizer(definition, add_prefix_space)
        self._continuing = library_tokenizer(definition, False)

    def with_added_tokens(self, tokens: Sequence[str]) -> "ByteLevelBPETokenizer":
        return ByteLevelBPETokenizer(self.files, self.settings, **self.options, added=(*self.added, *tokens))

    def _stretch_ids(self, text: str, continues: bool) -> list[int]:
        return (self._continuing if continues else self._library).encode(text).ids

    def _stretch_tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._library.encode(text)
        return encoding.ids, [_trimmed(text, start, end) for start, end in encoding.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        hidden = set(self.special_ids) - {self.mask_id, self.unk_id}
        shown = [index for index in map(int, ids) if index not in hidden]
        text = "".join(self._text_of(is_text, list(run)) for is_text, run in groupby(shown, self._is_text))
        return text.removeprefix(" ") if shown[:1] == [self.mask_id] else text

    def _is_text(self, index: int) -> bool:
        """Whether the piece's name is its text; the other pieces are bytes, which only a whole run of them spells."""
        return index in (self.mask_id, self.unk_id) or index >= self.size - len(self.added)

    def _text_of(self, is_text: bool, run: list[int]) -> str:
        if is_text:
            return "".join(" [MASK]" if index == self.mask_id else self.piece(index) for index in run)
        return self._library.decoder.decode([self.piece(index) for index in run])


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    surface = text[start:end]
    end = start + len(surface.rstrip())
    return end - len(surface.strip()), end
