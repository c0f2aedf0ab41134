"""tokenizer_config.json, lower case, punctuation, added tokens, and what a directory's tokenizer is read from."""

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tokenizers import SentencePieceTokenizer, find_tokenizer, load_tokenizer
from deberta_jax.tokenizers.added_tokens import finder, stretches
from deberta_jax.tokenizers.chunks import lower_case, punctuation_chunks

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tokenizer"
TEXTS = ("Ka, te! (MO)", "İstanbul İ  $5 ΑΣ.", "  ", "", "don't — «stop»\n", "<ent>", "x <ent>y<entity> z", "ΑΣ<ent>ß")


@pytest.fixture(scope="module")
def model(spm_dir: Path) -> bytes:
    return (spm_dir / "spm.model").read_bytes()


@pytest.fixture(scope="module")
def plain(model: bytes) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(model)


def test_lower_case_knows_where_its_characters_come_from():
    assert lower_case("AİB") == ("ai\u0307b", [0, 1, 1, 2, 3])
    assert lower_case("ΑΣ") == ("ας", [0, 1, 2])


def test_punctuation_and_what_is_between_lose_nothing():
    assert [c for _, c in punctuation_chunks("a$, b¿«c d")] == ["a", "$", ",", " b", "¿", "«", "c d"]
    for text in TEXTS:
        assert "".join(c for _, c in punctuation_chunks(text)) == text
        assert all(text[start:].startswith(chunk) for start, chunk in punctuation_chunks(text))


def test_the_longest_added_token_is_found_first():
    found = list(stretches("a<e<ent>b<e", finder(["<e", "<ent>"])))
    assert found == [(0, "a"), (1, "<e"), (3, "<ent>"), (8, "b"), (9, "<e")]
    assert list(stretches("", finder(["x"]))) == list(stretches("", None)) == []


def test_options_are_done_before_sentencepiece(model, plain):
    lower = SentencePieceTokenizer(model, do_lower_case=True)
    punct = SentencePieceTokenizer(model, split_by_punct=True)
    for text in TEXTS:
        assert lower.ids(text) == plain.ids(text.lower())
        chunks = re.findall(r"[^\w\s]|[\w\s]+", text)
        assert punct.ids(text) == [index for chunk in chunks for index in plain.ids(chunk)]
        assert punct.id_array(text).tolist() == punct.ids(text)
        assert punct.ids_of([text, text]) == [punct.ids(text)] * 2
    assert punct.encode_masked("ka [MASK].")[-3:-1] == plain.ids(".")
    continued = plain.encode_masked("ka [MASK]te")[:-1]
    assert punct.encode_masked("ka [MASK]te.") == [*continued, *plain.ids("."), plain.sep_id]


def test_published_examples():
    if not DATA.is_dir():
        pytest.skip(f"needs the published examples in {DATA}; DEBERTA_JAX_DATA names the folder above it")
    golden = json.loads((DATA / "deberta_v2_spiece_golden.json").read_text())
    for case in golden["cases"]:
        tokenizer = SentencePieceTokenizer((DATA / golden["fixture"]).read_bytes(), **case["kwargs"])
        ids = tokenizer.ids(case["text"])
        assert [tokenizer.piece(index) for index in ids] == case["tokens_from_ids"]
        assert ids == case.get("ids", ids)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("punct", [False, True])
def test_offsets_are_of_the_text_as_it_was(model, text, lower, punct):
    tokenizer = SentencePieceTokenizer(model, do_lower_case=lower, split_by_punct=punct, added=["<ent>", "<entity>"])
    encoding = tokenizer.encode(text)
    assert encoding.ids == [tokenizer.cls_id, *tokenizer.ids(text), tokenizer.sep_id]
    inner = encoding.offsets[1:-1]
    assert all(text[s:e] == text[s:e].strip() for s, e in inner)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(inner))
    covered = set(itertools.chain.from_iterable(range(s, e) for s, e in inner))
    assert {i for i, c in enumerate(text) if not c.isspace()} - covered == set()
    for index, (start, end) in zip(encoding.ids[1:-1], inner, strict=True):
        if index in tokenizer.ordinary_ids:
            surface = text[start:end].lower() if lower and index < 601 else text[start:end]
            assert tokenizer.piece(index).removeprefix("▁") == surface.removesuffix("\u0307")  # "İ" becomes two


