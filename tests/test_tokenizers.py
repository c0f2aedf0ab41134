"""SentencePiece tokenizers: ids, special tokens, offsets, decoding, training."""

import hashlib
import io
import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from deberta_jax.errors import Refused
from deberta_jax.tokenizers import SentencePieceTokenizer, find_tokenizer, load_tokenizer
from deberta_jax.tokenizers.hf_json import write_tokenizer_json
from deberta_jax.tokenizers.train import SENTENCE_CHARACTERS, sentences, train_unigram
from deberta_jax.tools import train_tokenizer

SETTINGS = {"vocab_size": 300, "byte_fallback": False, "character_coverage": 1.0, "max_sentences": 0}
LITERALS = ("[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "<mask>", "<pad>", "<unk>")
STRANGE = (
    "",
    " ",
    "\n",
    "two\nlines\r\nand a\ttab",
    "no\u00a0break\u2003spaces  doubled ",
    "emoji 👍🏽 family 👨‍👩‍👧 end",
    "日本語の文 and latin",
    "cafe\u0301 and café",
    "ﬁne ㎡ ① …",
    "a\u200bb zero width",
    "nul \0 inside",
    "a\x1c separator\x85 or two",
    "[MASK] is [CLS] no [SEP] special <mask>",
)


@pytest.fixture(scope="module")
def tokenizer(spm_dir: Path) -> SentencePieceTokenizer:
    return load_tokenizer(spm_dir)


@pytest.fixture(scope="module")
def bytes_tokenizer(documents: list[str]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(train_unigram(documents, **SETTINGS | {"vocab_size": 500, "byte_fallback": True}))


def foreign_model(documents: list[str], **settings) -> bytes:
    """A model of somebody else: [UNK] is <unk> with id 0, and what `settings` say."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents[:50]), model_writer=model, vocab_size=200, minloglevel=2, **settings
    )
    return model.getvalue()


def test_ids_equal_plain_sentencepiece(tokenizer, spm_dir, documents):
    plain = sentencepiece.SentencePieceProcessor(model_file=str(spm_dir / "spm.model"))
    for text in (*documents[:20], *STRANGE):
        assert tokenizer.ids(text) == plain.encode(text)
        assert tokenizer.id_array(text).tolist() == plain.encode(text)
    assert tokenizer.id_array("").dtype == tokenizer.id_array("ka").dtype == np.int32
    assert tokenizer.ids_of(documents[:20]) == plain.encode(documents[:20])


def test_trained_models_hold_four_specials_and_leave_the_mask_outside(tokenizer, spm_dir):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(spm_dir / "spm.model")).get_piece_size()
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == pieces
    assert tokenizer.size == pieces + 1
    assert tokenizer.special_ids == (0, 1, 2, 3, pieces)
    assert [tokenizer.piece(i) for i in tokenizer.special_ids] == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


@pytest.mark.parametrize("index", [-1, 601])
def test_ids_that_do_not_exist_are_no_pieces(tokenizer, index):
    with pytest.raises(ValueError, match="outside the 601 ids"):
        tokenizer.piece(index)


@pytest.mark.parametrize("literal", LITERALS)
def test_text_that_spells_a_special_token_stays_text(tokenizer, bytes_tokenizer, literal):
    for text in (literal, f"a {literal} b", f"a{literal}{literal}"):
        assert set(tokenizer.ids(text)).isdisjoint(set(tokenizer.special_ids) - {tokenizer.unk_id})
        assert set(bytes_tokenizer.ids(text)).isdisjoint(bytes_tokenizer.special_ids)
        assert bytes_tokenizer.decode(bytes_tokenizer.ids(text)) == text


def test_specials_inside_a_foreign_model_keep_their_ids_but_are_not_spelt_by_text(documents):
    model = foreign_model(documents, user_defined_symbols=["[CLS]", "[SEP]", "[MASK]", "<sign>"], pad_id=3)
    plain = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = SentencePieceTokenizer(model)
    assert plain.piece_to_id("[MASK]") in plain.encode("a [MASK] b")  # what must not happen
    for name, index in (("<pad>", tokenizer.pad_id), ("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)):
        assert plain.piece_to_id(name) == index
    assert (tokenizer.mask_id, tokenizer.unk_id) == (plain.piece_to_id("[MASK]"), plain.unk_id())
    assert set(tokenizer.ids("a [MASK] [CLS] [SEP] b")) & set(tokenizer.special_ids) <= {tokenizer.unk_id}
    assert tokenizer.ids("a <sign> b") == plain.encode("a <sign> b")  # a symbol that is no special stays one
    assert plain.piece_to_id("<sign>") in tokenizer.ordinary_ids
    assert tokenizer.size == plain.get_piece_size()


def test_specials_missing_in_a_foreign_model_get_the_next_ids(documents):
    tokenizer = SentencePieceTokenizer(foreign_model(documents, control_symbols=["[SEP]", "<other>"]))
    plain_size = 200
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id) == (plain_size, plain_size + 1, plain_size + 2)
    assert tokenizer.size == plain_size + 3
    assert [tokenizer.piece(i) for i in (200, 201, tokenizer.sep_id, 202)] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    controls = {tokenizer.piece(i) for i in tokenizer.special_ids}
    assert controls == {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "<unk>", "<s>", "</s>", "<other>"}


@pytest.mark.parametrize("text", STRANGE)
def test_offsets_are_ordered_trimmed_and_cover_every_visible_character(tokenizer, bytes_tokenizer, text):
    for each in (tokenizer, bytes_tokenizer):
        encoding = each.encode(text)
        assert encoding.ids == [each.cls_id, *each.ids(text), each.sep_id]
        assert encoding.offsets[0] == encoding.offsets[-1] == (0, 0)
        inner = encoding.offsets[1:-1]
        assert all(text[s:e] == text[s:e].strip() for s, e in inner)
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(inner))
        covered = set(itertools.chain.from_iterable(range(s, e) for s, e in inner))
        assert {i for i, c in enumerate(text) if not c.isspace()} - covered == set()


def test_offsets_point_at_the_text_of_their_piece(tokenizer, documents):
    for text in (*documents[:20], "ﬁne ㎡ café  spaced\nout"):
        encoding = tokenizer.encode(text)
        for index, (start, end) in zip(encoding.ids[1:-1], encoding.offsets[1:-1], strict=True):
            surface = unicodedata.normalize("NFKC", text[start:end])
            if index != tokenizer.unk_id and unicodedata.normalize("NFKC", text[start:end]) == text[start:end]:
                assert tokenizer.piece(index).removeprefix("▁") == surface


def test_the_bytes_of_a_character_all_point_at_it(bytes_tokenizer):
    encoding = bytes_tokenizer.encode("👍é")
    pointed = ["👍é"[s:e] for s, e in encoding.offsets if e > s]
    assert pointed == ["👍"] * 4 + ["é"] * 2


def test_a_pair_is_two_segments_with_offsets_into_each_text(tokenizer, documents):
    first, second = documents[0][:40], documents[1][:60]
    pair, left, right = tokenizer.encode(first, second), tokenizer.encode(first), tokenizer.encode(second)
    assert pair.ids == left.ids + right.ids[1:]
    assert pair.offsets == left.offsets + right.offsets[1:]
    assert pair.segments == [0] * len(left.ids) + [1] * (len(right.ids) - 1)
    assert tokenizer.encode("", "").ids == [tokenizer.cls_id, tokenizer.sep_id, tokenizer.sep_id]


def test_decoding_gives_the_text_back_and_shows_masks(tokenizer, documents):
    for text in documents[:20]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    ids = tokenizer.encode(documents[0]).ids
    word = next(
        i for i in range(2, len(ids) - 2) if tokenizer.starts_word[ids[i]] and tokenizer.starts_word[ids[i + 1]]
    )
    masked = [*ids[:word], tokenizer.mask_id, *ids[word + 1 :]]
    before, after = tokenizer.decode(ids[:word]), tokenizer.decode(ids[word + 1 :])
    assert tokenizer.decode(masked) == f"{before} [MASK] {after}"
    assert tokenizer.decode([tokenizer.mask_id, tokenizer.pad_id]) == "[MASK]"
    assert "[UNK]" in tokenizer.decode(tokenizer.ids("日本"))
    assert tokenizer.decode([]) == ""


def test_text_after_a_mask_continues_its_word_unless_a_space_is_between(tokenizer, spm_dir):
    plain = sentencepiece.SentencePieceProcessor(model_file=str(spm_dir / "spm.model"))
    before, mask = plain.encode("ka"), tokenizer.mask_id
    assert tokenizer.encode_masked("ka [MASK] te") == [1, *before, mask, *plain.encode("te"), 2]
    without_mark = plain.piece_to_id(".")
    assert plain.encode(".") != [without_mark]
    assert tokenizer.encode_masked("ka [MASK].") == [1, *before, mask, without_mark, 2]
    assert tokenizer.encode_masked("[MASK] [MASK]") == [1, mask, mask, 2]


def test_byte_fallback_spells_any_text_without_unknowns(tokenizer, bytes_tokenizer):
    text = "日本 👍"
    assert tokenizer.unk_id in tokenizer.ids(text)
    assert bytes_tokenizer.unk_id not in bytes_tokenizer.ids(text)
    assert bytes_tokenizer.decode(bytes_tokenizer.ids(text)) == text


def test_random_replacements_are_ordinary_pieces_only(tokenizer, bytes_tokenizer):
    assert tokenizer.ordinary_ids.dtype == np.int32
    assert set(tokenizer.ordinary_ids) == set(range(tokenizer.size)) - set(tokenizer.special_ids)
    assert {bytes_tokenizer.piece(i) for i in range(256 + 4)} >= {"<0x00>", "<0xFF>"}
    assert not any(bytes_tokenizer.piece(i).startswith("<0x") for i in bytes_tokenizer.ordinary_ids)
    assert len(bytes_tokenizer.ordinary_ids) == 500 - 4 - 256


def test_words_start_where_a_space_was(tokenizer):
    assert tokenizer.starts_word.shape == (tokenizer.size,)
    starts = {i for i in range(tokenizer.size) if tokenizer.piece(i).startswith("▁")} | set(tokenizer.special_ids)
    assert set(np.flatnonzero(tokenizer.starts_word)) == starts


def test_a_saved_vocabulary_is_the_same_bytes(tokenizer, spm_dir, tmp_path):
    tokenizer.save_vocabulary(tmp_path / "copy")
    for name in ("spm.model", "tokenizer_settings.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (spm_dir / name).read_bytes()
    assert tokenizer.fingerprint == hashlib.sha256((spm_dir / "spm.model").read_bytes()).hexdigest()
    assert load_tokenizer(tmp_path / "copy" / "spm.model").fingerprint == tokenizer.fingerprint


def test_a_broken_model_is_refused_by_name(spm_dir, tmp_path):
    for content in (b"", b"no model at all", (spm_dir / "spm.model").read_bytes()[:1000]):
        (tmp_path / "broken.model").write_bytes(content)
        with pytest.raises(Refused, match=r"broken\.model is not a sentencepiece model"):
            load_tokenizer(tmp_path / "broken.model")


def without_charsmap(model: bytes) -> bytes:
    """The model without its table of normalisation, nine tenths of its bytes, so that flips meet the pieces."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.ClearField("precompiled_charsmap")
    return proto.SerializeToString()


def use(tokenizer: SentencePieceTokenizer) -> None:
    for text in ("", "ka te", "日本 ﬁ [MASK]x\n<0x41>"):
        tokenizer.decode(tokenizer.encode(text).ids)
        tokenizer.decode(tokenizer.encode_masked(text))
        assert tokenizer.ids_of([text]) == [tokenizer.ids(text)]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("flips", [1, 3])
def test_a_model_with_damaged_bytes_works_or_is_refused(spm_dir, tmp_path, small, flips):
    model = (spm_dir / "spm.model").read_bytes()
    model = without_charsmap(model) if small else model
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = np.frombuffer(model, np.uint8).copy()
        damaged[rng.integers(len(model), size=flips)] = rng.integers(256, size=flips)
        (tmp_path / "spm.model").write_bytes(damaged.tobytes())
        try:
            use(load_tokenizer(tmp_path))
        except Refused as error:
            assert str(error).startswith(f"{tmp_path}/spm.model is not a sentencepiece model: ")
            refused += 1
    assert 0 < refused < 150


@pytest.mark.parametrize(
    ("piece", "kind", "reason"),
    [(b"\xff", 1, "piece 4 is not UTF-8"), (b"a", 3, "no unknown piece"), (b"a", 2, "INTERNAL: unk is already")],
)
def test_what_is_wrong_with_a_model_is_said(spm_dir, tmp_path, piece, kind, reason):
    proto = sentencepiece_model_pb2.ModelProto.FromString((spm_dir / "spm.model").read_bytes())
    proto.pieces[3].type = kind if kind == 3 else 2
    proto.pieces[4].piece, proto.pieces[4].type = "zz", kind
    model = proto.SerializeToString().replace(b"\x0a\x02zz", b"\x0a\x02" + 2 * piece)
    (tmp_path / "spm.model").write_bytes(model)
    with pytest.raises(Refused, match=rf"spm\.model is not a sentencepiece model: .*{reason}"):
        load_tokenizer(tmp_path)


def test_a_damaged_table_of_normalisation_is_not_exported(spm_dir, tmp_path):
    proto = sentencepiece_model_pb2.ModelProto.FromString((spm_dir / "spm.model").read_bytes())
    table = proto.normalizer_spec.precompiled_charsmap
    proto.normalizer_spec.precompiled_charsmap = table[:-2] + b"\xff\0"
    tokenizer = SentencePieceTokenizer(proto.SerializeToString())
    with pytest.raises(Refused, match="the model's table of normalisation is damaged: 'utf-8' codec"):
        write_tokenizer_json(tokenizer, tmp_path)


def test_training_twice_gives_the_same_bytes(documents):
    for settings in (SETTINGS, SETTINGS | {"max_sentences": 101}):
        assert train_unigram(documents, **settings) == train_unigram(documents, **settings)


def test_sampled_sentences_come_from_the_whole_text(documents):
    doubled = [*documents, *(text.upper() for text in documents)]
    sampled = SentencePieceTokenizer(train_unigram(doubled, **SETTINGS | {"max_sentences": 150}))
    whole = SentencePieceTokenizer(train_unigram(doubled, **SETTINGS))
    assert sampled.fingerprint != whole.fingerprint
    pieces = [sampled.piece(i) for i in sampled.ordinary_ids]
    assert any(len(p) > 2 and p.isupper() for p in pieces) and any(len(p) > 2 and p.islower() for p in pieces)


def test_a_vocabulary_too_large_for_the_text_is_refused_with_the_largest_size(documents):
    with pytest.raises(Refused, match=r"vocab_size=100000: this text gives at most \d+ pieces") as refused:
        train_unigram(documents[:20], **SETTINGS | {"vocab_size": 100_000})
    largest = int(str(refused.value).split("at most ")[1].split()[0])
    tokenizer = SentencePieceTokenizer(train_unigram(documents[:20], **SETTINGS | {"vocab_size": largest}))
    assert tokenizer.size == largest + 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [({"max_sentences": -5}, "must be 0, for all, or more than 100"), ({"vocab_size": 10**12}, "could not train")],
)
def test_numbers_that_sentencepiece_cannot_have_are_refused(documents, setting, reason):
    with pytest.raises(Refused, match=reason):
        train_unigram(documents[:20], **SETTINGS | setting)


@pytest.mark.parametrize(("size", "reason"), [(5, "leaves no room"), (12, "characters alone need")])
def test_a_vocabulary_too_small_for_the_text_is_refused(documents, size, reason):
    with pytest.raises(Refused, match=reason):
        train_unigram(documents[:20], **SETTINGS | {"vocab_size": size})


def test_training_on_no_text_is_refused():
    with pytest.raises(Refused, match="holds no text"):
        train_unigram(["", "\n \n"], **SETTINGS)


def test_long_lines_are_cut_at_spaces_and_nothing_is_lost():
    text = "word " * 1000 + "\n\n" + "x" * 2500 + "\nshort"
    cut = list(sentences([text]))
    assert max(map(len, cut)) <= SENTENCE_CHARACTERS
    assert "".join(cut).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert not any(piece.endswith("wor") for piece in cut)


def test_the_command_writes_model_and_settings_without_paths(documents, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(documents[:150]), encoding="utf-8")
    argv = [f"--input={tmp_path}/*.txt", "--vocab_size=3e2", f"--output={tmp_path}/tokenizer"]
    train_tokenizer.main(argv)
    settings = (tmp_path / "tokenizer" / "tokenizer_settings.json").read_text()
    assert str(tmp_path) not in settings
    assert json.loads(settings)["vocab_size"] == 300
    assert json.loads(settings)["input"] == ["a.txt"]
    assert load_tokenizer(tmp_path / "tokenizer").size == 301
    assert "300 pieces" in capsys.readouterr().out
    first = (tmp_path / "tokenizer" / "spm.model").read_bytes()
    train_tokenizer.main(argv)
    assert (tmp_path / "tokenizer" / "spm.model").read_bytes() == first


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--vocab_sise=300", "did you mean '--vocab_size'"),
        ("--vocab_size=many", "expects a whole number"),
        ("--input=nothing/*.txt", "matches no file"),
    ],
)
def test_the_command_refuses_wrong_flags(tmp_path, flag, message):
    with pytest.raises(Refused, match=message):
        train_tokenizer.main(["--input=builtin", "--vocab_size=300", f"--output={tmp_path}/t", flag])
    assert not (tmp_path / "t").exists()


def test_beside_weights_there_may_be_no_tokenizer_or_only_one_that_is_not_read(spm_dir, tmp_path):
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": []}}')
    assert find_tokenizer(tmp_path) is None
    for content in ('{"model": "Unigram"}', "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(Refused, match=rf"^{tmp_path}/tokenizer\.json"):
            find_tokenizer(tmp_path)
    (tmp_path / "spm.model").write_bytes((spm_dir / "spm.model").read_bytes())
    assert find_tokenizer(tmp_path).fingerprint == load_tokenizer(spm_dir).fingerprint
