"""What README.md and the pages of docs/ hold: their order, fenced blocks and their marks, links, anchors.

Commands are fenced as ```bash, one on each line; a test runs them as they stand, after the pages before. A block that
no test can run says what it needs behind the language: ```bash needs=tpu. What is no command (output, a part of a
command) is ```text. Every command, marked or not, must be one that the program's own parser takes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from commands import commands_in

ROOT = Path(__file__).parent.parent
INDEX = ROOT / "docs" / "README.md"
NEEDS = {
    "tpu": "TPU chips",
    "gpu": "a GPU",
    "libtpu": "the TPU's compiler (requirements-libtpu.txt)",
    "cuda": "XLA's compiler for GPUs (requirements-cuda.txt)",
    "torch": "PyTorch and transformers (requirements-torch.txt)",
    "slurm": "a Slurm cluster",
    "cloud": "an account at a cloud, with its command line",
    "hosts": "several machines",
    "browser": "a screen, or somebody who looks",
    "network": "a package index",
    "download": "a published model or data set",
    "minutes": "more than some seconds, however small it is made",
    "hours": "more than an hour",
    "editing": "a reader who fills in what the command leaves open",
}
LANGUAGES = ("bash", "python", "text", "json")
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    language: str
    needs: tuple[str, ...]  # () = it is run
    text: str


def pages() -> list[Path]:
    """README.md, the index of docs/, the pages it links to in its order, and whatever it forgot."""
    linked = [INDEX.parent / target for target, _ in links_in(INDEX.read_text()) if "/" not in target]
    rest = sorted(INDEX.parent.glob("*.md"))
    return [page for page in dict.fromkeys([ROOT / "README.md", INDEX, *linked, *rest]) if page.exists()]


def blocks_in(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for fence in FENCE.finditer(text):
        language, _, mark = fence["info"].partition(" ")
        needs = tuple(mark.removeprefix("needs=").split(",")) if mark else ()
        found.append(Block(language, needs, fence["text"]))
    return found


def wrong_blocks(text: str) -> Iterator[str]:
    """What is wrong with the blocks of a page: one line each."""
    for number, block in enumerate(blocks_in(text), 1):
        if block.language not in LANGUAGES:
            yield f"block {number}: language {block.language!r} is none of {', '.join(LANGUAGES)}"
        if unknown := set(block.needs) - NEEDS.keys():
            yield f"block {number}: needs={','.join(sorted(unknown))} is none of {', '.join(NEEDS)}"
        if block.language != "bash" and list(commands_in(block.text, indent="")):
            yield f"block {number}: a command in a block of {block.language!r}, which no test looks at"
    prose = FENCE.sub("", text)
    if re.search("^```", prose, re.MULTILINE):
        yield "a fence that is not closed"
    yield from (f"indented and not fenced: {line.strip()}" for line in re.findall(r"^\n {4}.*", prose, re.MULTILINE))


def links_in(text: str) -> list[tuple[str, str]]:
    """(file, anchor) of each link and picture to this repository; the file is "" for a link within the page."""
    targets = (link["target"] for link in LINK.finditer(FENCE.sub("", text)))
    parts = (target.partition("#") for target in targets if "://" not in target)
    return [(file, anchor) for file, _, anchor in parts]


def anchors_in(text: str) -> set[str]:
    """What links to a heading of the page may end with, by GitHub's rule: the second of a name is name-1."""
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        anchors.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return anchors


def broken_links(page: Path) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for file, anchor in links_in(page.read_text()):
        target = page.parent / file if file else page
        if not target.exists():
            yield f"{file}: no such file"
        elif anchor and target.suffix == ".md" and anchor not in anchors_in(target.read_text()):
            yield f"{file}#{anchor}: no such heading"
