import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv

from deberta_jax.reports.heat_map import draw_heat_map, grid_of
from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.variations import variations_of
from left_behind import write_run, write_sweep, write_trial

LOSS = Metric("eval/loss", "min")
RATES, LAYERS = (1e-2, 1e-4, 1e-3), (4, 12)


def write_values(folder, values, **more):
    """A sweep over learning rates and layers with two seeds; `values`: of a cell the mean, which no seed has."""
    trials = {
        f"lr={rate},layers={layers},seed={seed}": {
            "optimizer.learning_rate": rate,
            "model.num_layers": layers,
            "seed": seed,
            **more,
        }
        for rate, layers in values
        for seed in (0, 1)
    }
    write_sweep(folder, trials)
    for name, overrides in trials.items():
        mean = values[overrides["optimizer.learning_rate"], overrides["model.num_layers"]]
        if mean is not None:
            # A key that follows another by reference sets no parameter apart.
            derived = overrides | {"optimizer.warmup_steps": overrides["model.num_layers"] * 10}
            write_run(folder / name, [{"step": 100, "eval/loss": mean + overrides["seed"] - 0.5}], derived)
            write_trial(folder / name, "done")
    return folder


def grid_in(folder, metric=LOSS):
    return grid_of(variations_of(find([folder]).runs, metric), metric.key)


@pytest.fixture
def values():
    """The best rate is the middle one: the order of the axes is not that of the variations."""
    return {(rate, layers): layers + 10 * place for place, rate in enumerate((1e-3, 1e-4, 1e-2)) for layers in LAYERS}


def test_a_cell_is_the_mean_over_the_seeds_at_its_place(tmp_path, values):
    grid = grid_in(
        write_values(tmp_path, {(rate, layers): values[rate, layers] for rate in RATES for layers in LAYERS})
    )
    assert (grid.row_key, grid.column_key) == ("optimizer.learning_rate", "model.num_layers")
    assert (grid.rows, grid.columns) == (("0.0001", "0.001", "0.01"), ("4", "12"))  # by size, not as text
    np.testing.assert_allclose(grid.means, [[14, 22], [4, 12], [24, 32]])
    assert (grid.counts == 2).all()


def test_a_cell_without_a_value_is_empty_and_one_that_is_no_number_says_so(tmp_path, values):
    write_values(tmp_path, values | {(1e-3, 4): None, (1e-2, 12): np.nan})
    name = "lr=0.01,layers=12,seed=0"
    text = (tmp_path / name / "metrics.jsonl").read_text()
    for seed in (0, 1):
        (tmp_path / f"lr=0.01,layers=12,seed={seed}" / "metrics.jsonl").write_text(text.replace("NaN", "null"))
    grid = grid_in(tmp_path)
    np.testing.assert_allclose(grid.means, [[14, 22], [np.nan, 12], [24, np.nan]])
    np.testing.assert_array_equal(grid.counts, [[2, 2], [0, 2], [2, 2]])
    axes = draw_heat_map(grid, LOSS).axes[0]
    assert [text.get_text() for text in axes.texts] == ["14.00", "22.00", "–", "12.00", "24.00", "NaN"]


@pytest.mark.parametrize("goal", ["max", "min"])
def test_the_better_the_darker_and_the_best_is_framed(tmp_path, values, goal):
    grid = grid_in(write_values(tmp_path, values))
    figure = draw_heat_map(grid, Metric("eval/loss", goal))
    axes = figure.axes[0]
    figure.draw_without_rendering()
    (cells,) = axes.collections
    lightness = rgb_to_hsv(cells.get_facecolor()[:, :3])[:, 2] - rgb_to_hsv(cells.get_facecolor()[:, :3])[:, 1]
    order = np.argsort(lightness)  # the darkest first
    ranked = grid.means.ravel()[order]
    assert list(ranked) == sorted(ranked, reverse=goal == "max")
    (frame,) = axes.patches
    row, column = np.unravel_index(order[0], grid.means.shape)
    assert frame.get_xy() == (column - 0.5, row - 0.5)
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first row is above, as in the table"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(grid.rows)
    place = [text.get_position() for text in axes.texts]
    assert place == [(column, row) for row in range(3) for column in range(2)]


def test_a_grid_of_equal_values_or_of_none_is_drawn(tmp_path, values):
    for number, value in enumerate((1.5, None)):
        folder = write_values(tmp_path / str(number), dict.fromkeys(values, value))
        draw_heat_map(grid_in(folder), LOSS).draw_without_rendering()


def test_only_a_grid_over_two_parameters_has_a_heat_map(tmp_path, values):
    one = {key: value for key, value in values.items() if key[1] == 4}
    assert grid_in(write_values(tmp_path / "one", one)) is None
    together = {(1e-2, 4): 1.0, (1e-3, 12): 2.0, (1e-4, 2): 3.0}
    assert grid_in(write_values(tmp_path / "together", together)) is None
    write_values(tmp_path / "three" / "a", values)
    write_values(tmp_path / "three" / "b", values, batch_size=2)
    assert grid_in(tmp_path / "three") is None


def test_runs_without_a_sweep_have_the_grid_of_what_differs(tmp_path):
    for size in (1, 2):
        for steps in (10, 20):
            lines = [{"step": 20, "eval/loss": size * steps}]
            write_run(tmp_path / f"{size}-{steps}", lines, {"batch_size": size, "steps": steps})
    grid = grid_in(tmp_path)
    assert {grid.row_key, grid.column_key} == {"batch_size", "steps"}
    np.testing.assert_allclose(grid.means if grid.row_key == "batch_size" else grid.means.T, [[10, 20], [20, 40]])
