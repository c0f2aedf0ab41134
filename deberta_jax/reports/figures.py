"""Pictures as SVG text to stand in a page: the same bytes each time, no id that another picture of the page has."""

import io
import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied, and read aloud
    "text.parse_math": False,  # names of runs may hold dollars
}
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def svg_of(draw: Callable[[], Figure], name: str, description: str) -> str:
    """What `draw` draws as an svg element. `name` is unique in the page; `description` is for who cannot see it."""
    drawn = io.BytesIO()
    with matplotlib.rc_context(SETTINGS | {"svg.hashsalt": name}):
        draw().savefig(drawn, format="svg", metadata=NO_METADATA)
    root = ElementTree.fromstring(drawn.getvalue())
    for element in root.iter():
        for key, value in element.items():
            element.set(key, f"{name}-{value}" if key == "id" else _referring(value, key, name))
    root.set("role", "img")
    root.set("aria-label", description)
    return ElementTree.tostring(root, encoding="unicode")


def _referring(value: str, key: str, name: str) -> str:
    """An attribute's value with what refers to an id changed as the ids are."""
    if key == f"{{{XLINK}}}href":
        return value.replace("#", f"#{name}-", 1)
    return re.sub(r"url\(#", f"url(#{name}-", value)
