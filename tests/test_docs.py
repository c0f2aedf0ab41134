"""The README and docs/: their links lead somewhere, their code is fenced, and their commands are what programs take."""

import re
import subprocess
from pathlib import Path

import pytest

import train
from commands import Command, commands_in, parsed
from deberta_jax import config as configs
from deberta_jax.errors import Refused
from pages import INDEX, NEEDS, ROOT, anchors_in, blocks_in, broken_links, links_in, pages, wrong_blocks

PAGES = pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_programs_take_the_commands_of_every_page(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in blocks_in(page.read_text()):
        for command in commands_in(block.text, indent="") if block.language == "bash" else ():
            parsed(command, monkeypatch)
            if command.module == "train":
                configs.build(train.parse(list(command.flags))[0].config)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_fenced_and_marks_are_known(page):
    assert list(wrong_blocks(page.read_text())) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


def test_every_page_is_in_the_index():
    listed = {target for target, _ in links_in(INDEX.read_text())}
    assert {page.name for page in INDEX.parent.glob("*.md")} - {INDEX.name} <= listed


def test_pages_that_files_name_exist():
    """In docstrings, comments, scripts and prose a page is named as docs/NAME.md."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [path for path in map(Path, tracked) if path.suffix in (".py", ".md", ".sh", ".yaml", ".toml", ".txt")]
    wrong = {
        f"{path}: {name}"
        for path in files
        if (ROOT / path).is_file() and path != Path("tests/test_docs.py")
        for name in re.findall(r"\bdocs/[\w/]+\.md\b", (ROOT / path).read_text())
        if not (ROOT / name).is_file()
    }
    assert wrong == set()


def test_commands_are_found_where_people_see_them():
    text = (
        "Run `python train.py`:\n\n    python train.py --config=a.py \\\n        --workdir='b c'   # why\n"
        "#   launch/tpu_vm.sh run NAME --config=a.py\n#   launch/tpu_vm.sh stop NAME\n"
        "    python eval.py --workdir=b    the held-out rows\n    python -m deberta_jax.tools.prepare --input=x ...\n"
        "    sbatch --nodes=4 launch/slurm.sh --config=a.py\n    python -m pytest tests\n    pip install x"
    )
    found = [
        Command("train", ("--config=a.py", "--workdir=b c")),
        Command("train", ("--config=a.py",)),
        Command("eval", ("--workdir=b",)),
        Command("deberta_jax.tools.prepare", ("--input=x",)),
        Command("train", ("--config=a.py",)),
    ]
    assert list(commands_in(text)) == found
    assert list(commands_in(re.sub("^    ", "", text, flags=re.MULTILINE))) == [found[1]]
    assert list(commands_in(re.sub("^    ", "", text, flags=re.MULTILINE), indent="")) == found


@pytest.mark.parametrize(
    "command",
    [
        Command("train", ("--config=configs/mlm.py", "--workdri=x")),
        Command("train", ("--config=configs/mlm.py:v3_huge", "--workdir=x")),
        Command("train", ("--config=configs/mlm.py", "--config.optimizer.lr=1")),
        Command("deberta_jax.tools.prepare", ("--input=x", "--tokenizer=t", "--length=many", "--output=o")),
        Command("deberta_jax.tools.glue", ("--init=x", "--data=glue", "--workdir=y", "--seed=5")),
    ],
    ids=lambda command: command.flags[-1],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(Refused):
        parsed(command, monkeypatch)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```bash\npython train.py\n```\n", ""),
        ("```bash needs=tpu,cloud\npython train.py\n```\n", ""),
        ("```text\nloss 4.2\n```\n- a list\n    that goes on\n", ""),
        ("```bash needs=luck\npython train.py\n```\n", "needs=luck"),
        ("```bash tpu,sofa\npython train.py\n```\n", "needs=sofa"),
        ("```bash needs=\npython train.py\n```\n", "is none of"),
        ("```\nmake\n```\n", "language ''"),
        ("```shell\nmake\n```\n", "language 'shell'"),
        ("```text\npython train.py --config=a.py\n```\n", "a command in a block of 'text'"),
        ("Do this:\n\n    python train.py\n\nand that.\n", "indented and not fenced: python train.py"),
        ("```bash\npython train.py\n", "not closed"),
    ],
)
def test_what_is_wrong_with_a_block_is_said(text, wrong):
    said = "; ".join(wrong_blocks(text))
    assert wrong in said if wrong else said == ""


def test_anchors_are_those_of_github():
    text = "# One `two`: three!\n\n## A_b, [c](d.md)\n### One two three\n```bash\n# no heading\n```\n## δ and ≠\n"
    assert anchors_in(text) == {"one-two-three", "a_b-c", "one-two-three-1", "δ-and-"}


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# A heading\n")
    page = tmp_path / "page.md"
    page.write_text("# Here\n[a](other.md) [b](other.md#a-heading) [c](#here) [d](https://x.y/z.md) ![e](other.md)\n")
    assert list(broken_links(page)) == []
    page.write_text("# Here\n[a](another.md) [b](other.md#heading) [c](#there) ![e](none.png)\n")
    assert list(broken_links(page)) == [
        "another.md: no such file",
        "other.md#heading: no such heading",
        "#there: no such heading",
        "none.png: no such file",
    ]


def test_the_marks_are_told_to_those_who_write_pages():
    told = (ROOT / "docs" / "architecture.md").read_text()
    assert [mark for mark in NEEDS if f"`{mark}`" not in told] == []
