import json

import numpy as np
import pytest
from matplotlib.colors import to_hex

from deberta_jax.reports import comparison
from deberta_jax.reports.comparison import Quantity, curve, draw_comparison, limits, quantities_of, style_of
from deberta_jax.reports.curves import smoothed
from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.series import Series
from deberta_jax.reports.variations import variations_of
from left_behind import STEPS, write_run
from left_behind import curve as lines_of

LOSS = Metric("eval/loss", "min")
TRAINING = Quantity("loss", "", percent=False, training=True)
HELD_OUT = Quantity("eval/loss", "", percent=False, training=False)


def drawn(folder, metric=LOSS):
    """(variations, quantities, panels) of the runs below a folder."""
    runs = find([folder]).runs
    variations, quantities = variations_of(runs, metric), quantities_of(runs, metric)
    return variations, quantities, draw_comparison(variations, quantities).axes


def test_each_panel_has_a_line_for_each_run_in_the_colour_of_its_variation(tmp_path):
    for name, final in {"worse": 3.0, "better": 2.0}.items():
        for seed in (0, 1):
            write_run(
                tmp_path / name / f"seed-{seed}", lines_of(final + seed / 9, seed=seed), {"x": name, "seed": seed}
            )
    variations, quantities, panels = drawn(tmp_path)
    assert [each.key for each in quantities] == ["eval/loss", "eval/accuracy", "loss"]
    for quantity, axes in zip(quantities, panels, strict=True):
        assert axes.get_title(loc="left").startswith(quantity.key)
        expected = [(rank, run) for rank, each in enumerate(variations) for run in each.runs]
        found = {to_hex(line.get_color()): [] for line in axes.lines}
        for line in axes.lines:
            found[to_hex(line.get_color())].append(line.get_xydata())
        for rank, run in expected:
            wanted = run.metrics[quantity.key]
            values = smoothed(wanted.values) if quantity.training else wanted.values
            points = np.stack([wanted.steps, values], 1)
            assert any(np.array_equal(points, each) for each in found[style_of(rank).colour])
        assert len(axes.lines) == len(expected) == 4
        assert to_hex(axes.lines[-1].get_color()) == style_of(0).colour, "the best lies on top"
        assert axes.get_xlabel() == "steps" and axes.get_xlim()[0] == 0


def test_every_style_is_one_variations_own_until_they_are_used_up():
    styles = [style_of(rank) for rank in range(len(comparison.COLOURS) * len(comparison.DASHES))]
    assert len(set(styles)) == len(styles) >= 24
    assert style_of(len(styles)).colour == style_of(10 * len(styles)).colour == comparison.OTHER
    assert comparison.OTHER not in comparison.COLOURS


def test_what_is_drawn_depends_on_the_kind_of_run(tmp_path):
    pair = {f"{prefix}{model}/loss": 0.0 for prefix in ("", "eval/") for model in ("generator", "discriminator")}
    lines = {
        "rtd": {"step": 1, "loss": 3.0, "eval/loss": 4.0, "eval/discriminator/f1": 0.5} | pair,
        "task": {"step": 1, "epoch": 1, "loss": 3.0, "eval/loss": 2.0, "eval/score": 0.5, "eval/f1": 0.25},
        "same": {"step": 1, "epoch": 1, "loss": 3.0, "eval/loss": 2.0, "eval/score": 0.5, "eval/f1": 0.5},
    }
    for name, line in lines.items():
        write_run(tmp_path / name, [line], {"eval.patience": 0})
    write_run(tmp_path / "empty", [])
    keys = {}
    for name, metric in {"rtd": "eval/discriminator/f1", "task": "eval/f1", "same": "eval/f1"}.items():
        runs = find([tmp_path / name, tmp_path / "empty"]).runs
        keys[name] = [each.key for each in quantities_of(runs, Metric(metric, "max"))]
    assert keys == {
        "rtd": [
            *("eval/discriminator/f1", "eval/generator/loss", "eval/discriminator/loss"),
            *("generator/loss", "discriminator/loss"),
        ],
        "task": ["eval/f1", "eval/loss", "eval/score", "loss"],
        "same": ["eval/f1", "eval/loss", "loss"],
    }


