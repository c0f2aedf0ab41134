import statistics

import pytest

from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.variations import comparable, difference, differing_keys, score, seed_of, variations_of
from left_behind import write_run, write_sweep, write_trial

LOSS = Metric("eval/loss", "min")


def ended(folder, loss, **overrides):
    """A run that is done, with a held-out loss."""
    return write_run(
        folder, [{"step": 100, "eval/loss": loss}], {k.replace("__", "."): v for k, v in overrides.items()}
    )


def found_in(folder, metric=LOSS):
    return variations_of(find([folder]).runs, metric)


def test_runs_that_differ_in_their_seed_are_one_variation_and_the_best_comes_first(tmp_path):
    values = {"slow": [3.0, 3.5, 4.0], "fast": [2.5, 1.5, 2.0]}
    for name, losses in values.items():
        for seed, loss in enumerate(losses):
            ended(
                tmp_path / name / f"seed-{seed}",
                loss,
                seed=seed,
                optimizer__learning_rate=len(name) + 0.5 * (name == "slow"),
            )
    variations = found_in(tmp_path)
    assert [each.name for each in variations] == ["fast", "slow"]
    assert [each.name for each in found_in(tmp_path, Metric("eval/loss", "max"))] == ["slow", "fast"]
    for each in variations:
        losses = values[each.name]
        assert [seed_of(run) for run in each.runs] == [0, 1, 2]
        assert score(each, "eval/loss") == (3, statistics.mean(losses), statistics.stdev(losses))
    # t of Welch's test with three runs each is this times the root of three halves.
    fast, slow = variations
    apart = difference(slow, fast, "eval/loss")
    assert apart.value == pytest.approx(1.5)
    assert apart.deviations == pytest.approx(1.5 / ((0.5**2 + 0.5**2) / 2) ** 0.5)
    assert differing_keys(variations) == ["optimizer.learning_rate"]


def test_runs_stand_in_the_order_of_their_seeds_not_of_their_names(tmp_path):
    for seed in (2, 10, 1):
        ended(tmp_path / f"seed-{seed}", 1.0, seed=seed)
    (variation,) = found_in(tmp_path)
    assert [seed_of(run) for run in variation.runs] == [1, 2, 10]


def test_only_runs_that_are_done_count(tmp_path):
    ended(tmp_path / "a" / "seed-0", 2.0, seed=0)
    write_run(tmp_path / "a" / "seed-1", [{"step": 50, "eval/loss": 9.0}], {"seed": 1})
    write_run(tmp_path / "b", [{"step": 50, "eval/loss": 1.0}], {"batch_size": 1})
    first, second = found_in(tmp_path)
    assert (first.name, len(first.runs), score(first, "eval/loss")) == ("a", 2, (1, 2.0, None))
    assert (second.name, score(second, "eval/loss")) == ("b", (0, None, None))
    assert difference(second, first, "eval/loss") is None


def test_few_seeds_say_nothing_of_deviations(tmp_path):
    for name, losses in {"a": [1.0, 2.0, 1.5], "b": [3.0, 4.0]}.items():
        for seed, loss in enumerate(losses):
            ended(tmp_path / name / f"seed-{seed}", loss, seed=seed, batch_size=len(losses))
    best, other = found_in(tmp_path)
    assert difference(other, best, "eval/loss") == (2.0, None)


def test_a_value_that_is_no_number_makes_the_mean_none_and_the_variation_last_but_those_without(tmp_path):
    ended(tmp_path / "a" / "seed-0", None, seed=0)
    ended(tmp_path / "a" / "seed-1", 0.1, seed=1)
    ended(tmp_path / "b", 5.0, batch_size=1)
    write_run(tmp_path / "c", [], {"batch_size": 2})
    variations = found_in(tmp_path)
    assert [each.name for each in variations] == ["b", "a", "c"]
    assert str(score(variations[1], "eval/loss")) == "Score(count=2, mean=nan, deviation=None)"
    assert difference(variations[1], variations[0], "eval/loss") is None


