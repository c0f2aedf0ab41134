"""The ablation's table, numbers and picture, from a sweep with made-up numbers; what the variations share."""

import json
import math
import statistics

import jax
import pytest

from benchmarks import ablation
from configs.sweeps.ablation import VARIATIONS
from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.dist.mesh import abstract_mesh
from deberta_jax.objectives import Lexicon
from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.variations import variations_of
from deberta_jax.sweep.space import text_of
from deberta_jax.train.build import state_on
from left_behind import curve, write_run, write_sweep, write_trial
from runs import ROOT

LOSSES = {"bert": (3.0, 3.1), "full": (2.0, 2.2, 2.4), "no_emd": (2.5, 2.5, 2.8)}  # the third of "bert" was never run


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "sweep"
    trials = {f"{name},seed={seed}": {"model.name": name, "seed": seed} for name in LOSSES for seed in range(3)}
    write_sweep(folder, trials)
    for name, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            place = folder / f"{name},seed={seed}"
            write_run(place, curve(loss), trials[place.name])
            write_trial(place, "done", exit_code=0)
    return folder


def test_the_table_has_means_deviations_and_how_far_the_full_model_is(sweep, capsys):
    ablation.main([str(sweep)])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    apart = 2.6 - 2.2
    spread = math.sqrt((statistics.stdev(LOSSES["full"]) ** 2 + statistics.stdev(LOSSES["no_emd"]) ** 2) / 2)
    assert lines[0] == ["variation", "runs", "loss", "accuracy (%)", "loss to full"]
    assert [line[:3] + line[4:] for line in lines[2:]] == [
        ["full", "3", "2.200 ± 0.200", "–"],
        ["no_emd", "3", "2.600 ± 0.173", f"+{apart:.3f} (+{apart / spread:.1f} s)"],
        ["bert", "2", "3.050 ± 0.071", "+0.850"],  # of two runs no deviations are told
    ]
    accuracies = [100 / loss for loss in LOSSES["full"]]
    assert lines[2][3] == f"{statistics.fmean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"


def test_the_numbers_of_every_run_are_kept(sweep, tmp_path):
    ablation.main([str(sweep), f"--json={tmp_path / 'numbers.json'}", f"--figure={tmp_path / 'picture.png'}"])
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert {run["name"]: run.get("eval/loss") for run in found["runs"]} == {
        f"{name},seed={seed}": pytest.approx(losses[seed]) if seed < len(losses) else None
        for name, losses in LOSSES.items()
        for seed in range(3)
    }
    assert [run["state"] for run in found["runs"]].count("not run") == 1
    assert found["commands"] and len(found["environments"]) == 1
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_the_picture_has_a_dot_for_each_run_at_its_value(sweep):
    figure = ablation.draw(variations_of(find([sweep]).runs, Metric("eval/loss", "min")))
    left, right = figure.axes
    dots = [line for line in left.lines if line.get_marker() == "o"]
    for place, (line, name) in enumerate(zip(dots, ("full", "no_emd", "bert"), strict=True)):
        assert list(line.get_xdata()) == pytest.approx(LOSSES[name])
        assert set(line.get_ydata()) == {place}
    assert [label.get_text() for label in left.get_yticklabels()] == ["full", "no_emd", "bert"]
    assert sorted(left.get_ylim()) == list(reversed(left.get_ylim()))  # the best on top
    assert len(right.lines) == len(left.lines)


def test_a_sweep_without_a_full_model_is_refused(sweep, capsys):
    for seed in range(3):
        (sweep / f"full,seed={seed}").rename(sweep / f"whole,seed={seed}")
    said = json.loads((sweep / "sweep.json").read_text())
    for trial in said["trials"]:
        trial["name"] = trial["name"].replace("full", "whole")
    (sweep / "sweep.json").write_text(json.dumps(said))
    assert errors.run(ablation.main, [str(sweep)]) == 2
    assert capsys.readouterr().err == "refused: no variation is called 'full': whole, no_emd, bert\n"


def parameters(changes: dict) -> int:
    """Of the model of a variation, but for the word table and the head, which all of them share."""
    assignments = [("model.vocab_size", "4097"), *((key, text_of(value)) for key, value in changes.items())]
    config = configs.build(flags.read_config(str(ROOT / "configs" / "sweeps" / "ablation.py"), assignments).config)
    known = Lexicon(top_id=5, size=4097, special_ids=(0, 1, 2, 3), mask_id=4)
    mesh = abstract_mesh(config.mesh, 1, dcn_axes=config.dcn_mesh, slices=1)
    encoder = state_on(mesh, config, known).params["encoder"]
    return sum(leaf.size for leaf in jax.tree.leaves(encoder)) - encoder["embeddings"]["word"].size


def test_the_variations_have_as_many_parameters_but_for_the_convolution():
    full = parameters({})
    shares = {name: parameters(changes) / full - 1 for name, changes in VARIATIONS.items()}
    assert shares.pop("convolution") == pytest.approx(0.061, abs=0.001)  # docs/results.md says so
    assert max(map(abs, shares.values())) < 0.02
