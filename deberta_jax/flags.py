"""Command lines: `--config=PATH.py[:ARG,...]`, `--config.a.b=VALUE` overrides, and argparse without guessing.

Everything here runs before jax is imported, so that a typing mistake costs a tenth of a second, not ten.

    flags = split_config_flags(argv)          # --config and --config.* | the rest
    args = parser.parse_args(flags.rest)      # an Arguments parser: refuses what it does not know
    run = read_config(flags.source, flags.assignments)

`load_config(argv)` is the first and the last line in one, for programs that need a --config.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from deberta_jax.errors import Refused, in_a_bucket, nearest


class Arguments(argparse.ArgumentParser):
    """An argument parser whose every complaint is a Refused, with the nearest flag for a misspelt one."""

    def __init__(self, **settings: Any):
        layout = {"formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**layout, **settings, "allow_abbrev": False})

    def parse_args(self, args: list[str] | None = None, namespace: argparse.Namespace | None = None):
        """The parsed flags. Unknown names are reported before missing ones: usually they are the same flag."""
        args = sys.argv[1:] if args is None else args
        flags = args[: args.index("--")] if "--" in args else args
        known = self._option_string_actions
        for flag in flags:
            name = flag.partition("=")[0]
            if name.startswith("--") and name not in known:
                raise Refused(f"unknown flag {name}{nearest(name, known)}")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        raise Refused(message)


def local_path(text: str) -> Path:
    """An argparse type: a file or folder of this machine, mounted or its own."""
    if not text:
        raise argparse.ArgumentTypeError("expects a path, got nothing")
    if "://" in text:
        raise argparse.ArgumentTypeError(in_a_bucket(text))
    return Path(text)


def whole_number(text: str) -> int:
    """An argparse type: 16000, 16_000 or 1.6e4.

    Raises ArgumentTypeError, which argparse reports with the name of the flag.
    """
    value = _parsed_int(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"expects a whole number, got {text!r}")
    return value


def count(text: str) -> int:
    """An argparse type: a whole number of things, at least one."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def not_empty(text: str) -> str:
    """An argparse type: any text. Nothing is what a shell makes of a variable that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("expects a value, got nothing")
    return text


class ConfigFlags(NamedTuple):
    """A command line taken apart, nothing read yet."""

    source: str | None  # of --config, None where it is not given
    assignments: list[tuple[str, str]]  # of --config.key=text, in order
    rest: list[str]


class LoadedConfig(NamedTuple):
    """A config with the command line's overrides applied."""

    config: ConfigDict  # resolved and locked
    overrides: dict[str, Any]  # dotted key -> value
    preset: ConfigDict  # what the file alone says, resolved and locked
    rest: list[str]  # arguments that are no config flags


def load_config(argv: list[str]) -> LoadedConfig:
    """Reads the file of --config and applies the --config.key=value overrides of `argv`.

    Raises Refused for a missing file, an unknown key, a value of another type, or an override without its dashes.
    """
    flags = split_config_flags(argv)
    if flags.source is None:
        hints = (nearest(name, ["--config"]) for name in (flag.partition("=")[0] for flag in flags.rest))
        raise Refused("--config=PATH.py is missing" + next(filter(None, hints), ""))
    return read_config(flags.source, flags.assignments)._replace(rest=flags.rest)


def split_config_flags(argv: list[str]) -> ConfigFlags:
    """Takes the config flags out of `argv`; `--config.key=VALUE` and `--config.key VALUE` mean the same."""
    source, assignments, rest = None, [], []
    words = iter(argv)
    for word in words:
        name, equals, text = word.partition("=")
        if name == "--config" or name.startswith("--config."):
            text = text if equals else _next_value(words, name)
            if name == "--config":
                source = text
            else:
                assignments.append((name.removeprefix("--config."), text))
        elif name.lstrip("-").startswith("config."):
            raise Refused(f"override {word!r} needs two dashes, did you mean '--{word.lstrip('-')}'?")
        else:
            rest.append(word)
    return ConfigFlags(source, assignments, rest)


def _next_value(words: Iterator[str], name: str) -> str:
    text = next(words, "--")
    if text.startswith("--"):
        raise Refused(f"{name} needs a value: {name}=VALUE")
    return text


def read_config(source: str, assignments: list[tuple[str, str]]) -> LoadedConfig:
    """The config of `source`, PATH.py[:ARG] or a run's config.json, with `assignments` of (dotted key, text) applied.

    A field that follows another one by reference (steps // 50) follows its override. `rest` is empty.
    """
    config = _read_source(source)
    preset = config.copy_and_resolve_references().lock()
    overrides = {key: _assign(config, key, text) for key, text in assignments}
    return LoadedConfig(config.copy_and_resolve_references().lock(), overrides, preset, [])


