"""Whether a folder holds the run that is asked for, by digest, config.json or flags."""

import json
from pathlib import Path
from typing import Any

import pytest

import builders
from deberta_jax import config as configs
from deberta_jax.errors import Refused
from deberta_jax.reports.runs import flat
from deberta_jax.sweep.identity import asked_difference, check_same, difference, different_trials
from deberta_jax.sweep.trial import Record, Trial, record_of, write_record

BATCH = "settings (batch_size was 8, is 16)"  # that of the tiny config


def trial(*flags: str, **changed: Any) -> Trial:
    """A trial with some settings of the tiny config changed; "model__vocab_size=0" is the key model.vocab_size."""
    return Trial("t", {}, flags, settings(changed))


def settings(changed: dict[str, Any]) -> dict[str, Any]:
    return flat(configs.to_dict(builders.tiny_config())) | {key.replace("__", "."): changed[key] for key in changed}


def write_config(folder: Path, **changed: Any) -> None:
    """config.json as a run with these settings writes it."""
    values: dict[str, Any] = {}
    for key, value in settings(changed).items():
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = value
    (folder / "config.json").write_text(json.dumps(values))


def done(asked: Trial) -> Record:
    return record_of(asked, "done", 0, "", 1.0)


@pytest.mark.parametrize("digest", [True, False])
def test_a_finished_run_whose_config_file_was_edited_is_told_by_the_first_setting_that_differs(digest, tmp_path):
    before = trial("--config=x.py", batch_size=8)
    write_record(tmp_path, done(before) if digest else Record("done", 0, "", 1.0, ["--config=x.py"]))
    write_config(tmp_path, batch_size=8)
    check_same(before, tmp_path)
    with pytest.raises(Refused) as raised:
        check_same(trial("--config=x.py"), tmp_path)
    wanted = f"{tmp_path} was run with other {BATCH}: choose another --workdir, or delete that folder"
    assert str(raised.value) == wanted
    with pytest.raises(Refused, match=r"\(steps was 10, is 20, and 1 more\)"):
        check_same(trial("--config=x.py", steps=20), tmp_path)


def test_settings_count_and_not_how_flags_spell_them(tmp_path):
    before, now = trial("--config.optimizer.learning_rate=1e-3", "--a=1"), trial("--a=1", "--x=0.001")
    assert difference(now, done(before), tmp_path) == asked_difference(now, done(before)) == ""
    assert different_trials(before, now) == ""
    assert different_trials(trial(batch_size=8), trial()) == BATCH


def test_where_no_config_was_written_what_can_be_told_is(tmp_path):
    asked = trial("--a=1")
    for tell in (asked_difference, lambda asked, record: difference(asked, record, tmp_path)):
        assert tell(asked, done(trial("--a=2", batch_size=8))) == "flags (--a=1, --a=2)"
        assert tell(asked, done(trial("--a=1", batch_size=8))) == "settings (in its config)"
        assert tell(asked, Record("done", 0, "", 1.0, ["--a=1"])) == ""
        assert tell(asked, Record("done", 0, "", 1.0, ["--a=2"])) == "flags (--a=1, --a=2)"
    assert difference(asked, None, tmp_path) == ""


def test_what_was_left_to_the_data_is_no_difference_and_what_was_not_is(tmp_path):
    left = trial(model__vocab_size=0)
    write_config(tmp_path, model__vocab_size=4096)
    given = trial(model__vocab_size=4096)
    for record in (None, Record("done", 0, "", 1.0, []), done(left)):
        assert difference(left, record, tmp_path) == ""
    assert difference(left, done(given), tmp_path) == "settings (model.vocab_size was 4096, is 0)"
    assert difference(given, done(left), tmp_path) == ""  # the same number by now
    said = "settings (model.vocab_size was 4096, is 5000)"
    assert difference(trial(model__vocab_size=5000), done(left), tmp_path) == said
    both = difference(trial(model__vocab_size=0, batch_size=8), done(left), tmp_path)
    assert both == "settings (batch_size was 16, is 8)"
    assert difference(trial(seed=0), Record("done", 0, "", 1.0, []), tmp_path).startswith("settings (model.vocab_size")
    write_config(tmp_path, seed=1)
    assert difference(trial(seed=0), None, tmp_path) == "settings (seed was 1, is 0)"  # empty, but never left to data


def test_a_file_that_was_edited_between_the_check_and_the_start_is_found(tmp_path):
    """The digest is of what was checked; the run has read something else."""
    write_config(tmp_path, batch_size=8)
    assert difference(trial(), done(trial()), tmp_path) == BATCH


def test_a_config_of_before_a_key_was_added_means_what_it_meant(tmp_path):
    write_config(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["model"]["attention"], values["watchdog_minutes"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert difference(trial(), None, tmp_path) == ""
    assert difference(trial(model__attention="xla"), None, tmp_path) == (
        "settings (model.attention was 'auto', is 'xla')"
    )


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_config_is_one_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert difference(Trial("suite", {}, ()), None, tmp_path) == ""  # known by its flags
    with pytest.raises(Refused, match=r"config.json is damaged or of another version \(.*\): choose another --workdir"):
        difference(trial(), None, tmp_path)


def test_a_group_that_only_one_of_them_has_is_told():
    pair = Trial("t", {}, (), flat({"rtd": {"weight": 50.0}}))
    assert different_trials(Trial("t", {}, (), {"rtd": None}), pair) == (
        "settings (rtd.weight was not there, is 50.0, and 1 more)"
    )


@pytest.mark.parametrize("state", ["done", "failed", "running", "stopped"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_folder_of_a_suite_keeps_its_flags_once_there_is_something_to_lose(state, saved, tmp_path):
    asked, other = Trial("t", {}, ("--a=1",)), Trial("t", {}, ("--a=2",))
    check_same(asked, tmp_path)
    (tmp_path / "checkpoints" / "3" if saved else tmp_path / "checkpoints").mkdir(parents=True)
    write_record(tmp_path, Record(state, None, "", None, ["--a=1"]))
    check_same(asked, tmp_path)
    if state == "done" or saved:
        with pytest.raises(Refused, match=r"was run with other flags \(--a=1, --a=2\): choose another --workdir"):
            check_same(other, tmp_path)
        with pytest.raises(Refused, match="in another order"):
            write_record(tmp_path, Record(state, None, "", None, ["--a=1", "--b=1"]))
            check_same(Trial("t", {}, ("--b=1", "--a=1")), tmp_path)
    else:
        check_same(other, tmp_path)


def test_a_checkpoint_that_no_sweep_made_counts_too(tmp_path):
    """As of the commands that --dry_run prints."""
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    write_config(tmp_path, batch_size=8)
    with pytest.raises(Refused, match="batch_size was 8, is 16"):
        check_same(trial(), tmp_path)
