"""tokenizer.json: a tokenizer in the format of Hugging Face, with the same ids as here.

`transformers.AutoTokenizer` reads it as a plain PreTrainedTokenizerFast. transformers 5's own DebertaV2Tokenizer would
build another normaliser and drop the model's ("ﬁ" and "①" get other ids), so tokenizer_config.json does not name it.
Two things differ on purpose or by nature:

- Text that spells a special token is this token there, as users of transformers expect; here it stays text. What
  follows "[MASK]" begins a word there, as in transformers 4; `encode_masked` lets it continue one.
- Sentencepiece adds up scores in float32 and the library in float64. Where two ways to cut a word have equal or almost
  equal scores ("l" + "ll", "ll" + "l"), the rounding decides in sentencepiece, and the library may cut otherwise.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, pre_tokenizers, processors

from deberta_jax.errors import Refused
from deberta_jax.tokenizers.bpe import JSON_FILE, ByteLevelBPETokenizer, library_tokenizer, read_definition
from deberta_jax.tokenizers.interface import SPECIAL_ROLES, Tokenizer
from deberta_jax.tokenizers.normalizer import sentencepiece_normalizer
from deberta_jax.tokenizers.options import listed_token, write_config
from deberta_jax.tokenizers.patterns import literal
from deberta_jax.tokenizers.spm import MODEL_FILE, WORD_START, SentencePieceTokenizer, read_model

MAP_FILE = "special_tokens_map.json"
LOADER = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}

_TYPES = sentencepiece_model_pb2.ModelProto.SentencePiece


def write_tokenizer_json(tokenizer: Tokenizer, directory: str | Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json for transformers.

    `load_tokenizer` reads options and added tokens from the same tokenizer_config.json, so this may follow
    `save_vocabulary` into one directory. Raises Refused for a sentencepiece model that is no unigram model, whose white
    space the format cannot express, or whose table of normalisation is damaged.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    library = _unigram(tokenizer) if isinstance(tokenizer, SentencePieceTokenizer) else _bpe(tokenizer)
    tokens = listed_tokens(tokenizer)
    for token in tokens.values():
        (library.add_special_tokens if token["special"] else library.add_tokens)([tokenizers.AddedToken(**token)])
    cls, sep = tokenizer.piece(tokenizer.cls_id), tokenizer.piece(tokenizer.sep_id)
    library.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.cls_id), (sep, tokenizer.sep_id)],
    )
    library.save(str(directory / JSON_FILE))
    named = {f"{role}_token": tokenizer.piece(index) for role, index in special_by_role(tokenizer).items()}
    write_config(directory, {**LOADER, **tokenizer.options, **named}, tokens)
    (directory / MAP_FILE).write_text(json.dumps(named, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def special_by_role(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the five special tokens, by "pad", "cls", "sep", "unk" and "mask"."""
    ids = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id)
    return dict(zip(SPECIAL_ROLES, ids, strict=True))


def listed_tokens(tokenizer: Tokenizer) -> dict[int, dict]:
    """The special and the added tokens as Hugging Face lists them, by id in rising order.

    v1's [MASK] takes the spaces before it, as in `encode_masked`; sentencepiece drops them anyway.
    """
    takes_space = {tokenizer.mask_id} if isinstance(tokenizer, ByteLevelBPETokenizer) else set()
    tokens = {
        index: listed_token(tokenizer.piece(index), special=True, lstrip=index in takes_space)
        for index in sorted(special_by_role(tokenizer).values())
    }
    added = range(tokenizer.size - len(tokenizer.added), tokenizer.size)
    return tokens | {index: listed_token(tokenizer.piece(index)) for index in added}


def _bpe(tokenizer: ByteLevelBPETokenizer) -> tokenizers.Tokenizer:
    return library_tokenizer(read_definition(tokenizer.files), tokenizer.options["add_prefix_space"])


