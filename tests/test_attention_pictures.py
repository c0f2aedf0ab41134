"""Pictures of attention: every panel shows its numbers, on the scale that it says, and no text lies on another."""

import itertools

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from deberta_jax.reports import attention_pictures as pictures

TOKENS = ["[CLS]", "▁the", "▁cost", "▁$", "5", "▁or", "▁$", "6", "▁inter", "national", "ization", ".", "[SEP]"]


def layer(heads=2, tokens=13, terms=("c2c", "c2p", "p2c"), name="layer 3"):
    """Random, with parts that differ in size from head to head."""
    rng = np.random.default_rng(heads)
    size = (1 + np.arange(heads))[:, None, None]
    parts = {term: size * rng.normal(size=(heads, tokens, tokens)) for term in terms}
    weight = np.exp(sum(parts.values()))
    return pictures.Layer(name, weight / weight.sum(-1, keepdims=True), parts)


def panels(figure, head_count):
    """[head][column] of the axes that show a matrix."""
    found = [axes for axes in figure.axes if axes.images]
    found.sort(key=lambda axes: (-round(axes.get_position().y0, 6), axes.get_position().x0))
    return np.array(found, object).reshape(head_count, -1)


def colours_of(axes):
    (image,) = axes.images
    return image.norm.vmin, image.norm.vmax, image.get_cmap().name


@pytest.mark.parametrize("terms", [("c2c",), ("c2c", "c2p", "p2c"), ("c2c", "p2p")])
def test_each_head_is_a_row_of_its_probabilities_and_parts(terms):
    given = layer(3, terms=terms)
    found = panels(pictures.draw_layer(given, TOKENS), 3)
    for head, row in enumerate(found):
        expected = [given.probability_hqk[head], *(given.parts[term][head] for term in terms)]
        for axes, values_qk in zip(row, expected, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), values_qk)
        assert row[0].get_ylabel() == f"head {head}"
    titles = [axes.get_title() for axes in found[0]]
    assert titles == ["probability", *(pictures.TITLES[term] for term in terms)]


def test_probabilities_are_drawn_from_zero_to_one_and_a_heads_parts_on_one_scale_around_zero():
    given = layer(2)
    for head, (probability, *parts) in enumerate(panels(pictures.draw_layer(given, TOKENS), 2)):
        assert colours_of(probability) == (0, 1, "Blues")
        assert probability.images[0].norm(0.25) == pytest.approx(0.5)  # of all shades: the square root
        bound = max(np.abs(part[head]).max() for part in given.parts.values())
        assert {colours_of(axes) for axes in parts} == {(-bound, bound, "RdBu_r")}


def test_parts_that_are_all_zero_are_white():
    zero = np.zeros((1, 3, 3))
    figure = pictures.draw_layer(pictures.Layer("layer 0", zero + 1 / 3, {"c2c": zero}), TOKENS[:3])
    assert colours_of(panels(figure, 1)[0][1]) == (-1, 1, "RdBu_r")


def labels_of(axes, side):
    ticks = (axes.yaxis if side == "left" else axes.xaxis).get_major_ticks()
    texts = [tick.label2 if side == "top" else tick.label1 for tick in ticks]
    return [text for text in texts if text.get_visible()]


def test_tokens_are_named_at_the_left_and_above_and_below_all_heads():
    found = panels(pictures.draw_layer(layer(3), TOKENS), 3)
    names = [token.replace("$", r"\$") for token in TOKENS]
    for (row, column), axes in np.ndenumerate(found):
        named = {side for side in ("left", "top", "bottom") if labels_of(axes, side)}
        assert named == {
            side for side, there in (("left", column == 0), ("top", row == 0), ("bottom", row == 2)) if there
        }
        for side in named:
            assert [text.get_text() for text in labels_of(axes, side)] == names


def test_of_many_tokens_every_second_or_third_is_named():
    tokens = [f"t{number}" for number in range(100)]
    figure = pictures.draw_layer(layer(1, 100), tokens)
    axes = panels(figure, 1)[0][0]
    assert [text.get_text() for text in labels_of(axes, "left")] == tokens[::3]
    assert figure.get_size_inches().max() < 40


