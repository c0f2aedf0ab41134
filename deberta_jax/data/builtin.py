"""Text that every machine has: the documentation strings of the installed Python standard library.

The files are parsed, never imported. What comes out depends on the Python version, so nothing may depend on its words.
"""

import ast
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Tests and installed packages are no part of the library's documentation; the others are copies of neighbours.
EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "_bundled", "__pycache__"}
SHINGLE_WORDS = 8
SHORTEST = 40  # characters of a document worth a row

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Page(NamedTuple):
    """The documentation strings of one class, or of a module and its functions."""

    text: str
    file: str  # relative to the library


def standard_library() -> Path:
    """Where this Python's standard library lies."""
    return Path(sysconfig.get_path("stdlib"))


def builtin_pages(library: Path) -> Iterator[Page]:
    """Pages of the Python files under `library`, in the order of files and lines.

    A documentation string is left out when most of its shingles of eight words occurred before: near-duplicates would
    leak from the files that are trained on into the held-out ones.
    """
    seen = Seen()
    for path in sorted(library.rglob("*.py"), key=lambda p: p.relative_to(library).parts):
        name = path.relative_to(library)
        if EXCLUDED.isdisjoint(name.parts):
            for strings in _pages(path.read_bytes()):
                text = "\n\n".join(filter(seen.is_new, map(inspect.cleandoc, strings)))
                if len(text) >= SHORTEST:
                    yield Page(text, name.as_posix())


def _pages(source: bytes) -> Iterator[list[str]]:
    """The documentation strings of a file: first the module's and its functions', then each class's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wrong escapes; the category depends on the Python
        try:
            module = ast.parse(source)
        except (SyntaxError, ValueError):  # a template of a file, not a module
            return
    classes = tuple(node for node in module.body if isinstance(node, ast.ClassDef))
    yield list(_strings(module, skip=classes))
    for node in classes:
        yield list(_strings(node))


def _strings(node: ast.AST, skip: tuple[ast.stmt, ...] = ()) -> Iterator[str]:
    """Documentation strings of a definition and of what is defined inside it, in the order of the lines."""
    if isinstance(node, (ast.Module, *_DEFINITIONS)) and (text := ast.get_docstring(node, clean=False)):
        yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt) and child not in skip:
            yield from _strings(child)


class Seen:
    """Remembers the shingles of the texts it let pass."""

    def __init__(self):
        self._shingles: set[str] = set()

    def is_new(self, text: str) -> bool:
        """Whether less than half of the text's shingles occurred before; the text counts as seen from now on."""
        words = re.findall(r"\w+", text.lower())
        shingles = {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}
        is_new = bool(words) and 2 * len(shingles & self._shingles) < len(shingles)
        self._shingles |= shingles
        return is_new
