import pytest

from deberta_jax.errors import Refused
from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.study import counts, notes, study_of
from left_behind import curve, write_grid, write_kept, write_run


def test_a_study_has_the_metric_of_its_sweep_and_counts_all_that_was_planned(tmp_path):
    study = study_of(find([write_grid(tmp_path)]), None, "grid")
    assert study.metric == Metric("eval/loss", "min")
    assert counts(study.runs) == "12 runs: 9 done, 1 stopped, 1 failed, 1 not run"
    assert counts(study.runs[:1]) == "1 run: 1 done"
    assert sum(len(each.runs) for each in study.variations) == len(study.runs)


def test_a_metric_that_is_given_counts_and_is_looked_for(tmp_path):
    found = find([write_grid(tmp_path)])
    study = study_of(found, Metric("eval/accuracy", "max"), "grid")
    assert study.quantities[0].key == "eval/accuracy"
    with pytest.raises(Refused, match="there are accuracy|no run has 'eval/accurcy', did you mean 'eval/accuracy'"):
        study_of(found, Metric("eval/accurcy", "max"), "grid")


def test_only_what_applies_is_said(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "plain" / f"a-seed{seed}", curve(2.0), {"seed": seed})
    plain = notes(study_of(find([tmp_path / "plain"]), None, ""))
    assert len(plain) == 2 and "less is better" in plain[0]

    folder = tmp_path / "others"
    for number in range(6):
        write_run(folder / f"{number}", curve(2.0), {"seed": number % 3, "batch_size": number // 3})
    assert any("In standard deviations" in each for each in notes(study_of(find([folder]), None, "")))
    write_run(folder / "began", curve(2.0, 50), {"objective": "span", "eval.patience": 0})
    write_kept(folder / "began", 40)
    said = " ".join(notes(study_of(find([folder]), Metric("eval/loss", "max"), "")))
    assert "more is better" in said and "parameters it has kept" in said and "Unfinished" in said
    assert "several objectives" in said and "In standard deviations" not in said