def test_added_tokens_follow_the_others_and_are_never_split(plain):
    tokenizer = plain.with_added_tokens(["<ent>", "<entity>"]).with_added_tokens(["ka te"])
    assert (plain.size, tokenizer.size, plain.added) == (601, 604, ())
    assert tokenizer.ids("ne <entity><ent> ka te") == [*plain.ids("ne"), 602, 601, 603]
    assert tokenizer.id_array("ne <ent> ka").tolist() == tokenizer.ids("ne <ent> ka")
    assert tokenizer.ids("ne ka") == plain.ids("ne ka")
    assert [tokenizer.piece(i) for i in range(601, 604)] == ["<ent>", "<entity>", "ka te"]
    assert set(tokenizer.ordinary_ids) == set(plain.ordinary_ids) | {601, 602, 603}
    assert tokenizer.starts_word.shape == (604,) and tokenizer.starts_word[601:].all()
    assert tokenizer.special_ids == plain.special_ids
    assert tokenizer.encode_masked("<ent>[MASK]<ent>") == [1, 601, 600, 601, 2]
    assert tokenizer.decode(tokenizer.ids("ne <ent> ba")) == "ne <ent> ba"


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (["<a>", ""], "added token '' is empty"),
        ([" "], "is empty"),
        (["<a>", "<a>"], "'<a>' is given twice"),
        (["<a>", "\ud800"], r"added token '\\ud800' holds a lone surrogate"),
        (["[MASK]"], r"'\[MASK\]' exists: it is id 600"),
        (["[CLS]"], r"'\[CLS\]' exists: it is id 1"),
    ],
)
def test_tokens_that_cannot_be_added_are_refused(plain, tokens, reason):
    with pytest.raises(Refused, match=reason):
        plain.with_added_tokens(tokens)
    with pytest.raises(Refused, match="exists: it is id 601|given twice"):
        plain.with_added_tokens(["<b>"]).with_added_tokens(["<b>"])


def test_the_fingerprint_is_of_all_that_changes_ids(model, plain):
    changed = [
        SentencePieceTokenizer(model, do_lower_case=True),
        SentencePieceTokenizer(model, split_by_punct=True),
        plain.with_added_tokens(["<a>"]),
        plain.with_added_tokens(["<a>", "<b>"]),
        plain.with_added_tokens(["<b>", "<a>"]),
    ]
    assert len({plain.fingerprint, *(tokenizer.fingerprint for tokenizer in changed)}) == 6
    assert SentencePieceTokenizer(model, b"{}", do_lower_case=False).fingerprint == plain.fingerprint


def test_options_and_added_tokens_are_saved_and_defaults_write_nothing(model, plain, tmp_path):
    plain.save_vocabulary(tmp_path / "plain")
    assert [file.name for file in (tmp_path / "plain").iterdir()] == ["spm.model"]
    tokenizer = SentencePieceTokenizer(model, do_lower_case=True, split_by_punct=True, added=["<ent>", "É"])
    tokenizer.save_vocabulary(tmp_path / "changed")
    again = load_tokenizer(tmp_path / "changed")
    assert (again.options, again.added) == (tokenizer.options, tokenizer.added)
    assert again.fingerprint == tokenizer.fingerprint
    again.save_vocabulary(tmp_path / "again")
    for file in (tmp_path / "changed").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def load_with(directory: Path, model: bytes, **files: dict) -> SentencePieceTokenizer:
    directory.mkdir(exist_ok=True)
    (directory / "spm.model").write_bytes(model)
    for name, values in files.items():
        (directory / f"{name}.json").write_text(json.dumps(values))
    return load_tokenizer(directory)


