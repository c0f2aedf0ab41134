"""Records of trials, and what ended them."""

import pytest

from deberta_jax.errors import Refused
from deberta_jax.sweep.trial import Record, Trial, check_same, read_record, state_after, write_record


def test_a_record_reads_back(tmp_path):
    assert read_record(tmp_path) is None
    record = Record("failed", 4, "diverged: x", 1.5, ["--a=1"])
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


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


@pytest.mark.parametrize("state", ["done", "failed", "running", "stopped"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_folder_keeps_its_flags_once_there_is_something_to_lose(state, saved, tmp_path):
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
