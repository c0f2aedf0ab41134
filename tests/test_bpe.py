"""Byte-level BPE: ids, specials, offsets, masks, files; models are trained here and compared with the library."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from deberta_jax.config import MaskConfig
from deberta_jax.data.masking import Vocabulary, mask_rows
from deberta_jax.data.prepared import read_manifest
from deberta_jax.errors import Refused
from deberta_jax.tokenizers import ByteLevelBPETokenizer, load_tokenizer
from deberta_jax.tokenizers.bpe import SPECIALS
from runs import prepare_rows

STRANGE = (
    "",
    " ",
    "two\nlines\r\nand a\ttab",
    "no\u00a0break\u2003spaces  doubled ",
    "emoji 👍🏽 family 👨‍👩‍👧 end",
    "日本語の文 and cafe\u0301 İ",
    "nul \0 inside",
    "[MASK] is [CLS] no [SEP] special [PAD] [UNK]",
)


@pytest.fixture(scope="module")
def library(documents: list[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE that the library trained, [MASK] last as in the released vocabulary."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["[PAD]", "[CLS]", "[SEP]", "[UNK]"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(documents[:50], trainer)
    return library


@pytest.fixture(scope="module")
def directory(library: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vocab.json and merges.txt with [MASK] as the last id."""
    directory = tmp_path_factory.mktemp("bpe")
    library.model.save(str(directory))
    vocab = json.loads((directory / "vocab.json").read_text())
    (directory / "vocab.json").write_text(json.dumps(vocab | {"[MASK]": len(vocab)}))
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> ByteLevelBPETokenizer:
    return load_tokenizer(directory)


def test_ids_equal_the_librarys_without_special_tokens(tokenizer, library, documents):
    library = tokenizers.Tokenizer(library.model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (*documents[:20], *STRANGE):
        assert tokenizer.ids(text) == library.encode(text).ids
        assert tokenizer.id_array(text).tolist() == tokenizer.ids(text)
        assert set(tokenizer.ids(text)).isdisjoint(tokenizer.special_ids)
    assert tokenizer.id_array("").dtype == np.int32
    assert tokenizer.ids_of(STRANGE) == [tokenizer.ids(text) for text in STRANGE]


def test_special_tokens_have_the_ids_of_the_vocabulary(tokenizer):
    named = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id)
    assert named == (0, 1, 2, 3, 500)
    assert tokenizer.special_ids == named
    assert [tokenizer.piece(index) for index in named] == list(SPECIALS.values())
    assert tokenizer.size == 501
    assert set(tokenizer.ordinary_ids) == set(range(4, 500))
    with pytest.raises(ValueError, match="outside the 501 ids"):
        tokenizer.piece(501)


def test_decoding_gives_every_text_back(tokenizer, documents):
    for text in (*documents[:20], *STRANGE):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.decode([tokenizer.unk_id]) == "[UNK]"


@pytest.mark.parametrize("text", STRANGE)
def test_offsets_are_ordered_trimmed_and_cover_every_visible_character(tokenizer, text):
    encoding = tokenizer.encode(text)
    assert encoding.ids == [tokenizer.cls_id, *tokenizer.ids(text), tokenizer.sep_id]
    assert encoding.offsets[0] == encoding.offsets[-1] == (0, 0)
    inner = encoding.offsets[1:-1]
    assert all(text[s:e] == text[s:e].strip() for s, e in inner)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(inner))
    covered = set(itertools.chain.from_iterable(range(s, e) for s, e in inner))
    assert {i for i, c in enumerate(text) if not c.isspace()} - covered == set()


def test_the_bytes_of_a_character_all_point_at_it(tokenizer):
    encoding = tokenizer.encode("日👍")
    assert ["日👍"[s:e] for s, e in encoding.offsets[1:-1]] == ["日"] * 3 + ["👍"] * 4


def test_a_pair_has_one_separator_between(tokenizer):
    pair, left, right = tokenizer.encode("Ka te", " mo"), tokenizer.encode("Ka te"), tokenizer.encode(" mo")
    assert pair.ids == left.ids + right.ids[1:]
    assert pair.ids == tokenizer.build_inputs_with_special_tokens(tokenizer.ids("Ka te"), tokenizer.ids(" mo"))
    assert pair.offsets == left.offsets + right.offsets[1:]
    assert pair.segments == [0] * len(left.ids) + [1] * (len(right.ids) - 1)