def test_files_of_transformers_are_understood(model, plain, tmp_path):
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    tokens = {"0": {"content": "[PAD]", "special": True}, "600": {"content": "[MASK]", "lstrip": True, "special": True}}
    tokens |= {"602": {"content": "<b>", **flags}, "601": {"content": "<a>", **flags}}
    values = {"do_lower_case": True, "split_by_punct": False, "add_prefix_space": True, "model_max_length": 1e30}
    tokenizer = load_with(tmp_path / "5", model, tokenizer_config=values | {"added_tokens_decoder": tokens})
    assert (tokenizer.added, tokenizer.options["do_lower_case"]) == (("<a>", "<b>"), True)
    old = load_with(tmp_path / "4", model, added_tokens={"<a>": 601, "[MASK]": 600}, tokenizer_config={})
    assert old.fingerprint == plain.with_added_tokens(["<a>"]).fingerprint
    released = {"do_lower_case": False, "vocab_type": "spm"}
    assert load_with(tmp_path / "released", model, tokenizer_config=released).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"do_lower_case": "yes"}, r"tokenizer_config\.json: do_lower_case='yes' must be true or false"),
        ([], "holds no JSON object"),
        ({"added_tokens_decoder": {"603": {"content": "<a>"}}}, r"ids \[603\]; the model's end at 600"),
        ({"added_tokens_decoder": {"100": {"content": "<a>"}}}, "'<a>' has id 100, which is"),
        ({"added_tokens_decoder": {"601": {"content": "<a>", "lstrip": True}}}, "'<a>' has lstrip, which is not"),
        ({"added_tokens_decoder": {"601": "<a>"}}, "not written as in Hugging Face's files"),
        ({"added_tokens_decoder": {"601": {"content": 5}}}, "not written as in Hugging Face's files"),
        ({"added_tokens_decoder": {"601": {"content": "\ud800"}}}, "not written as in Hugging Face's files"),
        ({"added_tokens_decoder": {"-1": {"content": "<a>"}}}, "not written as in Hugging Face's files"),
        ({"added_tokens_decoder": {"9" * 5000: {"content": "<a>"}}}, "not written as in Hugging Face's files"),
        ({"added_tokens_decoder": {"601": {"content": "<a>"}, "0601": {"content": "<b>"}}}, "two .* have id 601"),
        ({"added_tokens_decoder": {"601": {"content": ""}}}, r"tokenizer_config\.json: added token '' is empty"),
        ({"added_tokens_decoder": [5]}, r"added_tokens_decoder=\[5\] must be a JSON object"),
        ({"do_lower_case": ["y" * 1000] * 100}, r"do_lower_case=\['yyyyyyyy.{1,500} must be true or false$"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(model, tmp_path, values, reason):
    with pytest.raises(Refused, match=reason):
        load_with(tmp_path, model, tokenizer_config=values)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(Refused, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ({"<a>": "601x"}, "the added tokens are not written as"),
        ({"<a>": [601]}, "the added tokens are not written as"),
        ({"<a>": 601.5}, "the added tokens are not written as"),
        ({"<a>": True}, "the added tokens are not written as"),
        ({"<a>": -1}, "the added tokens are not written as"),
        ({"<a>": float("inf")}, "the added tokens are not written as"),
        ({"<a>": 601, "<b>": 601}, "two added tokens have id 601"),
        ({"<a>": 10**9}, r"added tokens have ids \[1000000000\]"),
    ],
)
def test_added_tokens_without_proper_ids_are_refused(model, tmp_path, tokens, reason):
    with pytest.raises(Refused, match=rf"added_tokens\.json: {reason}"):
        load_with(tmp_path, model, added_tokens=tokens)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json", "vocab.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": 1, "b": 2, "a": 1}', b"\xff{"])
def test_what_is_no_proper_json_is_refused(model, tmp_path, name, content):
    if name in ("tokenizer_config.json", "added_tokens.json"):
        (tmp_path / "spm.model").write_bytes(model)
    (tmp_path / "merges.txt").write_bytes(b"")
    (tmp_path / name).write_bytes(content)
    reason = "it has 'a' twice" if content.endswith(b"}") else ""
    with pytest.raises(Refused, match=rf"^{tmp_path}.*{name} is not JSON: .*{reason}$"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "spm.model",
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "tokenizer_settings.json",
    ],
)
@pytest.mark.parametrize("kind", ["directory", "loop", "unreadable"])
def test_a_file_that_cannot_be_read_is_refused_by_name(model, tmp_path, name, kind):
    needed = {"vocab.json": "merges.txt", "merges.txt": "vocab.json"}.get(name, "spm.model")
    if name not in ("tokenizer.json", needed):
        (tmp_path / needed).write_bytes(model if needed == "spm.model" else b"{}")
    file = tmp_path / name
    if kind == "directory":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file)
    else:
        if not Path("/proc/self/mem").exists():
            pytest.skip("needs a file that even root cannot read")
        file.symlink_to("/proc/self/mem")
    reason = {"directory": "Is a directory", "loop": "Too many levels of symbolic links"}.get(kind, "")
    for load in (load_tokenizer, find_tokenizer):
        with pytest.raises(Refused, match=rf"{file} cannot be read: {reason}"):
            load(tmp_path)