def test_trials_without_a_config_stand_with_their_siblings(tmp_path):
    trials = {
        f"batch_size={size},seed={seed}": {"batch_size": size, "seed": seed} for size in (1, 2) for seed in (0, 1, 2)
    }
    write_sweep(tmp_path, trials)
    for number, (name, overrides) in enumerate(trials.items()):
        if number in (1, 2, 3):
            ended(tmp_path / name, float(number), **overrides)
            write_trial(tmp_path / name, "done")
    write_trial(tmp_path / "batch_size=1,seed=0", "failed")
    one, two = found_in(tmp_path)
    assert (one.name, two.name) == ("batch_size=1", "batch_size=2")
    assert [seed_of(run) for run in (*one.runs, *two.runs)] == [0, 1, 2, 0, 1, 2]
    assert differing_keys([one, two]) == ["batch_size"]


def test_a_sweep_that_has_only_begun_shows_what_its_trials_override(tmp_path):
    trials = {"a": {"batch_size": 1}, "b": {"batch_size": 2, "steps": 10}, "c": {"batch_size": 4}}
    write_sweep(tmp_path, {name: overrides | {"log_every": 5} for name, overrides in trials.items()})
    assert differing_keys(found_in(tmp_path)) == ["batch_size", "steps"]
    ended(tmp_path / "a", 1.0, batch_size=1, log_every=5)
    write_trial(tmp_path / "a", "done")
    assert differing_keys(found_in(tmp_path)) == ["steps", "batch_size"]


def test_paths_in_a_runs_own_folder_set_nothing_apart(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"run-{seed}"
        own = {"data.paths": [f"{folder}/rows", "shared/rows"], "data.tokenizer": f"{folder}/tokenizer", "seed": seed}
        write_run(folder, [], own)
    (variation,) = found_in(tmp_path)
    assert variation.settings["data.paths"] == ["WORKDIR/rows", "shared/rows"]
    write_run(tmp_path / "run-2", [], own | {"data.tokenizer": f"{tmp_path}/run-0/tokenizer"})
    assert len(found_in(tmp_path)) == 2


@pytest.mark.parametrize(
    ("names", "variations"),
    [
        (["no_emd,seed=0", "no_emd,seed=1"], ["no_emd"]),
        (
            ["seed=0,optimizer.learning_rate=1e-5", "seed=1,optimizer.learning_rate=1e-5"],
            ["optimizer.learning_rate=1e-5"],
        ),
        (["mrpc/seed-0", "mrpc/seed-11"], ["mrpc"]),
        (["laptop-seed0", "laptop_seed1"], ["laptop"]),
        (["eval.seed=0", "eval.seed=1"], ["eval.seed=0 / eval.seed=1"]),
        (["first", "again"], ["first / again"]),
    ],
)
def test_a_variation_is_called_as_its_runs_without_their_seeds(tmp_path, names, variations):
    root = tmp_path / "root"
    for seed, name in enumerate(names):
        write_run(root / name, [], {"seed": seed})
    runs = sorted(find([root]).runs, key=lambda run: names.index(run.name))
    assert [each.name for each in variations_of(runs, LOSS)] == variations


def test_names_that_would_be_alike_stay_whole_and_no_name_is_empty(tmp_path):
    write_run(tmp_path / "a-seed0", [], {"batch_size": 1})
    write_run(tmp_path / "a-seed1", [], {"batch_size": 2})
    assert [each.name for each in found_in(tmp_path)] == ["a-seed0", "a-seed1"]
    write_run(tmp_path / "glue" / "mrpc" / "seed-0", [])
    assert [each.name for each in found_in(tmp_path / "glue" / "mrpc")] == ["mrpc"]


def test_a_key_that_only_some_configs_have_differs(tmp_path):
    write_run(tmp_path / "a", [])
    write_run(tmp_path / "b", [], {"rtd": {"temperature": 1.0}})
    assert differing_keys(found_in(tmp_path)) == ["rtd", "rtd.temperature"]


def test_scores_of_several_tasks_are_not_compared(tmp_path):
    for task in ("mrpc", "cola"):
        write_run(tmp_path / "tasks" / task, [], {"objective": "classification", "data.task": task})
    write_run(tmp_path / "mlm" / "a", [], {"batch_size": 1})
    write_run(tmp_path / "mlm" / "b", [], {"batch_size": 2})
    assert comparable(found_in(tmp_path / "mlm"))
    assert not comparable(found_in(tmp_path / "tasks"))
    assert not comparable(found_in(tmp_path))