def test_words_start_where_white_space_was(tokenizer):
    for text, starts in ((" ka", True), ("ka", False), ("\n", True), ("\t", True), (".", False)):
        assert tokenizer.starts_word[tokenizer.ids(text)[0]] == starts
    assert tokenizer.starts_word[list(tokenizer.special_ids)].all()


def test_a_mask_takes_the_space_before_it_and_what_follows_continues(tokenizer):
    word = tokenizer.ids(" ka")
    assert tokenizer.encode_masked("ne [MASK] ka") == [1, *tokenizer.ids("ne"), 500, *word, 2]
    assert tokenizer.encode_masked("ne[MASK].") == [1, *tokenizer.ids("ne"), 500, *tokenizer.ids("."), 2]
    assert tokenizer.encode_masked("[MASK] [MASK]") == [1, 500, 500, 2]
    assert tokenizer.decode(tokenizer.encode_masked("ne [MASK] ka [MASK].")) == "ne [MASK] ka [MASK]."
    assert tokenizer.decode(tokenizer.encode_masked("[MASK] ka")) == "[MASK] ka"


def test_a_space_before_the_first_word_on_request(tokenizer):
    with_space = ByteLevelBPETokenizer(tokenizer.files, add_prefix_space=True)
    assert with_space.ids("ka te") == with_space.ids(" ka te") == tokenizer.ids(" ka te")
    assert with_space.encode("ka te").offsets == tokenizer.encode("ka te").offsets
    assert with_space.encode_masked("ka [MASK].") == [1, *tokenizer.ids(" ka"), 500, *tokenizer.ids("."), 2]
    assert with_space.fingerprint != tokenizer.fingerprint


def test_rows_are_masked_as_with_any_tokenizer(tokenizer, documents):
    ids = np.array(tokenizer.encode(documents[0]).ids[:64], np.int32)
    masked = mask_rows(
        ids[None],
        np.ones((1, len(ids)), np.int32),
        np.zeros(1, int),
        seed=0,
        mask=MaskConfig(rate=0.15, mask_share=0.8, random_share=0.1, unit="word", max_ngram=1),
        vocabulary=Vocabulary.of(tokenizer),
    )
    masked = {key: value[0] for key, value in masked.items()}
    places = masked["masked_positions"][masked["weights"] > 0]
    assert len(places) > 0
    assert (masked["labels"][: len(places)] == ids[places]).all()
    assert set(ids[places]).isdisjoint(tokenizer.special_ids)
    assert tokenizer.mask_id in masked["input_ids"]


def test_a_corpus_is_prepared_with_it(tokenizer, directory, documents, tmp_path):
    prepare_rows(documents[:20], directory, tmp_path / "rows", length=32, holdout=0.0)
    manifest = read_manifest(tmp_path / "rows")
    assert manifest.tokenizer_fingerprint == tokenizer.fingerprint
    assert load_tokenizer(manifest.tokenizer_path).fingerprint == tokenizer.fingerprint


