"""SentencePiece tokenizers, as DeBERTa v2 and v3 use them.

Ids of ordinary text equal plain sentencepiece with the same model. [MASK] has no piece in the models trained here nor
in the released ones: its id is the number of pieces, so no text can encode to it. Models of other people are read by
their own special pieces, which become control pieces: text that spells "[MASK]" stays text.
"""

from collections.abc import Sequence

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from deberta_jax.tokenizers.chunks import is_punctuation, lower_case, punctuation_chunks
from deberta_jax.tokenizers.interface import Pieces, Tokenizer, check_unicode

MODEL_FILE = "spm.model"
WORD_START = "▁"  # U+2581, written by sentencepiece for the space before a word
SPECIALS = {"pad": ("[PAD]", "<pad>"), "cls": ("[CLS]",), "sep": ("[SEP]",), "mask": ("[MASK]", "<mask>")}

_TYPES = sentencepiece_model_pb2.ModelProto.SentencePiece


def read_model(model: bytes) -> tuple[sentencepiece_model_pb2.ModelProto, Pieces]:
    """The model with its special pieces made control pieces, so that text cannot spell them, and its pieces.

    Special tokens that the model lacks get the next ids. Raises DecodeError for what is not a model, for a piece that
    is not UTF-8, and when no piece is the unknown one.
    """
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    if not proto.pieces:
        raise DecodeError("no pieces")
    names = [p.piece for p in proto.pieces]
    if damaged := [index for index, name in enumerate(names) if not isinstance(name, str)]:
        raise DecodeError(f"piece {damaged[0]} is not UTF-8")  # protobuf hands out the bytes of such a string
    special = {role: _claim(proto, names, spellings) for role, spellings in SPECIALS.items()}
    types = np.full(len(names), _TYPES.CONTROL)
    types[: len(proto.pieces)] = [p.type for p in proto.pieces]
    if not (types == _TYPES.UNKNOWN).any():
        raise DecodeError("no unknown piece")
    special["unk"] = int(np.flatnonzero(types == _TYPES.UNKNOWN)[0])
    special_ids = np.flatnonzero(np.isin(types, (_TYPES.CONTROL, _TYPES.UNKNOWN)))
    starts_word = np.array([name.startswith(WORD_START) for name in names])
    starts_word[special_ids] = True
    ordinary = np.isin(types, (_TYPES.NORMAL, _TYPES.USER_DEFINED))
    return proto, Pieces(names, special, tuple(special_ids.tolist()), ordinary, starts_word)


def _claim(proto: sentencepiece_model_pb2.ModelProto, names: list[str], spellings: Sequence[str]) -> int:
    for spelling in spellings:
        if spelling in names[: len(proto.pieces)]:
            index = names.index(spelling)
            proto.pieces[index].type = _TYPES.CONTROL
            return index
    names.append(spellings[0])
    return len(names) - 1


class SentencePieceTokenizer(Tokenizer):
    """A sentencepiece model with DeBERTa's special tokens; `Tokenizer` says what it offers.

    `model` are the bytes of a .model file. `do_lower_case` lower-cases a text first; `split_by_punct` then encodes each
    punctuation character and each part between them as a text of its own. Both are those of the released v2 tokenizer
    (`SPMTokenizer` in microsoft/DeBERTa and transformers 4) and off for all released models. Raises DecodeError or
    RuntimeError when `model` is none.
    """

    def __init__(
        self,
        model: bytes,
        settings: bytes = b"",
        *,
        do_lower_case: bool = False,
        split_by_punct: bool = False,
        added: Sequence[str] = (),
    ):
        proto, pieces = read_model(model)
        options = {"do_lower_case": do_lower_case, "split_by_punct": split_by_punct}
        super().__init__(pieces, {MODEL_FILE: model}, settings, options, added)
        proto.trainer_spec.unk_surface = "[UNK]"  # what decoding shows
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        proto.normalizer_spec.add_dummy_prefix = False
        self._continuing = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def with_added_tokens(self, tokens: Sequence[str]) -> "SentencePieceTokenizer":
        model = self.files[MODEL_FILE]
        return SentencePieceTokenizer(model, self.settings, **self.options, added=(*self.added, *tokens))

    def id_array(self, text: str) -> np.ndarray:
        """`ids` as int32 [n]; where nothing is done to the text before, no number of it becomes a Python object."""
        if self.added or any(self.options.values()):
            return super().id_array(text)
        check_unicode(text)
        return self._processor.encode(text, return_type="numpy")

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """`ids` of each text, in one call on one thread where nothing is done to a text before."""
        if self.added or any(self.options.values()):
            return super().ids_of(texts)
        texts = list(texts)
        for text in texts:
            check_unicode(text)
        return self._processor.encode(texts, num_threads=1)

    def _stretch_ids(self, text: str, continues: bool) -> list[int]:
        if self.options["do_lower_case"]:
            text = text.lower()
        if not self.options["split_by_punct"]:
            return (self._continuing if continues else self._processor).encode(text)
        chunks = [chunk for _, chunk in punctuation_chunks(text)]
        ids = self._processor.encode(chunks)
        if continues and chunks and not is_punctuation(chunks[0][0]):  # punctuation is a word of its own here
            ids[0] = self._continuing.encode(chunks[0])
        return [index for chunk_ids in ids for index in chunk_ids]

    def _stretch_tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        lowered, origin = lower_case(text) if self.options["do_lower_case"] else (text, range(len(text) + 1))
        chunks = punctuation_chunks(lowered) if self.options["split_by_punct"] else [(0, lowered)]
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, chunk in chunks:
            mapping = self._processor.encode(chunk, return_type="offset_mapping")
            ids += mapping["ids"]
            spans = _trimmed(chunk, mapping["pieces"], mapping["offsets"])
            offsets += [_original_span(start + s, start + e, origin) for s, e in spans]
        return ids, offsets

    def decode(self, ids: Sequence[int]) -> str:
        hidden = set(self.special_ids) - {self.mask_id, self.unk_id}
        pieces = [self._spelling(index) for index in map(int, ids) if index not in hidden]
        return self._processor.decode(pieces).removeprefix(" ")

    def _spelling(self, index: int) -> str:
        """What is handed to sentencepiece for decoding: a piece, or text for what is none."""
        if index == self.mask_id:
            return " [MASK]"
        return " " + self.piece(index) if index >= self.size - len(self.added) else self.piece(index)


def _original_span(start: int, end: int, origin: Sequence[int]) -> tuple[int, int]:
    """The characters that those in [start, end) of the lower-cased text come from."""
    return origin[start], origin[end - 1] + 1 if end > start else origin[start]


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
