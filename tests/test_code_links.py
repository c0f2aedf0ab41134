"""Pages that name a line of the code name the right one."""

from pathlib import Path

import pytest

from code_links import definitions, faults, mended
from pages import ROOT, pages

SOURCE = '''"""A module."""

import functools

ONE = 1
TWO: int = 2


@functools.cache
def function():
    def inner():
        pass


class Kind:
    """Has a method."""

    field: int = 3

    def method(self):
        pass
'''
LINE_OF = {"ONE": 5, "TWO": 6, "function": 10, "Kind": 15, "Kind.field": 18, "Kind.method": 20}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_right(page):
    assert list(faults(page, page.read_text())) == []


def test_how_it_works_links_to_code():
    page = ROOT / "docs" / "how_it_works.md"
    assert page.read_text().count(".py#L") > 40


@pytest.fixture
def page(tmp_path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text(SOURCE)
    return tmp_path / "page.md"


def test_definitions_are_found_where_they_stand(page):
    assert definitions(page.parent / "code" / "module.py") == LINE_OF
    lines = SOURCE.splitlines()
    assert all(name.rpartition(".")[2] in lines[line - 1] for name, line in LINE_OF.items())


def link(line: int, name: str, target: int) -> str:
    return f"see [`module.py:{line} {name}`](code/module.py#L{target}) there"


def test_a_right_link_has_no_fault_and_stays_as_it_is(page):
    text = "\n".join(link(line, name, line) for name, line in LINE_OF.items())
    assert list(faults(page, text)) == []
    assert mended(page, text) == text


@pytest.mark.parametrize(("shown", "target"), [(19, 20), (20, 19), (3, 4)])
def test_a_wrong_line_is_said_with_the_right_one_and_mended(page, shown, target):
    text = link(shown, "Kind.method", target)
    assert list(faults(page, text)) == [f"Kind.method is at module.py:20, not {shown}: run python tests/code_links.py"]
    assert mended(page, text) == link(20, "Kind.method", 20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (link(20, "Kind.methods", 20), "module.py has no Kind.methods"),
        (link(20, "inner", 20), "module.py has no inner"),
        ("[`other.py:1 ONE`](code/other.py#L1)", "other.py has no ONE"),
        ("[`other.py:5 ONE`](code/module.py#L5)", "is not of the form"),
        ("[the module](code/module.py#L5)", "is not of the form"),
        ("[`module.py:5`](code/module.py#L5)", "is not of the form"),
        ("[`module.py:5 ONE`](code/module.py)", "is not of the form"),
    ],
)
def test_what_no_script_can_mend_is_said_and_left(page, text, said):
    (fault,) = faults(page, text)
    assert said in fault
    assert mended(page, text) == text
