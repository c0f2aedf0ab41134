import math

import pytest

from deberta_jax.errors import Refused
from deberta_jax.reports.metric import Metric, Reached, chosen, parsed, reached
from deberta_jax.reports.runs import find
from left_behind import curve, write_kept, write_run, write_sweep

NEVER = {"eval.patience": 0}
HELD_OUT = [{"step": 10, "eval/f1": 0.5}, {"step": 20, "eval/f1": 0.75}, {"step": 25, "loss": 1.0}]


def run_with(folder, lines, **overrides):
    return find([write_run(folder, lines, overrides)]).runs[0]


def test_a_value_is_the_last_that_was_written(tmp_path):
    run = run_with(tmp_path / "run", HELD_OUT)
    assert reached(run, "eval/f1") == Reached(0.75, 20)
    assert reached(run, "eval/accuracy") is None


def test_a_value_that_was_no_number_is_not_replaced_by_an_older_one(tmp_path):
    run = run_with(tmp_path / "run", [*HELD_OUT, {"step": 30, "eval/f1": None}])
    found = reached(run, "eval/f1")
    assert math.isnan(found.value) and found.step == 30


@pytest.mark.parametrize(
    ("kept", "f1", "loss"), [(10, Reached(0.5, 10), None), (28, Reached(0.75, 20), Reached(1, 25))]
)
def test_of_a_fine_tuned_run_the_kept_parameters_count(tmp_path, kept, f1, loss):
    folder = write_run(tmp_path / "run", [*HELD_OUT, {"step": 30, "eval/f1": 0.25, "loss": 2.0}])
    write_kept(folder, kept)
    (run,) = find([folder]).runs
    assert (reached(run, "eval/f1"), reached(run, "loss")) == (f1, loss)


def test_the_best_comes_first_whichever_way():
    values = [0.5, None, math.nan, 2.0, -1.0]
    for goal, order in [("max", [2.0, 0.5, -1.0]), ("min", [-1.0, 0.5, 2.0])]:
        ranked = sorted(values, key=Metric("x", goal).rank)
        assert ranked[:3] == order and math.isnan(ranked[3]) and ranked[4] is None


def test_a_metric_is_a_key_and_a_goal():
    assert parsed("eval/a:b:max") == Metric("eval/a:b", "max")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("eval/loss", "KEY:min, as eval/loss:min$"),
        (":max", "expects KEY"),
        ("a:mix", "did you mean 'm[ai][xn]'"),
        ("", "expects KEY"),
    ],
)
def test_other_text_is_refused(text, said):
    with pytest.raises(Refused, match=said):
        parsed(text)


@pytest.mark.parametrize(
    ("objective", "lines", "metric"),
    [
        ("mlm", curve(2.0), Metric("eval/loss", "min")),
        ("rtd", [{"step": 1, "eval/discriminator/f1": 0.5}], Metric("eval/discriminator/f1", "max")),
        ("span", [{"step": 1, "eval/score": 0.5}], Metric("eval/score", "max")),
        ("mlm", [{"step": 1, "loss": 0.5}], Metric("eval/loss", "min")),  # which it will have
        ("mlm", [], Metric("eval/loss", "min")),
    ],
)
def test_without_a_word_the_kind_of_run_decides(tmp_path, objective, lines, metric):
    assert chosen(None, [run_with(tmp_path / "run", lines, objective=objective)], []) == metric


def test_the_sweeps_metric_comes_before_the_kind_and_the_given_one_before_both(tmp_path):
    write_sweep(tmp_path, {"a": {}}, "eval/accuracy", "max")
    write_run(tmp_path / "a", curve(2.0))
    found = find([tmp_path])
    assert chosen(None, found.runs, found.sweeps) == Metric("eval/accuracy", "max")
    assert chosen(Metric("loss", "min"), found.runs, found.sweeps) == Metric("loss", "min")


def test_runs_of_several_kinds_need_a_metric(tmp_path):
    runs = [
        run_with(tmp_path / "a", curve(2.0), objective="mlm"),
        run_with(tmp_path / "b", [{"step": 1, "eval/loss": 1.0, "eval/score": 0.5}], objective="span", **NEVER),
    ]
    with pytest.raises(Refused, match="kinds: .* as --metric=eval/loss:min or --metric=eval/score:max"):
        chosen(None, runs, [])
    assert chosen(Metric("eval/loss", "min"), runs, []).goal == "min"


def test_a_metric_that_no_run_has_is_refused_with_those_that_exist(tmp_path):
    run = run_with(tmp_path / "run", curve(2.0))
    with pytest.raises(
        Refused, match="no run has 'eval/acc', did you mean 'eval/accuracy'.*; there are eval/accuracy, eval/"
    ):
        chosen(Metric("eval/acc", "max"), [run], [])
    early = run_with(tmp_path / "early", [{"step": 1, "loss": 0.5}])
    with pytest.raises(Refused, match="no run has 'los', did you mean 'loss'.*; there are loss$"):
        chosen(Metric("los", "min"), [early], [])