def test_a_saved_vocabulary_is_the_same_bytes_and_the_same_fingerprint(tokenizer, directory, tmp_path):
    tokenizer.save_vocabulary(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    for name in ("merges.txt", "vocab.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\n" + (tmp_path / "merges.txt").read_bytes().split(b"\n")[1])
    assert load_tokenizer(tmp_path / "vocab.json").fingerprint != tokenizer.fingerprint


def test_options_and_added_tokens_are_saved(tokenizer, tmp_path):
    changed = ByteLevelBPETokenizer(tokenizer.files, b"{}", add_prefix_space=True, added=["<ent>", "ка"])
    changed.save_vocabulary(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.added, again.options, again.settings) == (("<ent>", "ка"), {"add_prefix_space": True}, b"{}")
    assert again.fingerprint == changed.fingerprint
    ids = again.ids("ne<ent> каte")
    assert [i for i in ids if i > 500] == [501, 502]
    assert again.decode(ids) == " ne<ent> ка te"
    assert [again.piece(i) for i in again.ordinary_ids[-2:]] == ["<ent>", "ка"]


def test_tokenizer_json_says_the_same(tokenizer, library, directory, tmp_path):
    values = json.loads(library.to_str())
    values["pre_tokenizer"]["add_prefix_space"] = True
    flags = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True}
    values["added_tokens"].append({"id": 500, "content": "[MASK]", **flags})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    read = load_tokenizer(tmp_path)
    assert (read.size, read.mask_id, read.added) == (501, 500, ())
    assert read.ids("ka te\n") == tokenizer.ids(" ka te\n")
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": false, "model_max_length": 512}')
    assert load_tokenizer(tmp_path).ids("ka te\n") == tokenizer.ids("ka te\n")
    values["added_tokens"].append({"id": 501, "content": "<ent>", **flags, "lstrip": False})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    assert load_tokenizer(tmp_path).added == ("<ent>",)
    load_tokenizer(tmp_path).save_vocabulary(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_ids_without_a_piece_are_never_used(directory, tmp_path):
    vocab = json.loads((directory / "vocab.json").read_text()) | {"[MASK]": 503}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_bytes((directory / "merges.txt").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.size, tokenizer.mask_id, tokenizer.piece(501)) == (504, 503, "[unused 501]")
    assert set(tokenizer.ordinary_ids) == set(range(4, 500))
    assert tokenizer.with_added_tokens(["<ent>"]).ids("<ent>") == [504]


def test_a_byte_without_a_piece_is_unknown(directory, tmp_path):
    vocab = json.loads((directory / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({piece: i for piece, i in vocab.items() if piece != "q"}))
    (tmp_path / "merges.txt").write_bytes((directory / "merges.txt").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.ids("q!") == [tokenizer.unk_id, vocab["!"]]
    assert tokenizer.decode(tokenizer.ids("q!")) == "[UNK]!"


def broken_json(values: dict, **changed) -> bytes:
    """tokenizer.json with other fields: of the model if it has them, else of the file."""
    values = json.loads(json.dumps(values))
    for field, value in changed.items():
        (values["model"] if field in values["model"] else values)[field] = value
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ignore_merges": True}, "ignore_merges=True is not supported"),
        ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix='##' is not supported"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "no byte-level BPE"),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, "use_regex=False"),
        ({"normalizer": {"type": "NFC"}}, "without normalisation"),
        ({"vocab": ["a"]}, "no byte-level BPE"),
        ({"added_tokens": []}, r"no piece \[MASK\]"),
        ({"added_tokens": [{"content": "x"}]}, "added tokens are not written as"),
        ({"added_tokens": [{"id": [1], "content": "x"}]}, "added tokens are not written as"),
        ({"added_tokens": [{"id": 7, "content": "x"}, {"id": 7, "content": "y"}]}, "two added tokens have id 7"),
        ({"added_tokens": [5]}, "added tokens are not written as"),
        ({"added_tokens": "x"}, "added_tokens='x' must be a list"),
        ({"added_tokens": 5}, "added_tokens=5 must be a list"),
        ({"added_tokens": [{"id": 10**9, "content": "[MASK]"}]}, "id 1000000000 is too large for 501 pieces"),
        ({"model": "BPE"}, "model='BPE' must be a JSON object"),
        ({"model": ["BPE"]}, r"model=\['BPE'\] must be a JSON object"),
        ({"type": "WordPiece"}, "no byte-level BPE"),
        ({"pre_tokenizer": "ByteLevel"}, "pre_tokenizer='ByteLevel' must be a JSON object"),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": "x"}}, "use_regex='x' must be true or false"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": "x"}}, "add_prefix_space='x' must be true or"),
        ({"merges": None}, "merges=None must be a list"),
        ({"merges": 5}, "merges=5 must be a list"),
        ({"merges": [5]}, "the merge 5 is no pair of pieces"),
        ({"merges": [["a", ["b"]]]}, r"the merge \['a', \['b'\]\] is no pair of pieces"),
        ({"merges": [["a"]], "added_tokens": [{"id": 500, "content": "[MASK]"}]}, "the merge 'a' is not made of"),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused(library, changed, reason, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(broken_json(json.loads(library.to_str()), **changed))
    with pytest.raises(Refused, match=reason):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("vocab.json", b"{", r"vocab\.json is not JSON"),
        ("vocab.json", b"[]", r"vocab\.json holds no JSON object"),
        ("vocab.json", b'{"a": 0, "b": 0}', "not distinct numbers"),
        ("vocab.json", b'{"a": 0, "b": "1"}', "not distinct numbers"),
        ("vocab.json", b'{"a": 0, "b": true}', "not distinct numbers"),
        ("vocab.json", b'{"a": 0, "b": -1}', "not distinct numbers"),
        ("vocab.json", b'{"a": 0, "b": 1e0}', "not distinct numbers"),
        ("vocab.json", b'{"a": 0, "b": 1, "a": 2}', r"vocab\.json is not JSON: it has 'a' twice"),
        ("vocab.json", b'{"a": 0, "b": 1000000000}', "id 1000000000 is too large for 2 pieces"),
        ("vocab.json", b'{"a": 0, "\\ud800": 1}', "a piece holds a lone surrogate"),
        ("vocab.json", b'{"a": 0}', r"no piece \[PAD\]"),
        ("merges.txt", b"\xff", r"merges\.txt is not UTF-8"),
        ("merges.txt", b"k k k\n", "the merge 'k k k' is not made of pieces"),
        ("merges.txt", "q 日\n".encode(), "the merge 'q 日' is not made of pieces"),
    ],
)
def test_broken_files_are_refused_by_name(directory, tmp_path, name, content, reason):
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).write_bytes(content if file == name else (directory / file).read_bytes())
    with pytest.raises(Refused, match=reason):
        load_tokenizer(tmp_path)


