import statistics

from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.study import study_of
from deberta_jax.reports.tables import (
    differences_table,
    environments_table,
    failures_table,
    runs_table,
    variations_table,
)
from left_behind import curve, write_grid, write_run


def study_in(folder, metric=None):
    return study_of(find([folder]), metric, "title")


def lines_of(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def write_seeds(folder, **variations):
    """Runs with held-out losses; a variation's are those of its seeds."""
    for size, (name, losses) in enumerate(variations.items(), 1):
        for seed, loss in enumerate(losses):
            lines = [{"step": 100, "eval/loss": loss, "eval/accuracy": 1 / loss}]
            write_run(folder / name / f"seed-{seed}", lines, {"batch_size": size, "seed": seed})
    return folder


def test_variations_stand_best_first_with_what_sets_them_apart(tmp_path):
    full, other = (2.51, 2.53, 2.46), (2.6, 2.72, 2.66)
    table = variations_table(study_in(write_seeds(tmp_path, other=other, full=full, single=[9.0])))
    assert table.columns == (
        *("variation", "eval/loss", "runs", "to the best", "in standard deviations", "eval/accuracy"),
    )
    best, second, last = lines_of(table)
    assert best["variation"] == "full" and best["to the best"] == best["in standard deviations"] == "–"
    assert best["eval/loss"] == f"{statistics.mean(full):.3f} ± {statistics.stdev(full):.3f}"
    assert (second["variation"], second["to the best"]) == ("other", "+0.160")
    pooled = ((statistics.variance(full) + statistics.variance(other)) / 2) ** 0.5
    assert second["in standard deviations"] == f"+{0.16 / pooled:.1f}"
    assert last == {
        "variation": "single",
        "eval/loss": "9.000",
        "runs": "1",
        "to the best": "+6.500",
        "in standard deviations": "–",
        "eval/accuracy": f"{1 / 9:.4f}",
    }


def test_columns_that_would_be_empty_are_left_out(tmp_path):
    write_seeds(tmp_path / "few", a=[1.0, 1.5], b=[2.0, 2.5])
    assert "in standard deviations" not in variations_table(study_in(tmp_path / "few")).columns
    write_seeds(tmp_path / "one", a=[1.0, 1.5])
    assert variations_table(study_in(tmp_path / "one")).columns == ("variation", "eval/loss", "runs", "eval/accuracy")
    for task in ("mrpc", "cola"):
        write_run(tmp_path / "tasks" / task, curve(2.0), {"data.task": task})
    assert "to the best" not in variations_table(study_in(tmp_path / "tasks", Metric("loss", "min"))).columns


def test_runs_stand_in_the_order_of_their_variations_with_dashes_for_what_they_have_not(tmp_path):
    rows = lines_of(runs_table(study_in(write_grid(tmp_path))))
    assert [row["state"] for row in rows].count("done") == 9
    by_name = {row["run"]: row for row in rows}
    assert list(by_name)[:2] == [f"optimizer.learning_rate=0.0001,model.note=a<b>&c,seed={seed}" for seed in (0, 1)]
    columns = ("state", "seed", "eval/loss", "measured at step", "of steps", "time")
    told = {
        "optimizer.learning_rate=0.0001,model.note=a<b>&c,seed=1": ("done", "1", "2.5100", "100", "100", "62 s"),
        "optimizer.learning_rate=0.001,model.note=a<b>&c,seed=0": ("failed", "0", "–", "–", "–", "62 s"),
        'optimizer.learning_rate=0.01,model.note=say "no",seed=1': ("not run", "1", "–", "–", "–", "–"),
    }
    for name, cells in told.items():
        assert tuple(by_name[name][column] for column in columns) == cells
    stopped = by_name['optimizer.learning_rate=0.001,model.note=say "no",seed=1']
    assert (stopped["state"], stopped["measured at step"], stopped["of steps"]) == ("stopped", "40", "100")


def test_runs_that_failed_or_were_stopped_say_why(tmp_path):
    failed, stopped = lines_of(failures_table(study_in(write_grid(tmp_path))))
    assert (failed["state"], failed["exit code"], failed["last step"]) == ("failed", "1", "–")
    assert failed["last line"] == "ValueError: <script>alert('no')</script> & \"more\""
    assert (stopped["state"], stopped["exit code"], stopped["last step"]) == ("stopped", "75", "48")
    assert failures_table(study_in(write_seeds(tmp_path / "well", a=[1.0]))) is None


def test_configs_are_shown_where_they_differ(tmp_path):
    few = {"a": {"batch_size": 8, "model.num_layers": 3}, "b": {"optimizer.learning_rate": 1e-5}}
    for name, overrides in few.items():
        write_run(tmp_path / "few" / name, curve(2.0), overrides)
    assert differences_table(study_in(tmp_path / "few")) == (
        ("key", "a", "b"),
        (("model.num_layers", "3", "2"), ("optimizer.learning_rate", "0.001", "1e-05")),
        (),
    )
    for size in range(6):
        write_run(tmp_path / "many" / f"{size}", curve(2.0 + size), {"batch_size": size})
    assert differences_table(study_in(tmp_path / "many")) == (
        ("variation", "batch_size"),
        tuple((str(size), str(size)) for size in range(6)),
        (),
    )
    assert differences_table(study_in(write_seeds(tmp_path / "same", a=[1.0, 2.0]))) is None


def test_each_environment_is_told_once(tmp_path):
    write_seeds(tmp_path, a=[1.0, 2.0, 3.0])
    place = tmp_path / "a" / "seed-1" / "environment.json"
    place.write_text(place.read_text().replace("0123abc", "4567def"))
    (tmp_path / "a" / "seed-2" / "environment.json").unlink()
    found = environments_table(study_in(tmp_path)).rows
    assert [(count, line.rpartition(" ")[2]) for count, line in found] == [("1", "0123abc"), ("1", "4567def")]
