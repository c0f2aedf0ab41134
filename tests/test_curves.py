import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from deberta_jax.errors import Refused
from deberta_jax.reports import curves

STEPS = 200


@pytest.fixture
def metrics_jsonl(tmp_path):
    """A run as the logger leaves it: a line a step, held-out lines, samples, one non-finite loss, half a line."""
    lines = []
    for step in range(1, STEPS + 1):
        loss = None if step == 7 else 8 * step**-0.2
        lines.append({"step": step, "loss": loss, "accuracy": step / 1000, "tokens": 4096 * step})
        if step % 50 == 0:
            held_out = {"eval/loss": 9 * step**-0.2, "eval/accuracy": step / 900, "eval/baseline_accuracy": 0.05}
            lines += [{"step": step} | held_out, {"step": step, "samples": "Paris\nRome"}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 201, "lo')
    return path


def test_every_number_of_the_file_is_gathered_with_its_step(metrics_jsonl):
    metrics = curves.read_metrics(metrics_jsonl)
    np.testing.assert_array_equal(metrics["eval/loss"].steps, [50, 100, 150, 200])
    np.testing.assert_allclose(metrics["eval/loss"].values, 9 * np.array([50, 100, 150, 200]) ** -0.2)
    np.testing.assert_array_equal(metrics["loss"].steps, np.delete(np.arange(1, STEPS + 1), 6))
    np.testing.assert_array_equal(metrics["tokens"].values, 4096 * np.arange(1, STEPS + 1))
    assert "samples" not in metrics


@pytest.mark.parametrize("content", ["", '{"step": 1, "learning_rate": 0.1}\n', '{"step": 1, "loss": null}\n'])
def test_a_file_without_a_loss_is_refused(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(Refused, match="holds no loss yet"):
        curves.read_metrics(tmp_path / "metrics.jsonl")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"metrics\.jsonl does not exist"):
        curves.read_metrics(tmp_path / "metrics.jsonl")


def test_the_lines_drawn_are_the_numbers_logged(metrics_jsonl):
    metrics = curves.read_metrics(metrics_jsonl)
    loss, accuracy = curves.draw_curves(metrics).axes
    for panel, key in [(loss, "loss"), (accuracy, "accuracy")]:
        raw, smooth, held_out, *_ = panel.lines
        np.testing.assert_array_equal(raw.get_xydata(), np.stack([metrics[key].steps, metrics[key].values], 1))
        np.testing.assert_array_equal(smooth.get_xdata(), metrics[key].steps)
        evaluated = metrics["eval/" + key]
        np.testing.assert_array_equal(held_out.get_xydata(), np.stack([evaluated.steps, evaluated.values], 1))
    np.testing.assert_array_equal(accuracy.lines[-1].get_ydata(), [0.05, 0.05])
    assert accuracy.lines[-1].get_linestyle() == "--"


def test_tokens_stand_above_the_steps_at_their_rate(metrics_jsonl):
    panel = curves.draw_curves(curves.read_metrics(metrics_jsonl)).axes[0]
    (above,) = panel.child_axes
    panel.figure.draw_without_rendering()
    np.testing.assert_allclose(above.get_xlim(), np.array(panel.get_xlim()) * 4096)
    assert above.get_xlabel() == "tokens"


def test_a_run_with_a_single_evaluation_and_no_accuracy_has_one_panel(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "eval/loss": 3.0}\n')
    curves.plot_curves(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert len(curves.draw_curves(curves.read_metrics(tmp_path / "metrics.jsonl")).axes) == 1
    assert (tmp_path / "loss.png").stat().st_size > 0


PAIRED = {  # of a run with two models: key: (held-out baseline, how the legend says the last held-out value)
    "generator/loss": (None, "{:.2f}"),
    "discriminator/loss": (None, "{:.3f}"),
    "generator/accuracy": ("generator/baseline_accuracy", "{:.1%}"),
    "discriminator/f1": ("always_replaced/f1", "{:.3f}"),
}
BLIND = {"eval/generator/baseline_accuracy": 0.041, "eval/always_replaced/f1": 0.259}


@pytest.fixture
def pair_jsonl(tmp_path):
    """A run of a generator and a discriminator that has not yet found a replaced token."""
    lines = []
    for step in range(10, STEPS + 1, 10):
        losses = {"generator/loss": 8 * step**-0.2, "discriminator/loss": 0.5 * step**-0.1}
        scores = {"generator/accuracy": step / 900, "discriminator/f1": 0.0, "always_replaced/f1": 0.25}
        lines.append({"step": step, "loss": 30.0, "tokens": 4096 * step} | losses | scores)
        if step % 50 == 0:
            held_out = {f"eval/{key}": 1.1 * value for key, value in (losses | scores).items()}
            lines.append({"step": step, "eval/loss": 31.0} | held_out | BLIND)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_with_two_models_has_a_panel_for_each_loss_and_each_score(pair_jsonl):
    metrics = curves.read_metrics(pair_jsonl)
    figure = curves.draw_curves(metrics)
    assert figure.axes[0].get_gridspec().get_geometry() == (2, 2)
    for axes, (key, (_, form)) in zip(figure.axes, PAIRED.items(), strict=True):
        model, _, quantity = key.partition("/")
        assert axes.get_title(loc="left").startswith(f"{model}: ")
        assert {"loss": "(nats)", "accuracy": "right", "f1": "F1"}[quantity] in axes.get_title(loc="left")
        raw, smooth, held_out, *_ = axes.lines
        np.testing.assert_array_equal(raw.get_ydata(), metrics[key].values)
        np.testing.assert_allclose(smooth.get_ydata(), curves.smoothed(metrics[key].values))
        np.testing.assert_array_equal(held_out.get_ydata(), metrics["eval/" + key].values)
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels[:2] == ["training", "held out, last " + form.format(metrics["eval/" + key].values[-1])]
        assert (axes.get_xlabel(), axes.child_axes[0].get_xlabel()) == ("steps", "tokens")


def test_the_scores_of_two_models_stand_beside_what_a_blind_one_reaches(pair_jsonl):
    figure = curves.draw_curves(curves.read_metrics(pair_jsonl))
    for axes, (baseline, form) in zip(figure.axes, PAIRED.values(), strict=True):
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        if baseline is None:
            assert dashed == [] and axes.get_ylim()[0] > 0
            continue
        (line,) = dashed
        height = BLIND["eval/" + baseline]
        np.testing.assert_array_equal(line.get_ydata(), [height, height])
        assert line.get_label().endswith(", " + form.format(height))
        bottom, top = axes.get_ylim()
        assert bottom == 0 and top > height, "also where every score is below the baseline"


def test_only_shares_are_shown_as_percentages(pair_jsonl):
    figure = curves.draw_curves(curves.read_metrics(pair_jsonl))
    figure.draw_without_rendering()
    in_percent = [all(label.get_text().endswith("%") for label in axes.get_yticklabels()) for axes in figure.axes]
    assert in_percent == [False, False, True, False]


def test_a_percentage_between_two_whole_ones_is_not_rounded(metrics_jsonl):
    axes = curves.draw_curves(curves.read_metrics(metrics_jsonl)).axes[1]
    said = [axes.yaxis.get_major_formatter()(value, None) for value in (0, 0.025, 0.1, 0.125, 0.3, 1)]
    assert said == ["0%", "2.5%", "10%", "12.5%", "30%", "100%"]


def test_a_pair_before_its_first_evaluation_has_all_its_panels(pair_jsonl):
    first = pair_jsonl.read_text().splitlines(keepends=True)[0]
    pair_jsonl.write_text(first)
    figure = curves.draw_curves(curves.read_metrics(pair_jsonl))
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2, 2]


def test_the_picture_shows_each_curve_in_its_colour(metrics_jsonl, tmp_path):
    curves.plot_curves(metrics_jsonl, tmp_path / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "curves.png")[..., :3]
    half = picture.shape[1] // 2

    def seen(colour, panel):
        return int((np.abs(panel - np.array(to_rgb(colour))).max(-1) < 0.02).sum())

    for panel in (picture[:, :half], picture[:, half:]):
        assert seen(curves.TRAINING, panel) > 1000 and seen(curves.HELD_OUT, panel) > 1000
    only_text_is_grey = seen(curves.BASELINE, picture[:, :half])
    assert seen(curves.BASELINE, picture[:, half:]) > only_text_is_grey + 500


def test_smoothing_is_the_mean_of_a_window_that_is_cut_at_the_ends():
    values = np.random.default_rng(0).normal(size=180)  # a reach of 3
    for index, value in enumerate(curves.smoothed(values)):
        np.testing.assert_allclose(value, values[max(index - 3, 0) : index + 4].mean())


@pytest.mark.parametrize("count", [1, 2, 59])
def test_a_short_curve_is_not_smoothed(count):
    values = np.random.default_rng(0).normal(size=count)
    np.testing.assert_allclose(curves.smoothed(values), values)


def test_a_fine_tuned_run_shows_the_score_that_chose_its_checkpoint(tmp_path):
    lines = [
        {"step": 1, "epoch": 0.5, "loss": 0.7, "accuracy": 0.5},
        {"step": 2, "epoch": 1.0, "loss": 0.6, "accuracy": 0.75},
        {"step": 2, "eval/loss": 0.65, "eval/matthews": 0.25, "eval/accuracy": 0.5, "eval/score": 0.25},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = curves.draw_curves(curves.read_metrics(path))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["loss", "predicted right", "the score that chooses the checkpoint"]
    (held_out,) = figure.axes[2].get_lines()
    assert list(held_out.get_ydata()) == [0.25]
