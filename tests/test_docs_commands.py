"""What the pages say to do works, as it is written, in the order of the pages.

Blocks that say what they need (tests/pages.py) are left out; train.py's runs are made short (tests/short_train.py).
"""

import pytest

from newcomer import Newcomer
from pages import ROOT, blocks_in, pages

PAGES = [page for page in pages() if any(block.language in ("bash", "python") for block in blocks_in(page.read_text()))]
pytestmark = [pytest.mark.slow, pytest.mark.two_process]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory, spm_dir) -> Newcomer:
    return Newcomer(tmp_path_factory.mktemp("newcomer"), tmp_path_factory.mktemp("compiled"), spm_dir)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_says_to_do_works(page, newcomer):
    assert "\n".join(newcomer.read_until(page)) == ""