def describe(config: ConfigDict, preset: ConfigDict) -> str:
    """Every key of `config` as a sorted `key = value` line, with the preset's value where it differs."""
    before = leaves(preset)
    lines = []
    for key, value in sorted(leaves(config).items()):
        note = "" if value == before[key] else f"  # preset: {before[key]!r}"
        lines.append(f"{key} = {value!r}{note}")
    return "\n".join(lines)


def _read_source(source: str) -> ConfigDict:
    name, arguments = _path_and_arguments(source)
    path = Path(name)
    if path.suffix not in (".py", ".json"):
        raise Refused(f"--config={source}: expects a .py file or a run's config.json")
    if not path.is_file():
        names = [file.name for file in path.parent.glob("*" + path.suffix)]
        raise Refused(f"config file {path} does not exist{nearest(path.name, names)}")
    return _read_json(path) if path.suffix == ".json" else _read_python(path, arguments)


def _path_and_arguments(source: str) -> tuple[str, list[str]]:
    stem, is_python, argument = source.rpartition(".py:")
    return (stem + ".py", argument.split(",")) if is_python else (source, [])


def _read_json(path: Path) -> ConfigDict:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Refused(f"{path} holds no config")
    return ConfigDict(_with_tuples(values))


def _with_tuples(value: Any) -> Any:
    """JSON has lists only; a config has tuples only."""
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _read_python(path: Path, arguments: list[str]) -> ConfigDict:
    get_config = _module_of(path).get_config
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        wanted = "takes no :ARG" if arguments else "needs an argument, --config=" + str(path) + ":ARG"
        raise Refused(f"config {path} {wanted}") from error
    try:
        return get_config(*arguments)
    except (KeyError, ValueError) as error:
        raise Refused(f"config {':'.join([str(path), *arguments])}: {type(error).__name__} {error}") from error


def read_sweep(source: str) -> Any:
    """What get_sweep() of the config file returns; None where it has no such function."""
    path = Path(_path_and_arguments(source)[0])
    if path.suffix != ".py" or not path.is_file():
        return None  # read_config says what is wrong with it
    module = _module_of(path)
    if not hasattr(module, "get_sweep"):
        return None
    if inspect.signature(module.get_sweep).parameters:
        raise Refused(f"config {path}: get_sweep() takes no arguments")
    try:
        return module.get_sweep()
    except (KeyError, ValueError) as error:
        raise Refused(f"config {path}: get_sweep() ended with {type(error).__name__} {error}") from error


def _module_of(path: Path) -> types.ModuleType:
    root = path.resolve().parent.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))  # so that `from configs import sizes` works from any directory
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise Refused(f"config {path} cannot be loaded: {error}") from error
    if not hasattr(module, "get_config"):
        raise Refused(f"config {path} defines no get_config()")
    return module


def _assign(config: ConfigDict, key: str, text: str) -> Any:
    """Sets the dotted `key` to the value that `text` stands for and returns the value."""
    *groups, name = key.split(".")
    group = config
    for part in groups:
        group = group[part] if isinstance(group, ConfigDict) and part in group else None
    if not isinstance(group, ConfigDict) or name not in group:
        raise Refused(f"config has no key {key!r}{nearest(key, leaves(config))}")
    if isinstance(group[name], ConfigDict):
        raise Refused(f"config.{key} is a group of keys: set one of {', '.join(f'{key}.{k}' for k in group[name])}")
    group[name] = _value_like(group[name], group.get_type(name), key, text)
    return group[name]


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every value of a config by its dotted key."""
    found = {}
    for key, value in config.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value}
    return found


def _value_like(present: Any, kind: type, key: str, text: str) -> Any:
    """`text` as a value of `kind`, the type of the `present` one. Text stays text: a run named 007 is no number."""
    if kind is str:
        return text
    if kind in (tuple, list):
        return _parsed_tuple(present, key, text)
    if kind is type(None):
        return _literal(text)
    parse = {bool: _parsed_bool, int: _parsed_int, float: _parsed_float}[kind]
    value = parse(text)
    if value is None:
        raise Refused(f"config.{key} expects {kind.__name__}, got {text!r}")
    return value


def _parsed_bool(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _parsed_int(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        value = _parsed_float(text)
    return int(value) if value is not None and value.is_integer() else None


def _parsed_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parsed_tuple(present: tuple, key: str, text: str) -> tuple:
    """A Python tuple or list, or its bare entries: "a,b". Entries stay text where the present ones all are."""
    if text.lstrip().startswith(("(", "[")):
        value = _literal(text)
        if not isinstance(value, (tuple, list)):
            raise Refused(f"config.{key} expects a tuple, got {text!r}")
        return _nested_tuple(value)
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    is_text = bool(present) and all(isinstance(entry, str) for entry in present)
    return tuple(entries) if is_text else tuple(map(_literal, entries))


def _nested_tuple(value: Any) -> Any:
    return tuple(map(_nested_tuple, value)) if isinstance(value, (tuple, list)) else value


def _literal(text: str) -> Any:
    """The Python value that `text` spells, else the text itself."""
    try:
        return _nested_tuple(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text