def _unigram(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    """The library's tokenizer of a sentencepiece model, without special and added tokens."""
    proto, _ = read_model(tokenizer.files[MODEL_FILE])
    trainer = proto.trainer_spec
    if trainer.model_type != trainer.UNIGRAM or trainer.treat_whitespace_as_suffix:
        raise Refused("tokenizer.json is written for unigram models with spaces before words, which this is not")
    splits_words = has_spaces_only_in_front(proto)
    if tokenizer.options["split_by_punct"] and not (splits_words and proto.normalizer_spec.add_dummy_prefix):
        raise Refused("split_by_punct: tokenizer.json needs a model whose pieces have spaces at their beginning only")
    unk = next(i for i, p in enumerate(proto.pieces) if p.type == _TYPES.UNKNOWN)
    library = tokenizers.Tokenizer(models.Unigram(scored_pieces(proto), unk, trainer.byte_fallback))
    try:
        library.normalizer = sentencepiece_normalizer(proto, **tokenizer.options)
    except (IndexError, UnicodeDecodeError, struct.error) as error:  # sentencepiece looks at the rules it uses only
        raise Refused(f"the model's table of normalisation is damaged: {error}") from error
    library.pre_tokenizer = _pre_tokenizer(proto, splits_words)
    spaces = [decoders.Replace(WORD_START, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(spaces)
    return library


def has_spaces_only_in_front(proto: sentencepiece_model_pb2.ModelProto) -> bool:
    """Whether a text may be cut before each space without changing its pieces."""
    names = {p.piece for p in proto.pieces if p.type in (_TYPES.NORMAL, _TYPES.USER_DEFINED)}
    inside = any(WORD_START in name[1:] for name in names)
    return proto.normalizer_spec.escape_whitespaces and WORD_START in names and not inside


def scored_pieces(proto: sentencepiece_model_pb2.ModelProto) -> list[tuple[str, float]]:
    """The pieces with the scores sentencepiece works with: a user-defined one is better than any other cut.

    Pieces that text cannot spell get the lowest of the ordinary scores, because the library makes the score of an
    unknown character from the lowest score of all.
    """
    ordinary = [p.score for p in proto.pieces if p.type == _TYPES.NORMAL]
    highest = max(0.0, *ordinary)
    scores = {_TYPES.USER_DEFINED: lambda p: len(p.piece.encode()) * highest - 0.1, _TYPES.NORMAL: lambda p: p.score}
    return [(p.piece, scores.get(p.type, lambda _: min(ordinary))(p)) for p in proto.pieces]


def _pre_tokenizer(proto: sentencepiece_model_pb2.ModelProto, splits_words: bool) -> pre_tokenizers.PreTokenizer:
    """Cuts before each word, and inside what spells a piece that text must not become."""
    steps = [pre_tokenizers.Split(WORD_START, "merged_with_next")] if splits_words else []
    cut = "|".join(f"{literal(left)}(?={literal(right)})" for left, right in forced_cuts(proto))
    steps += [pre_tokenizers.Split(tokenizers.Regex(cut), "merged_with_previous")] if cut else []
    return pre_tokenizers.Sequence(steps)


def forced_cuts(proto: sentencepiece_model_pb2.ModelProto) -> Iterable[tuple[str, str]]:
    """Each control, byte, unknown or unused piece in two parts between which no other piece can lie.

    The library's model would find such a piece in a text that spells it ("<0x41>"), sentencepiece does not. Cut at such
    a place the text has the same pieces as before but not this one. A piece without such a place is not cut and would
    be found: one all of whose characters are unknown, or whose every two neighbours stand in some other piece.
    """
    names = {p.piece for p in proto.pieces if p.type in (_TYPES.NORMAL, _TYPES.USER_DEFINED)}
    joined = {name[i : i + 2] for name in names for i in range(len(name) - 1)}
    for piece in (p.piece for p in proto.pieces if p.type not in (_TYPES.NORMAL, _TYPES.USER_DEFINED)):
        for place in range(1, len(piece)):
            known = piece[place - 1] in names or piece[place] in names  # else one unknown piece would become two
            if piece[place - 1 : place + 1] not in joined and (known or proto.trainer_spec.byte_fallback):
                yield piece[:place], piece[place:]
                break