WRONG = (None, True, 5, -1, 1.5, 10**9, float("inf"), "x", "\ud800", "", [], [5], [["a"]], {}, {"x": 5}, [{"id": 7}])


def places(values: dict | list, deep: int = 4) -> Iterator[tuple[dict | list, str | int]]:
    """Each place of a JSON value as (container, key); of an object or a list with many, the first and the last."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    for key in keys if len(keys) < 20 else (keys[0], keys[-1]):
        yield values, key
        if deep and isinstance(values[key], dict | list):
            yield from places(values[key], deep - 1)


def test_any_field_of_a_tokenizer_json_may_be_wrong(library, tmp_path):
    values = json.loads(library.to_str())
    values["added_tokens"].append(values["added_tokens"][0] | {"id": 500, "content": "[MASK]"})
    tried = [0, 0]
    for container, key in places(values):
        right = container[key]
        for wrong in WRONG:
            container[key] = wrong
            (tmp_path / "tokenizer.json").write_text(json.dumps(values))
            tried[works_or_is_refused(tmp_path)] += 1
        container[key] = right
    assert min(tried) > 50


def works_or_is_refused(directory: Path) -> bool:
    try:
        tokenizer = load_tokenizer(directory)
    except Refused as error:
        assert str(directory) in str(error) and len(str(error)) < 500
        return False
    assert tokenizer.encode("ka te [MASK]").ids[0] == tokenizer.cls_id
    return True


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_files_with_damaged_bytes_work_or_are_refused(directory, tmp_path, name):
    rng = np.random.default_rng(0)
    for file in ("vocab.json", "merges.txt"):
        (tmp_path / file).write_bytes((directory / file).read_bytes())
    content = (directory / name).read_bytes()
    for _ in range(200):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(len(content), size=2)] = rng.integers(256, size=2)
        (tmp_path / name).write_bytes(damaged.tobytes())
        works_or_is_refused(tmp_path)


def test_the_largest_id_may_leave_some_free(directory, tmp_path):
    vocab = json.loads((directory / "vocab.json").read_text())
    (tmp_path / "merges.txt").write_bytes((directory / "merges.txt").read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"[MASK]": 2 * len(vocab) + 999}))
    assert load_tokenizer(tmp_path).size == 2 * len(vocab) + 1000
    (tmp_path / "vocab.json").write_text(json.dumps(vocab | {"[MASK]": 2 * len(vocab) + 1000}))
    with pytest.raises(Refused, match="id 2002 is too large for 501 pieces"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("added", [[], ["<ent>"]])
def test_a_lone_surrogate_is_no_text(tokenizer, added):
    changed = tokenizer.with_added_tokens(added)
    calls = (changed.ids, changed.id_array, changed.encode, changed.encode_masked)
    for call in (*calls, lambda text: changed.ids_of(["ka", text]), lambda text: changed.encode("ka", text)):
        for text in ("a\ud800b", "a\udc80", "x\ud83d [MASK]"):
            with pytest.raises(ValueError, match="text holds a lone surrogate, which is no character: place 1"):
                call(text)
