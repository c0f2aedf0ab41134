"""Reading a tokenizer from what a directory holds."""

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from deberta_jax.errors import Refused
from deberta_jax.tokenizers.bpe import (
    JSON_FILE,
    MERGES_FILE,
    VOCAB_FILE,
    ByteLevelBPETokenizer,
    is_unigram,
    read_definition,
)
from deberta_jax.tokenizers.interface import SETTINGS_FILE, Tokenizer
from deberta_jax.tokenizers.options import CONFIG_FILE, Options, read_options, tokens_beyond
from deberta_jax.tokenizers.spm import MODEL_FILE, SentencePieceTokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a directory, or of one of its files; the first of these that is there:

    spm.model or another *.model (sentencepiece: v2, v3), vocab.json with merges.txt, tokenizer.json (byte-level BPE:
    v1). Options and added tokens come from tokenizer_config.json beside them. Raises Refused when there is nothing of
    the kind, or what is there cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise Refused(f"no tokenizer: {path} does not exist")
    directory = path if path.is_dir() else path.parent
    found = defining_files(path) if path.is_dir() else _beside(path)
    settings = directory / SETTINGS_FILE
    settings_bytes = settings.read_bytes() if settings.is_file() else b""
    options = read_options(directory)
    if found[0].name in (VOCAB_FILE, JSON_FILE):
        return _bpe(found, settings_bytes, options)
    return _sentencepiece(found[0], settings_bytes, options)


def find_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer beside a model's weights, None where there is none to be read.

    A Unigram tokenizer.json alone is none: transformers 5 writes it for v2 and v3 without the model's normalisation.
    """
    named = (directory / MODEL_FILE, directory / VOCAB_FILE, directory / JSON_FILE)
    if not any(path.is_file() for path in named) and not any(directory.glob("*.model")):
        return None
    if defining_files(directory)[0].name == JSON_FILE and is_unigram((directory / JSON_FILE).read_bytes()):
        return None
    return load_tokenizer(directory)


def defining_files(directory: Path) -> list[Path]:
    """The files that define a directory's tokenizer, as load_tokenizer says. Raises Refused when there are none."""
    models = sorted(directory.glob("*.model"))
    if directory / MODEL_FILE in models:
        return [directory / MODEL_FILE]
    if len(models) > 1:
        raise Refused(f"{directory} holds {', '.join(p.name for p in models)} and no {MODEL_FILE}: name one of them")
    pair = [directory / VOCAB_FILE, directory / MERGES_FILE]
    for files in (models, pair, [directory / JSON_FILE]):
        if files and all(file.is_file() for file in files):
            return files
    names = ", ".join(sorted(p.name for p in directory.iterdir())) or "nothing"
    looked_for = f"{MODEL_FILE}, another *.model, {VOCAB_FILE} with {MERGES_FILE}, {JSON_FILE}"
    raise Refused(f"no tokenizer in {directory}: looked for {looked_for}; it holds {names}")


def _beside(file: Path) -> list[Path]:
    if file.name in (VOCAB_FILE, MERGES_FILE):
        return [file.parent / VOCAB_FILE, file.parent / MERGES_FILE]
    return [file]


def _sentencepiece(model: Path, settings: bytes, options: Options) -> SentencePieceTokenizer:
    switches = {name: value for name, value in options.switches.items() if name != "add_prefix_space"}
    try:  # add_prefix_space means nothing to sentencepiece, which has its own
        tokenizer = SentencePieceTokenizer(model.read_bytes(), settings, **switches)
    except (DecodeError, RuntimeError) as error:  # no protocol buffer; one that sentencepiece cannot use
        raise Refused(f"{model} is not a sentencepiece model") from error
    names = [tokenizer.piece(index) for index in range(tokenizer.size)]
    tokens = tokens_beyond(names, tokenizer.special_ids, options.tokens, model.parent / CONFIG_FILE)
    return tokenizer.with_added_tokens(tokens) if tokens else tokenizer


def _bpe(found: Sequence[Path], settings: bytes, options: Options) -> ByteLevelBPETokenizer:
    directory = found[0].parent
    files = {path.name: _read(path) for path in found}
    try:
        definition = read_definition(files)
    except Refused as error:
        raise Refused(f"{directory}: {error}") from error
    prefix = options.switches.get("add_prefix_space", definition.add_prefix_space)
    tokenizer = ByteLevelBPETokenizer(files, settings, add_prefix_space=prefix)
    names = [tokenizer.piece(index) for index in range(tokenizer.size)]
    tokens = tokens_beyond(names, tokenizer.special_ids, definition.added | options.tokens, directory / CONFIG_FILE)
    return tokenizer.with_added_tokens(tokens) if tokens else tokenizer


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise Refused(f"no tokenizer: {path} does not exist")
    return path.read_bytes()