def test_runs_with_steps_of_other_sizes_are_drawn_over_their_tokens(tmp_path):
    lines = lines_of(2.0)
    write_run(tmp_path / "a", lines)
    write_run(
        tmp_path / "b", [line | ({"tokens": line["tokens"] * 1.005} if "tokens" in line else {}) for line in lines]
    )
    assert {axes.get_xlabel() for axes in drawn(tmp_path)[2]} == {"steps"}
    write_run(tmp_path / "c", [line | ({"tokens": line["tokens"] * 2} if "tokens" in line else {}) for line in lines])
    panels = drawn(tmp_path)[2]
    assert {axes.get_xlabel() for axes in panels} == {"tokens"}
    for axes in panels:
        assert sorted(line.get_xdata()[-1] for line in axes.lines) == pytest.approx(
            [256 * STEPS, 256 * STEPS * 1.005, 512 * STEPS]
        )
    write_run(tmp_path / "d", [{"step": 1, "loss": 1.0}])  # whose tokens are not known
    assert {axes.get_xlabel() for axes in drawn(tmp_path)[2]} == {"steps"}


def test_a_long_training_is_thinned_to_its_ends_and_what_is_held_out_is_not():
    steps = np.arange(1, 5001)
    values = np.where(steps == 7, np.nan, 5 / steps)
    shown = curve(Series(steps, values), TRAINING)
    assert comparison.MOST_POINTS >= len(shown.steps) > comparison.MOST_POINTS / 2
    assert (shown.steps[0], shown.steps[-1]) == (1, 5000) and 7 not in shown.steps
    assert np.isin(shown.values, smoothed(np.delete(values, 6))).all()
    np.testing.assert_array_equal(curve(Series(steps, values), HELD_OUT).values, values)
    assert curve(Series(steps[6:7], values[6:7]), TRAINING).steps.size == 0


def test_neither_the_start_nor_a_diverging_run_decides_the_height():
    steps = np.arange(1, 101)
    falling = Series(steps, 2 + np.exp(-steps / 5.0) * 10)
    settled = falling.values[steps >= 10]
    bottom, top = limits([falling])
    assert settled.min() > bottom > settled.min() - 0.2
    assert top < falling.values[0] / 2
    straight = Series(steps, 10.0 - steps / 20)
    assert (
        limits([straight])[1] == pytest.approx(straight.values[9], abs=0.25)
        and straight.values[0] > limits([straight])[1]
    )
    flat_runs = [Series(steps, 2 + 0.01 * rank + 0.001 * steps) for rank in range(5)]
    calm = limits(flat_runs)
    wild = limits([*flat_runs, Series(steps, 2.0 * steps)])
    assert wild[0] == pytest.approx(calm[0], abs=0.1) and wild[1] < 3
    assert all(wild[0] <= value <= wild[1] for run in flat_runs for value in run.values[9:])


def test_one_value_or_none_leaves_the_height_open():
    assert limits([Series(np.array([5]), np.array([1.0]))]) is None
    assert limits([Series(np.array([5]), np.array([np.nan]))]) is None
    assert limits([Series(np.array([]), np.array([]))]) is None


def test_a_run_that_has_just_begun_can_be_drawn(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text(json.dumps({"step": 0, "eval/loss": None}) + "\n")
    (axes,) = drawn(tmp_path)[2]
    axes.figure.draw_without_rendering()
    assert axes.get_title(loc="left").startswith("eval/loss")


def test_of_a_few_values_none_is_left_out():
    """Six runs that were evaluated once: the best and the worst are what one looks for."""
    finals = (5.191, 5.349, 5.355, 5.390, 5.599)
    bottom, top = limits([Series(np.array([40]), np.array([value])) for value in finals])
    assert bottom < min(finals) and max(finals) < top
