"""Reading a tokenizer from what a directory holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from deberta_jax.tokenizers.options import (
    ADDED_FILE,
    CONFIG_FILE,
    Options,
    is_there,
    read_file,
    read_options,
    tokens_beyond,
)
from deberta_jax.tokenizers.spm import MODEL_FILE, SentencePieceTokenizer

AnyTokenizer = TypeVar("AnyTokenizer", bound=Tokenizer)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a directory, or of one of its files; the first of these that is there:

    spm.model or another *.model (sentencepiece: v2, v3), vocab.json with merges.txt, tokenizer.json (byte-level BPE:
    v1). Options and added tokens come from tokenizer_config.json beside them. Raises Refused when there is nothing of
    the kind, or what is there cannot be read.
    """
    path = Path(path)
    if not is_there(path):
        raise Refused(f"no tokenizer: {path} does not exist")
    directory = path if path.is_dir() else path.parent
    found = defining_files(path) if path.is_dir() else _beside(path)
    settings = directory / SETTINGS_FILE
    settings_bytes = read_file(settings) if is_there(settings) else b""
    options = read_options(directory)
    if found[0].name in (VOCAB_FILE, JSON_FILE):
        return _bpe(found, settings_bytes, options)
    return _sentencepiece(found[0], settings_bytes, options)


def find_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer beside a model's weights, None where there is none to be read.

    A Unigram tokenizer.json alone is none: transformers 5 writes it for v2 and v3 without the model's normalisation.
    Raises Refused as load_tokenizer does.
    """
    named = (directory / MODEL_FILE, directory / VOCAB_FILE, directory / JSON_FILE)
    if not any(map(is_there, named)) and not any(directory.glob("*.model")):
        return None
    first = defining_files(directory)[0]
    if first.name == JSON_FILE and is_unigram(first, read_file(first)):
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
        if files and all(map(is_there, files)):
            return files
    try:
        names = ", ".join(sorted(p.name for p in directory.iterdir())) or "nothing"
    except OSError as error:
        raise Refused(f"{directory} cannot be read: {error.strerror}") from error
    looked_for = f"{MODEL_FILE}, another *.model, {VOCAB_FILE} with {MERGES_FILE}, {JSON_FILE}"
    raise Refused(f"no tokenizer in {directory}: looked for {looked_for}; it holds {names}")


def _beside(file: Path) -> list[Path]:
    if file.name in (VOCAB_FILE, MERGES_FILE):
        return [file.parent / VOCAB_FILE, file.parent / MERGES_FILE]
    return [file]


def _sentencepiece(model: Path, settings: bytes, options: Options) -> SentencePieceTokenizer:
    switches = {name: value for name, value in options.switches.items() if name != "add_prefix_space"}
    try:  # add_prefix_space means nothing to sentencepiece, which has its own
        tokenizer = SentencePieceTokenizer(read_file(model), settings, **switches)
    except (DecodeError, RuntimeError) as error:  # no protocol buffer; one that sentencepiece cannot use
        raise Refused(f"{model} is not a sentencepiece model: {error}") from error
    return _with_listed(tokenizer, options.tokens, _listing(model.parent))


def _bpe(found: Sequence[Path], settings: bytes, options: Options) -> ByteLevelBPETokenizer:
    directory = found[0].parent
    if missing := [path for path in found if not is_there(path)]:
        raise Refused(f"no tokenizer: {missing[0]} does not exist")
    files = {path.name: read_file(path) for path in found}
    try:
        definition = read_definition(files)
    except Refused as error:
        raise Refused(f"{directory}: {error}") from error
    prefix = options.switches.get("add_prefix_space", definition.add_prefix_space)
    tokenizer = ByteLevelBPETokenizer(files, settings, add_prefix_space=prefix)
    where = _listing(directory, JSON_FILE) if definition.added else _listing(directory)
    return _with_listed(tokenizer, definition.added | options.tokens, where)


def _listing(directory: Path, *files: str) -> str:
    """The files of a directory that may list added tokens, for a message; `files` are such files too."""
    there = [name for name in (ADDED_FILE, CONFIG_FILE) if is_there(directory / name)]
    return f"{directory}: {' and '.join([*files, *there])}"


def _with_listed(tokenizer: AnyTokenizer, tokens: Mapping[int, Mapping[str, Any]], where: str) -> AnyTokenizer:
    """The tokenizer with those of the listed tokens that follow its own. Raises Refused for wrong ones."""
    names = [tokenizer.piece(index) for index in range(tokenizer.size)]
    beyond = tokens_beyond(names, tokenizer.special_ids, tokens, where)
    try:
        return tokenizer.with_added_tokens(beyond) if beyond else tokenizer
    except Refused as error:
        raise Refused(f"{where}: {error}") from error
