"""Records of trials, and what ended them."""

import json

import pytest

from deberta_jax.errors import Refused
from deberta_jax.sweep.trial import Record, Trial, read_record, record_of, state_after, write_record


def test_a_record_reads_back(tmp_path):
    assert read_record(tmp_path) is None
    record = Record("failed", 4, "diverged: x", 1.5, ["--a=1"])
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_a_record_from_before_there_was_a_digest_reads_as_one_without(tmp_path):
    write_record(tmp_path, Record("done", 0, "", 1.5, ["--a=1"]))
    values = json.loads((tmp_path / "trial.json").read_text())
    assert values.pop("digest") == ""
    (tmp_path / "trial.json").write_text(json.dumps(values))
    assert read_record(tmp_path).digest == ""


def test_a_digest_is_of_all_settings_in_whatever_order_but_of_later_keys_only_where_they_mean_something():
    def digest(**settings) -> str:
        return Trial("t", {}, (), settings).digest

    one = digest(steps=1, paths=("a", "b"))
    assert len(one) == 64 and record_of(Trial("t", {}, ("--a=1",), {"steps": 1}), "done", 0, "", 1.0).digest
    assert one == digest(paths=("a", "b"), steps=1) == digest(paths=("a", "b"), steps=1, **{"model.attention": "auto"})
    others = [digest(steps=2, paths=("a", "b")), digest(steps=1, paths=("b", "a")), digest(steps=1)]
    others += [digest(steps=1, paths=("a", "b"), **{"model.attention": "xla"})]
    assert len({one, *others}) == 5
    assert Trial("t", {}, ("--a=1",)).digest == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "done"}', '"done"'])
def test_a_damaged_record_is_refused(text, tmp_path):
    (tmp_path / "trial.json").write_text(text)
    with pytest.raises(Refused, match=r"trial.json is damaged \(.*\): delete it"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("exit_code", "state"),
    [
        *((0, "done"), (1, "failed"), (2, "failed"), (3, "failed"), (4, "failed")),
        *((5, "stopped"), (75, "stopped"), (-9, "stopped"), (-15, "stopped")),
    ],
)
def test_what_can_go_on_is_stopped_and_what_would_fail_again_has_failed(exit_code, state):
    assert state_after(exit_code) == state
