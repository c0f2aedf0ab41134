"""tokenizer_config.json: the file of Hugging Face beside a vocabulary, of which a few keys decide about ids.

It is somebody else's file: keys that are not named here (model_max_length, tokenizer_class, ...) mean nothing to ids
and are not looked at.
"""

import dataclasses
import json
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"  # where transformers 4 wrote the ids of added tokens before it used CONFIG_FILE
SWITCHES = ("do_lower_case", "split_by_punct", "add_prefix_space")

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60  # characters


@dataclasses.dataclass(frozen=True)
class Options:
    """What the files beside a vocabulary say: the switches that are written there, and tokens by id, specials too."""

    switches: dict[str, bool]
    tokens: dict[int, dict[str, Any]]  # "content" is the text of a token, the rest are flags


def read_options(directory: Path) -> Options:
    """The options in the directory's files; empty ones without files.

    Raises Refused for a file that cannot be read and for a value of a wrong kind.
    """
    path, old = directory / CONFIG_FILE, directory / ADDED_FILE
    values = _object_of(path)
    switches = {name: values[name] for name in SWITCHES if name in values}
    for name in switches:
        switch(path, values, name, otherwise=False)
    tokens = tokens_by_id(old, [(index, {"content": token}) for token, index in _object_of(old).items()])
    return Options(switches, tokens | tokens_by_id(path, section(path, values, "added_tokens_decoder").items()))


def _object_of(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one without the file."""
    return read_object(path, read_file(path)) if is_there(path) else {}


def is_there(path: Path) -> bool:
    """Whether a file or a directory has this name. Raises Refused where that cannot be found out."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    return True


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises Refused when it is a directory or cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error


def switch(where: str | Path, values: Mapping[str, Any], name: str, *, otherwise: bool) -> bool:
    """`values[name]`, or `otherwise` when it is not there. Raises Refused when it is neither true nor false."""
    value = values.get(name, otherwise)
    if not isinstance(value, bool):
        raise Refused(f"{where}: {name}={shown(value)} must be true or false")
    return value


def section(where: str | Path, values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object `values[name]`, an empty one when it is not there or null. Raises Refused for anything else."""
    value = values.get(name)
    if not isinstance(value, dict | None):
        raise Refused(f"{where}: {name}={shown(value)} must be a JSON object")
    return value or {}


def shown(value: Any) -> str:
    """A value that somebody else chose, for a message: escaped, and short however long or deep it is."""
    return _short.repr(value)


def tokens_by_id(where: str | Path, tokens: Iterable[tuple[Any, Any]]) -> dict[int, dict[str, Any]]:
    """The tokens, each with its "content", by their ids as numbers.

    Raises Refused when they are something else, or two have one id.
    """
    found: dict[int, dict[str, Any]] = {}
    for written, token in tokens:
        index, content = _id(written), token.get("content") if isinstance(token, dict) else None
        if index is None or not isinstance(content, str) or not is_unicode(content):
            raise Refused(f"{where}: the added tokens are not written as in Hugging Face's files")
        if index in found:
            raise Refused(f"{where}: two added tokens have id {index}")
        found[index] = token
    return found


def _id(written: Any) -> int | None:
    """An id, a number or the name of a field; None when it is none. No vocabulary has ids of more than 9 digits."""
    if isinstance(written, str) and written.isascii() and written.isdecimal() and len(written) < 10:
        return int(written)
    return written if type(written) is int and written >= 0 else None


def is_unicode(text: str) -> bool:
    """Whether the text holds no lone surrogate: JSON can spell one ("\\ud800"), but it is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_object(where: str | Path, content: bytes) -> dict[str, Any]:
    """The JSON object in a file's bytes. Raises Refused when there is none, or a name occurs twice in an object."""
    try:
        values = json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{where} holds no JSON object")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has {shown(twice)} twice")
    return values


def tokens_beyond(
    names: Sequence[str], special_ids: Sequence[int], tokens: Mapping[int, Mapping[str, Any]], where: str
) -> list[str]:
    """The texts of those `tokens` (by id) that follow the pieces `names`, in the order of their ids.

    Raises Refused when the ids have a gap, an ordinary piece of the model is listed under another name, or a token has
    a flag that would change ids here.
    """
    new = {index: token for index, token in sorted(tokens.items()) if index >= len(names)}
    for index in sorted(tokens.keys() - new.keys() - set(special_ids)):
        if names[index] != tokens[index]["content"]:
            listed = shown(tokens[index]["content"])
            raise Refused(f"{where}: added token {listed} has id {index}, which is {names[index]!r} in the model")
    if list(new) != list(range(len(names), len(names) + len(new))):
        raise Refused(f"{where}: added tokens have ids {shown(list(new))}; the model's end at {len(names) - 1}")
    for token in new.values():
        if flags := [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]:
            raise Refused(f"{where}: added token {shown(token['content'])} has {flags[0]}, which is not supported")
    return [token["content"] for token in new.values()]


def listed_token(content: str, *, special: bool = False, lstrip: bool = False) -> dict[str, Any]:
    """An added token as Hugging Face's files list it."""
    flags = {"lstrip": lstrip, "normalized": False, "rstrip": False, "single_word": False, "special": special}
    return {"content": content, **flags}


def write_config(directory: Path, values: Mapping[str, Any], tokens: Mapping[int, Mapping[str, Any]]) -> None:
    """Writes tokenizer_config.json: the values, switches among them, and the tokens by id, for `read_options`."""
    decoder = {str(index): dict(token) for index, token in tokens.items()}
    text = json.dumps({**values, "added_tokens_decoder": decoder}, indent=2, ensure_ascii=False)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
