"""What hosts compare before the first step."""

import copy

import pytest

from deberta_jax.errors import Refused
from deberta_jax.train import roll_call

META = {
    "config": {"seed": 0, "model": {"num_layers": 2, "pos_att_type": ("c2p", "p2c")}},
    "tokenizer": "abc",
    "manifests": ["one", "two"],
}


@pytest.fixture
def described() -> dict:
    return roll_call.described(META)


def test_equal_hosts_pass(described):
    roll_call.check_same(described, roll_call.described(copy.deepcopy(META)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"seed": 1, "model": META["config"]["model"]}}, "config seed is 1, on process 0 0"),
        (
            {"config": {"seed": 0, "model": {"num_layers": 2}}},
            r"config model.pos_att_type is None, on process 0 \['c2p'",
        ),
        ({"config": META["config"] | {"extra": 5}}, "config extra is 5, on process 0 None"),
        ({"tokenizer": "abd"}, "data tokenizer is other than on process 0"),
        ({"manifests": ["two", "one"]}, "data manifests is other than on process 0"),
    ],
)
def test_a_difference_is_named(change, said, described):
    with pytest.raises(Refused, match=said):
        roll_call.check_same(roll_call.described(META | change), described)


def test_other_versions_are_told_before_what_follows_from_them(described):
    other = copy.deepcopy(described)
    other["versions"]["jax"], other["code"] = "0.0.1", ""
    with pytest.raises(Refused, match="versions jax is '0.0.1', on process 0 '"):
        roll_call.check_same(other, described)


def test_other_code_is_seen(described, tmp_path, monkeypatch):
    package = tmp_path / "deberta_jax"
    (package / "ops").mkdir(parents=True)
    (package / "ops" / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(roll_call, "PACKAGE", package)
    before = roll_call.described(META)
    assert before["code"] != described["code"]
    (package / "ops" / "a.py").write_text("x = 2\n")
    with pytest.raises(Refused, match="the code of deberta_jax is another than on process 0"):
        roll_call.check_same(roll_call.described(META), before)
    (package / "ops" / "a.py").write_text("x = 1\n")
    roll_call.check_same(roll_call.described(META), before)
    (package / "ops" / "a.py").rename(package / "ops" / "b.py")
    assert roll_call.described(META)["code"] != before["code"]


def test_a_word_left_elsewhere_is_not_read(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    word = roll_call._left_word(tmp_path / "one")
    roll_call._read_word(tmp_path / "one", word)
    with pytest.raises(Refused, match="other is not the one of process 0: name a folder that all hosts share"):
        roll_call._read_word(tmp_path / "other", word)
