"""Links from the pages to the line where something is defined: [`FILE:LINE NAME`](../deberta_jax/FILE#LLINE).

NAME is a function, a class, a method (Class.method) or a name that is assigned at the top of FILE, and LINE where that
stands. Where code has moved,

    python tests/code_links.py

writes the right numbers into all pages; a NAME that is no longer there is for a person to mend.
"""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script it stands in tests/

from pages import pages  # noqa: E402

LINK = re.compile(r"\[`(?P<file>[\w/]+\.py):(?P<line>\d+) (?P<name>[\w.]+)`\]\((?P<path>[^)#]+)#L(?P<target>\d+)\)")
TO_CODE = re.compile(r"\[[^]]*\]\([^)]*\.py(?:#[^)]*)?\)")


@functools.cache
def definitions(path: Path) -> dict[str, int]:
    """The line of each name that a file defines: of a class or function that of its `class` or `def`."""
    found = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[prefix + node.name] = node.lineno
                visit(node.body if isinstance(node, ast.ClassDef) else [], f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
                found.update({prefix + name.id: node.lineno for name in names})

    visit(ast.parse(path.read_text()).body, "")
    return found


def line_of(page: Path, link: re.Match) -> int | None:
    """Where the named thing is defined; None where there is no such file or name."""
    path = page.parent / link["path"]
    return definitions(path).get(link["name"]) if path.is_file() else None


def faults(page: Path, text: str) -> Iterator[str]:
    """What is wrong with the links of a page to code, one line each."""
    for found in TO_CODE.finditer(text):
        link = LINK.fullmatch(found[0])
        if link is None or not link["path"].endswith(link["file"]):
            yield f"{found[0]} is not of the form [`FILE:LINE NAME`](../deberta_jax/FILE#LLINE)"
        elif (line := line_of(page, link)) is None:
            yield f"{link['file']} has no {link['name']}"
        elif not int(link["line"]) == int(link["target"]) == line:
            yield f"{link['name']} is at {link['file']}:{line}, not {link['line']}: run python tests/code_links.py"


def mended(page: Path, text: str) -> str:
    """`text` with the right lines of all names that are there."""

    def mend(link: re.Match) -> str:
        line = line_of(page, link)
        if line is None:
            return link[0]
        return f"[`{link['file']}:{line} {link['name']}`]({link['path']}#L{line})"

    return LINK.sub(mend, text)


if __name__ == "__main__":
    for each in pages():
        each.write_text(mended(each, each.read_text()))
