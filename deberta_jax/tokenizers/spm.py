"""SentencePiece tokenizers, as DeBERTa v2 and v3 use them.

Ids of ordinary text equal plain sentencepiece with the same model. [MASK] has no piece in the models trained here: its
id is the number of pieces, so no text can encode to it. Models of other people are read by their own special pieces,
which become control pieces: text that spells "[MASK]" stays text.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from deberta_jax.errors import Refused

MODEL_FILE = "spm.model"
SETTINGS_FILE = "tokenizer_settings.json"
WORD_START = "▁"  # U+2581, written by sentencepiece for the space before a word
SPECIALS = {"[PAD]": ("[PAD]", "<pad>"), "[CLS]": ("[CLS]",), "[SEP]": ("[SEP]",), "[MASK]": ("[MASK]", "<mask>")}

_TYPES = sentencepiece_model_pb2.ModelProto.SentencePiece


class Encoding(NamedTuple):
    """A sequence, or a pair of them, with its special tokens; the three lists have one entry a token."""

    ids: list[int]
    offsets: list[tuple[int, int]]  # characters [start, end) of the text the token comes from; specials (0, 0)
    segments: list[int]  # 0 up to the first [SEP], 1 after it


def load_tokenizer(path: str | Path) -> "SentencePieceTokenizer":
    """The tokenizer of a directory that holds spm.model, or of a .model file.

    Raises Refused when there is none or it cannot be read.
    """
    path = Path(path)
    model = path / MODEL_FILE if path.is_dir() else path
    if not model.is_file():
        found = ", ".join(sorted(p.name for p in model.parent.glob("*.model")))
        raise Refused(f"no tokenizer: {model} does not exist" + (f"; {model.parent} holds {found}" if found else ""))
    settings = model.parent / SETTINGS_FILE
    try:
        return SentencePieceTokenizer(model.read_bytes(), settings.read_bytes() if settings.is_file() else b"")
    except (DecodeError, RuntimeError) as error:  # no protocol buffer; one that sentencepiece cannot use
        raise Refused(f"{model} is not a sentencepiece model") from error


class SentencePieceTokenizer:
    """A sentencepiece model with DeBERTa's special tokens.

    `size` counts the ids that exist. `special_ids` are [PAD], [CLS], [SEP], [UNK], [MASK] and the model's other control
    pieces; `ordinary_ids` (int32) what a random replacement may use: no special, control, unused or byte piece.
    `starts_word` (bool [size]) tells the pieces that begin a word; specials do. `fingerprint` is the sha256 of the
    model file. `settings` are the bytes of the settings file beside the model, b"" without one.
    """

    def __init__(self, model: bytes, settings: bytes = b""):
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(model)
        if not proto.pieces:
            raise DecodeError("no pieces")
        self._model = model
        self.settings = settings
        self.fingerprint = hashlib.sha256(model).hexdigest()
        self._pieces = [p.piece for p in proto.pieces]
        self.pad_id, self.cls_id, self.sep_id, self.mask_id = (self._claim(proto, name) for name in SPECIALS)
        proto.trainer_spec.unk_surface = "[UNK]"  # what decoding shows
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        proto.normalizer_spec.add_dummy_prefix = False
        self._continuing = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        types = np.array([p.type for p in proto.pieces])
        self.unk_id = int(np.flatnonzero(types == _TYPES.UNKNOWN)[0])
        self.size = len(self._pieces)
        named = (self.pad_id, self.cls_id, self.sep_id, self.unk_id, self.mask_id)
        self.special_ids = tuple(sorted({*named, *np.flatnonzero(types == _TYPES.CONTROL).tolist()}))
        self.starts_word = np.array([p.startswith(WORD_START) for p in self._pieces])
        self.starts_word[list(self.special_ids)] = True
        ordinary = np.flatnonzero(np.isin(types, (_TYPES.NORMAL, _TYPES.USER_DEFINED)))
        self.ordinary_ids = np.setdiff1d(ordinary, self.special_ids).astype(np.int32)

    def _claim(self, proto: sentencepiece_model_pb2.ModelProto, name: str) -> int:
        """Id of a special token: the model's own piece, made a control piece so that text cannot spell it, or the next
        free id."""
        for spelling in SPECIALS[name]:
            if spelling in self._pieces[: len(proto.pieces)]:
                index = self._pieces.index(spelling)
                proto.pieces[index].type = _TYPES.CONTROL
                return index
        self._pieces.append(name)
        return len(self._pieces) - 1

    def ids(self, text: str) -> list[int]:
        """Plain sentencepiece ids, no special tokens."""
        return self._processor.encode(text)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """`ids` of each text, in one call on one thread."""
        return self._processor.encode(list(texts), num_threads=1)

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP].

        `text[start:end]` of a token's offsets has no white space at its ends. Tokens that are parts of one character
        (the bytes of an unknown one, the letters of a ligature) all get this character.
        """
        encoding = Encoding([self.cls_id], [(0, 0)], [0])
        for segment, part in enumerate((text,) if pair is None else (text, pair)):
            mapping = self._processor.encode(part, return_type="offset_mapping")
            encoding.ids.extend([*mapping["ids"], self.sep_id])
            encoding.offsets.extend([*_trimmed(part, mapping["pieces"], mapping["offsets"]), (0, 0)])
            encoding.segments.extend([segment] * (len(mapping["ids"]) + 1))
        return encoding

    def encode_masked(self, text: str) -> list[int]:
        """[CLS] text [SEP] in which, here alone, each "[MASK]" of the text is the special token.

        What follows a mask without a space ("[MASK].") continues its word: it gets no mark of a word's start.
        """
        first, *others = text.split("[MASK]")
        ids = [self.cls_id, *self.ids(first)]
        for part in others:
            starts_word = part[:1].isspace()
            ids += [self.mask_id, *(self.ids(part) if starts_word else self._continuing.encode(part))]
        return [*ids, self.sep_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids. [MASK] and [UNK] show as such, the other special tokens not at all."""
        hidden = set(self.special_ids) - {self.mask_id, self.unk_id}
        pieces = [" [MASK]" if i == self.mask_id else self.piece(i) for i in map(int, ids) if i not in hidden]
        return self._processor.decode(pieces).removeprefix(" ")

    def piece(self, index: int) -> str:
        """The piece of an id as the model spells it. Raises ValueError for an id that does not exist."""
        if not 0 <= index < self.size:
            raise ValueError(f"id {index} is outside the {self.size} ids of the tokenizer")
        return self._pieces[index]

    def save_vocabulary(self, directory: str | Path) -> None:
        """Writes spm.model, byte for byte as it was read, and its settings if there are any."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self._model)
        if self.settings:
            (directory / SETTINGS_FILE).write_bytes(self.settings)


def _trimmed(text: str, pieces: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sentencepiece's offsets without the white space that belongs to no token.

    Sentencepiece gives a character that became several pieces to the last of them and nothing to the others, so the
    pieces are walked from the back.
    """
    trimmed: list[tuple[int, int]] = []
    for piece, (start, end) in zip(reversed(pieces), reversed(offsets), strict=True):
        surface = text[start:end]
        end = start + len(surface.rstrip())
        start = end - len(surface.strip())
        if start == end and piece != WORD_START and trimmed:
            start, end = trimmed[-1]
        trimmed.append((start, end))
    return trimmed[::-1]
