import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer

from deberta_jax.errors import Refused
from deberta_jax.reports import bars

VALUES = {
    "pretrained": {"CoLA": [0.61, 0.65, 0.66], "RTE": [0.8, 0.9], "CB": [0.7]},
    "random": {"CoLA": [-0.1, 0.14], "CB": [0.4], "RTE": [], "WNLI": [0.5]},
}
TASKS = ["CoLA", "RTE", "CB", "WNLI"]  # in the order of their first runs


@pytest.fixture
def axes():
    return bars.draw_bars(VALUES, "scores by task").axes[0]


def drawn_bars(axes) -> dict[str, dict[str, tuple[float, float]]]:
    """series -> task, the nearest tick -> (centre, height)"""
    found = {}
    for container in axes.containers:
        if isinstance(container, BarContainer):
            places = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in container]
            found[container.get_label()] = {TASKS[round(place[0])]: place for place in places}
    return found


def places_of_runs(axes):
    """(where its bar stands, the runs) of every series and task that has runs."""
    for series, places in drawn_bars(axes).items():
        yield from ((centre, VALUES[series][task]) for task, (centre, _) in places.items())


def test_every_task_has_a_bar_for_the_mean_of_each_series_that_ran_it(axes):
    means = {series: {task: height for task, (_, height) in of.items()} for series, of in drawn_bars(axes).items()}
    assert means == {
        "pretrained": pytest.approx({"CoLA": 0.64, "RTE": 0.85, "CB": 0.7}),
        "random": pytest.approx({"CoLA": 0.02, "CB": 0.4, "WNLI": 0.5}),
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == TASKS
    np.testing.assert_array_equal(axes.get_xticks(), range(4))
    assert axes.get_title(loc="left") == "scores by task"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(VALUES)


def test_series_stand_side_by_side_in_their_order_and_colours(axes):
    first, second = (container for container in axes.containers if isinstance(container, BarContainer))
    for container, colour in ((first, bars.COLOURS[0]), (second, bars.COLOURS[1])):
        assert {bar.get_facecolor()[:3] for bar in container} == {to_rgb(colour)}
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in (*first, *second))
    assert all(end < start for (_, end), (start, _) in zip(edges[:-1], edges[1:], strict=True)), "no bar hides another"
    places = drawn_bars(axes)
    assert places["pretrained"]["CoLA"][0] < 0 < places["random"]["CoLA"][0]


def test_every_run_is_a_dot_on_its_bar(axes):
    dots = {round(float(np.mean(line.get_xdata())), 6): line for line in axes.lines if line.get_marker() == "."}
    expected = {round(centre, 6): runs for centre, runs in places_of_runs(axes)}
    assert {centre: list(line.get_ydata()) for centre, line in dots.items()} == expected
    for line in dots.values():
        across = np.asarray(line.get_xdata())
        assert len(np.unique(across)) == len(across) and np.ptp(across) < bars.GROUP_WIDTH / 2


def test_only_several_runs_have_an_error_bar_of_their_standard_deviation(axes):
    found = {}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            ((low, high),) = container.lines[2][0].get_segments()
            found[round(float(low[0]), 6)] = [low[1], high[1]]
    several = {round(centre, 6): runs for centre, runs in places_of_runs(axes) if len(runs) > 1}
    assert len(several) == 3 and found.keys() == several.keys()
    for centre, runs in several.items():
        mean = sum(runs) / len(runs)
        spread = (sum((run - mean) ** 2 for run in runs) / (len(runs) - 1)) ** 0.5
        assert found[centre] == pytest.approx([mean - spread, mean + spread])


def test_the_mean_is_written_above_all_that_is_drawn(axes):
    numbers = {round(float(text.xy[0]), 6): (text.get_text(), text.xy[1]) for text in axes.texts}
    for centre, runs in places_of_runs(axes):
        said, height = numbers[round(centre, 6)]
        assert said == f"{np.mean(runs):.3f}"
        assert height >= max(*runs, np.mean(runs) + (np.std(runs, ddof=1) if len(runs) > 1 else 0)) - 1e-9
    assert len(numbers) == 6


def test_a_score_below_zero_hangs_from_the_zero_line():
    axes = bars.draw_bars({"random": {"CoLA": [-0.2]}}, "").axes[0]
    low, high = axes.get_ylim()
    assert low < -0.2 and high >= 0
    assert axes.texts[0].xy[1] == 0, "the number is not written into the bar"


def test_nothing_to_draw_or_more_series_than_colours_is_refused():
    for values in ({}, {"random": {}}, {"random": {"CoLA": []}}):
        with pytest.raises(Refused, match="no scores to draw"):
            bars.draw_bars(values, "")
    with pytest.raises(Refused, match="7 series of scores to draw, but there are only 6 colours"):
        bars.draw_bars({str(number): {"CoLA": [0.5]} for number in range(7)}, "")


def test_the_picture_grows_with_the_bars(axes):
    few, tall = axes.figure.get_size_inches()
    many = {series: {f"task {number}": [0.5] for number in range(12)} for series in VALUES}
    assert tuple(bars.draw_bars(many, "").get_size_inches()) > (2 * few, tall)


def test_the_picture_shows_the_bars_in_their_colours(tmp_path):
    bars.plot_bars(VALUES, tmp_path / "bars.png", title="scores")
    picture = matplotlib.image.imread(tmp_path / "bars.png")[..., :3]
    for colour in bars.COLOURS[:2]:
        pale = 0.75 * np.array(to_rgb(colour)) + 0.25  # a bar lets a quarter of the white through
        assert (np.abs(picture - pale).max(-1) < 0.02).sum() > 2000
