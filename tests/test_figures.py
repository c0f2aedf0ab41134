import functools
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from deberta_jax.reports.figures import svg_of

NAMES = ['a<b>&"c"', "$x_1$", "5% of $y", "é"]


def draw() -> Figure:
    figure = Figure()
    axes = figure.add_subplot(title=NAMES[0], xlabel=NAMES[1], ylabel=NAMES[2])
    axes.plot([1, 2], [3, 4], marker="o", label=NAMES[3])
    axes.legend()
    return figure


@pytest.fixture
def pictures() -> dict[str, ElementTree.Element]:
    return {name: ElementTree.fromstring(svg_of(draw, name, "a & b")) for name in ("one", "two")}


def test_names_stand_in_the_picture_as_text(pictures):
    words = [element.text for element in pictures["one"].iter() if element.tag.endswith("}text")]
    assert set(NAMES) <= set(words)


def test_no_two_pictures_of_a_page_share_an_id_and_each_refers_to_its_own(pictures):
    ids = {name: [each.get("id") for each in root.iter() if each.get("id")] for name, root in pictures.items()}
    for name, own in ids.items():
        assert len(set(own)) == len(own) > 10
        text = ElementTree.tostring(pictures[name], encoding="unicode")
        referred = {part.split('"')[0] for part in text.split('href="#')[1:]}
        referred |= {part.split(")")[0] for part in text.split("url(#")[1:]}
        assert referred and referred <= set(own)
    assert not set(ids["one"]) & set(ids["two"])


def test_a_picture_is_the_same_each_time_and_leaves_the_settings_alone():
    before = dict(matplotlib.rcParams)
    assert svg_of(draw, "one", "") == svg_of(functools.partial(draw), "one", "")
    assert dict(matplotlib.rcParams) == before


def test_a_picture_refers_to_nothing_outside_and_says_what_it_is(pictures):
    root = pictures["one"]
    assert (root.get("role"), root.get("aria-label")) == ("img", "a & b")
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("image", "metadata", "script")
        assert all("://" not in value for value in element.attrib.values())
