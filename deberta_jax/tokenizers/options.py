"""tokenizer_config.json: the file of Hugging Face beside a vocabulary, of which a few keys decide about ids.

It is somebody else's file: keys that are not named here (model_max_length, tokenizer_class, ...) mean nothing to ids
and are not looked at.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deberta_jax.errors import Refused

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"  # where transformers 4 wrote the ids of added tokens before it used CONFIG_FILE
SWITCHES = ("do_lower_case", "split_by_punct", "add_prefix_space")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the files beside a vocabulary say: the switches that are written there, and tokens by id, specials too."""

    switches: dict[str, bool]
    tokens: dict[int, dict[str, Any]]  # "content" is the text of a token, the rest are flags


def read_options(directory: Path) -> Options:
    """The options in the directory's files; empty ones without files. Raises Refused for a value of a wrong kind."""
    path = directory / CONFIG_FILE
    values = read_object(path, path.read_bytes()) if path.is_file() else {}
    switches = {name: values[name] for name in SWITCHES if name in values}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise Refused(f"{path}: {name}={value!r} must be true or false")
    old = directory / ADDED_FILE
    by_token = read_object(old, old.read_bytes()) if old.is_file() else {}
    tokens = tokens_by_id(old, {index: {"content": token} for token, index in by_token.items()})
    return Options(switches, tokens | tokens_by_id(path, values.get("added_tokens_decoder", {})))


def tokens_by_id(where: str | Path, tokens: Mapping[Any, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The tokens, each with its "content", by their ids as numbers. Raises Refused when they are something else."""
    try:
        return {int(index): {**token, "content": token["content"] + ""} for index, token in tokens.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"{where}: the added tokens are not written as in Hugging Face's files") from error


def read_object(where: str | Path, content: bytes) -> dict[str, Any]:
    """The JSON object in a file's bytes. Raises Refused when there is none."""
    try:
        values = json.loads(content)
    except ValueError as error:
        raise Refused(f"{where} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{where} holds no JSON object")
    return values


def tokens_beyond(
    names: Sequence[str], special_ids: Sequence[int], tokens: Mapping[int, Mapping[str, Any]], where: Path
) -> list[str]:
    """The texts of those `tokens` (by id) that follow the pieces `names`, in the order of their ids.

    Raises Refused when the ids have a gap, an ordinary piece of the model is listed under another name, or a token has
    a flag that would change ids here.
    """
    new = {index: token for index, token in sorted(tokens.items()) if index >= len(names)}
    for index in sorted(tokens.keys() - new.keys() - set(special_ids)):
        if names[index] != tokens[index]["content"]:
            listed = tokens[index]["content"]
            raise Refused(f"{where}: added token {listed!r} has id {index}, which is {names[index]!r} in the model")
    if list(new) != list(range(len(names), len(names) + len(new))):
        raise Refused(f"{where}: added tokens have ids {list(new)}; the model's end at {len(names) - 1}")
    for token in new.values():
        if flags := [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]:
            raise Refused(f"{where}: added token {token['content']!r} has {flags[0]}, which is not supported")
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
