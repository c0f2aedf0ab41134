"""Commands that documents and scripts show, and what the programs' own parsers make of them."""

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from deberta_jax.flags import Arguments

# A command ends where two spaces begin an explanation; "..." and [...] stand for what the reader fills in.
COMMAND = re.compile(
    r"""(?:[A-Z]+=\S+\ )*
        (?:python\ (?:-m\ (?P<module>(?:deberta_jax|benchmarks)[\w.]*)|(?P<program>train|eval)\.py)
        |launch/tpu_vm\.sh\ run\ \S+|sbatch\ [^#]*?launch/slurm\.sh)
        (?P<flags>(?:\ (?!\ ).*?)??)(?=\ \ |\ \.\.\.|\ \[-|$)""",
    re.VERBOSE,
)


class Command(NamedTuple):
    """A start of one of our programs. What the launch scripts are given is train.py's."""

    module: str
    flags: tuple[str, ...]


class Parsed(Exception):
    """A program has parsed its flags."""


def commands_in(text: str, indent: str = "  ") -> Iterator[Command]:
    """The commands in the lines of `text` that start with `indent`, with or without a comment's sign before them."""
    lines = re.sub(r"^#( |$)", "", text, flags=re.MULTILINE)
    for line in re.sub(r" *\\\n\s+", " ", lines).splitlines():
        found = COMMAND.match(line.lstrip()) if line.startswith(indent) else None
        if found:
            module = found["module"] or found["program"] or "train"
            yield Command(module, tuple(shlex.split(found["flags"], comments=True)))


def parsed(command: Command, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What the program's own parser makes of the flags; nothing is run. Raises Refused for what it does not know."""
    found = []

    def parse_and_stop(self: Arguments, *args, **kwargs):
        found.append(parse(self, *args, **kwargs))
        raise Parsed

    parse = Arguments.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(Arguments, "parse_args", parse_and_stop)
        with pytest.raises(Parsed):
            importlib.import_module(command.module).main(list(command.flags))
    return found[0]