@pytest.mark.parametrize("options", [{}, {"do_lower_case": True, "split_by_punct": True}, {"added": ["<ent>"]}])
def test_a_lone_surrogate_is_no_text(model, options):
    tokenizer = SentencePieceTokenizer(model, **options)
    calls = (tokenizer.ids, tokenizer.id_array, tokenizer.encode, tokenizer.encode_masked)
    for call in (*calls, lambda text: tokenizer.ids_of(["ka", text]), lambda text: tokenizer.encode("ka", text)):
        for text in ("a\ud800b", "a\udc80", "x\ud83d [MASK]"):
            with pytest.raises(ValueError, match="text holds a lone surrogate, which is no character: place 1"):
                call(text)
    assert tokenizer.ids_of(text for text in ("ka", "te")) == [tokenizer.ids("ka"), tokenizer.ids("te")]


def test_a_directory_is_read_by_what_it_holds(model, plain, tmp_path):
    with pytest.raises(Refused, match=r"looked for spm\.model, another \*\.model, vocab\.json with .* holds nothing$"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(Refused, match=r"it holds vocab\.json$"):
        load_tokenizer(tmp_path)
    with pytest.raises(Refused, match=r"merges\.txt does not exist"):
        load_tokenizer(tmp_path / "vocab.json")
    (tmp_path / "spiece.model").write_bytes(model)
    assert load_tokenizer(tmp_path).fingerprint == plain.fingerprint
    (tmp_path / "other.model").write_bytes(b"")
    with pytest.raises(Refused, match=r"holds other\.model, spiece\.model and no spm\.model: name one"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path / "spiece.model").fingerprint == plain.fingerprint
    (tmp_path / "spm.model").write_bytes(model)
    assert load_tokenizer(tmp_path).fingerprint == plain.fingerprint
    with pytest.raises(Refused, match=r"no tokenizer: .*nowhere does not exist"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize("pair", [None, [], [7, 8]])
def test_the_layout_of_special_tokens(plain, pair):
    ids = plain.build_inputs_with_special_tokens([5, 6], pair)
    assert ids == [1, 5, 6, 2] if pair is None else [1, 5, 6, 2, *pair, 2]
    special = plain.get_special_tokens_mask([5, 6], pair)
    assert special == [int(index in plain.special_ids) for index in ids]
    segments = plain.create_token_type_ids_from_sequences([5, 6], pair)
    assert segments == [0] * 4 + [1] * (len(ids) - 4)
    encoding = plain.encode("ka te", None if pair is None else "ne")
    parts = (plain.ids("ka te"), None if pair is None else plain.ids("ne"))
    assert encoding.ids == plain.build_inputs_with_special_tokens(*parts)
    assert encoding.segments == plain.create_token_type_ids_from_sequences(*parts)