def not_drawn(axis):
    """Labels of ticks that lie outside of the axis."""
    low, high = sorted(axis.get_view_interval())
    outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
    return [text for tick in outside for text in (tick.label1, tick.label2)]


def texts_of(figure):
    """The boxes of all that is written, in pixels, by what they say."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    hidden = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in not_drawn(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if id(text) not in hidden]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


def all_by_distance(count):
    rng = np.random.default_rng(0)
    return [
        pictures.ByDistance(f"layer {number}", rng.random(9), {term: rng.normal(size=9) for term in ("c2c", "c2p")})
        for number in range(count)
    ]


FIGURES = {
    "layer": lambda: pictures.draw_layer(layer(2), TOKENS),
    "layer of 12 heads": lambda: pictures.draw_layer(layer(12, 5), [*TOKENS[:4], "▁internationalizationists"]),
    "overview": lambda: pictures.draw_overview([layer(), layer(name="decoder pass 1")], "runs/x: " + "$ word " * 40),
    "overview of 12 x 12": lambda: pictures.draw_overview([layer(12, name=f"layer {n}") for n in range(12)], "a text"),
    "by distance": lambda: pictures.draw_by_distance(all_by_distance(3)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_that_is_written_lies_on_another_or_outside(name):
    figure = FIGURES[name]()
    texts = texts_of(figure)
    assert len(texts) > 10
    for text, box in texts:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
    for (one, box), (other, other_box) in itertools.combinations(texts, 2):
        wide = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        high = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert wide <= 1 or high <= 1, f"{one!r} and {other!r}"


def test_a_dollar_is_a_dollar():
    """As formulas both would be one, in italics and without their dollars: narrower than the same with digits."""
    with_dollars, without = (pictures.inches(pictures.shortened(label)) for label in ("a$b$c", "a0b0c"))
    assert with_dollars == pytest.approx(without, rel=0.05)
    axes = panels(pictures.draw_layer(layer(1, 3), ["a$b$c", "a0b0c", "[SEP]"]), 1)[0][0]
    boxes = dict(texts_of(axes.figure))
    assert boxes[r"a\$b\$c"].height == pytest.approx(boxes["a0b0c"].height, rel=0.1)


def test_the_overview_has_every_head_in_its_place():
    layers = [layer(3, name="layer 0"), layer(3, name="layer 1")]
    axes = pictures.draw_overview(layers, "").axes[0]
    found = {tuple(np.floor(np.array(image.get_extent())[[0, 3]])): image for image in axes.images}
    assert len(found) == len(axes.images) == 6
    for (head, row), image in found.items():
        np.testing.assert_array_equal(image.get_array(), layers[int(row)].probability_hqk[int(head)])
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        left, right, bottom, top = image.get_extent()
        assert bottom > top and axes.yaxis_inverted(), "the first query is above"
    assert [text.get_text() for text in labels_of(axes, "top")] == ["head 0", "head 1", "head 2"]
    assert [text.get_text() for text in labels_of(axes, "left")] == ["layer 0", "layer 1"]


def test_means_are_drawn_against_their_distance():
    layers = all_by_distance(2)
    axes = pictures.draw_by_distance(layers).axes
    for number, given in enumerate(layers):
        scores, probability = axes[2 * number : 2 * number + 2]
        for line, (term, part_d) in zip(scores.lines, given.parts.items(), strict=False):
            np.testing.assert_array_equal(line.get_xdata(), np.arange(-4, 5))
            np.testing.assert_array_equal(line.get_ydata(), part_d)
            assert to_rgb(line.get_color()) == to_rgb(pictures.COLOURS[term])
        np.testing.assert_array_equal(probability.lines[0].get_ydata(), given.probability_d)
        assert set(probability.lines[1].get_ydata()) == {1 / 5}


def test_files_are_png(tmp_path):
    pictures.plot_layer(layer(1, 3), TOKENS[:3], tmp_path / "layer.png")
    pictures.plot_overview([layer(1, 3)], tmp_path / "overview.png", title="a text")
    pictures.plot_by_distance(all_by_distance(1), tmp_path / "means.png")
    for file in ("layer", "overview", "means"):
        picture = matplotlib.image.imread(tmp_path / f"{file}.png")
        assert min(picture.shape[:2]) > 100 and np.ptp(picture[..., :3]) > 0.5
