"""The built-in text: documentation strings of Python files."""

import subprocess
import sys
from pathlib import Path

import pytest

from deberta_jax.data.builtin import SHINGLE_WORDS, Page, Seen, builtin_pages, standard_library

MODULE = r'''"""The module explains itself in a sentence of some length."""

class Late:
    """A class that is described at length, so that it makes a page."""

    def method(self):
        """Its method belongs to the page of the class, after it."""

        def inner():
            """And so does a function inside the method."""

def function():
    """
    A function's words belong to the module,
        indented as they were.
    """

PATTERN = "\d is no escape: a warning in every Python"
raise RuntimeError("nobody imports this")
'''


def words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return list(builtin_pages(standard_library()))


def test_a_page_is_a_module_with_its_functions_or_a_class_with_its_methods(tmp_path):
    (tmp_path / "m.py").write_text(MODULE)
    first, second = builtin_pages(tmp_path)
    assert first == Page(
        "The module explains itself in a sentence of some length.\n\n"
        "A function's words belong to the module,\n    indented as they were.",
        "m.py",
    )
    assert second.text.split("\n\n") == [
        "A class that is described at length, so that it makes a page.",
        "Its method belongs to the page of the class, after it.",
        "And so does a function inside the method.",
    ]


def test_tests_installed_packages_and_broken_files_are_left_out(tmp_path):
    for index, name in enumerate(["a/ok.py", "test/x.py", "a/tests/y.py", "site-packages/z.py", "broken.py"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""{words(100 * index, 30)}"""\n')
    (tmp_path / "broken.py").write_text('"""' + words(900, 30) + '"""\ndef {{name}}(): pass')
    assert [page.file for page in builtin_pages(tmp_path)] == ["a/ok.py"]


def test_files_come_in_a_fixed_order(tmp_path):
    for index, name in enumerate(["b.py", "a/b.py", "a.py", "a/a/z.py"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""{words(100 * index, 30)}"""\n')
    assert [page.file for page in builtin_pages(tmp_path)] == ["a/a/z.py", "a/b.py", "a.py", "b.py"]


def test_copies_and_near_copies_are_dropped_and_new_text_kept():
    seen = Seen()
    assert seen.is_new(words(0, 40))
    assert not seen.is_new(words(0, 40).upper() + "!")
    assert not seen.is_new(words(10, 40))  # 23 of its 33 shingles are known
    assert seen.is_new(words(40, 40))  # 10 of 33 were
    assert seen.is_new("short text") and not seen.is_new("Short  text.")
    assert not seen.is_new("...")


def test_the_standard_library_gives_more_than_a_megabyte_of_long_enough_pages(pages):
    assert 1e6 < sum(len(page.text) for page in pages) < 3e6
    assert len({page.file for page in pages}) > 300
    assert min(len(page.text) for page in pages) >= 40
    for name in ("argparse.py", "asyncio/events.py"):
        assert name in {page.file for page in pages}
    assert not any("test" in Path(page.file).parts for page in pages)


def test_held_out_files_share_hardly_a_phrase_with_the_others(pages):
    files = sorted({page.file for page in pages})
    held_out = set(files[::20])

    def shingles(page: Page) -> set[str]:
        tokens = page.text.lower().split()
        return {" ".join(tokens[i : i + SHINGLE_WORDS]) for i in range(len(tokens) - SHINGLE_WORDS + 1)}

    train = set().union(*(shingles(page) for page in pages if page.file not in held_out))
    held = set().union(*(shingles(page) for page in pages if page.file in held_out))
    assert len(held & train) < 0.1 * len(held)


def test_nothing_of_the_library_is_imported(tmp_path):
    code = (
        "import sys\nfrom deberta_jax.data.builtin import builtin_pages, standard_library\n"
        "library = standard_library()\n"
        "before = set(sys.modules)\n"
        "pages = list(builtin_pages(library))\n"
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith(('encodings', 'unicodedata'))))\n"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", out.stdout
