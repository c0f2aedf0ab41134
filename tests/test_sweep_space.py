"""What flags and files span, and how values are drawn, split and written."""

import math

import numpy as np
import pytest

from deberta_jax.errors import Refused
from deberta_jax.sweep import space
from deberta_jax.sweep.space import Setting


def spanned(*, file=(), grid=(), zip_=(), range_=(), draws=None, whole=(), text=()) -> list[Setting]:
    return space.settings(file, grid, zip_, range_, draws, whole, text)


def values(found: list[Setting]) -> list[dict]:
    return [setting.values for setting in found]


def test_the_axes_stand_in_the_order_file_zips_draws_grids():
    found = spanned(file=[{"m": 1}], zip_=["z=1"], range_=["r=linear:0:1"], draws=1, grid=["g=1", "config.h=1"])
    assert list(found[0].values) == ["m", "z", "r", "g", "h"]


def test_keys_may_be_written_as_flags_write_them():
    found = spanned(zip_=["config.z=1"], range_=["config.r=linear:0:1"], draws=1, grid=["config.g=1"])
    assert list(found[0].values) == ["z", "r", "g"]


def test_draws_are_short_enough_to_be_typed():
    found = values(spanned(range_=["lr=log:1e-5:1e-3"], draws=50))
    assert all(float(f"{float(point['lr']):.4g}") == float(point["lr"]) for point in found)


def test_grids_multiply_and_the_last_runs_fastest():
    assert values(spanned(grid=["lr=1,2", "seed=0,1,2"])) == [
        {"lr": lr, "seed": seed} for lr in ("1", "2") for seed in ("0", "1", "2")
    ]


def test_zips_advance_together_and_multiply_with_grids():
    found = values(spanned(zip_=["a=1,2", "b=x,y"], grid=["seed=0,1"]))
    assert found == [{"a": a, "b": b, "seed": seed} for a, b in (("1", "x"), ("2", "y")) for seed in ("0", "1")]


def test_a_file_names_its_settings_and_the_flags_multiply_them():
    file = [{"name": "plain", "m.terms": ()}, {"m.terms": ("c2p",), "rate": 0.1}]
    assert spanned(file=file, grid=["seed=0,1"]) == [
        Setting("plain", {"m.terms": "()", "seed": "0"}, ("seed",)),
        Setting("plain", {"m.terms": "()", "seed": "1"}, ("seed",)),
        Setting("", {"m.terms": "('c2p',)", "rate": "0.1", "seed": "0"}, ("m.terms", "rate", "seed")),
        Setting("", {"m.terms": "('c2p',)", "rate": "0.1", "seed": "1"}, ("m.terms", "rate", "seed")),
    ]
    assert spanned(file=[{"name": "plain", "x": 1}]) == [Setting("plain", {"x": "1"})]


def test_a_name_does_not_know_the_order_of_the_flags():
    assert space.name_of({"seed": "0", "a.b": "x", "lr": "1"}) == space.name_of({"lr": "1", "seed": "0", "a.b": "x"})
    assert space.name_of({"seed": "0", "lr": "1"}, before="plain") == "plain,lr=1,seed=0"


def test_more_draws_begin_with_the_same_ones_whatever_else_is_drawn():
    one = values(spanned(range_=["lr=log:1e-5:1e-3"], draws=5))
    two = values(spanned(range_=["rate=linear:0:0.5", "lr=log:1e-5:1e-3"], draws=8))
    assert [point["lr"] for point in two[:5]] == [point["lr"] for point in one]
    assert len({point["lr"] for point in two}) == 8


@pytest.mark.parametrize(
    ("scale", "to_share"),
    [("log", lambda x: math.log(x / 1e-5) / math.log(100)), ("linear", lambda x: (x - 1e-5) / (1e-3 - 1e-5))],
)
def test_draws_cover_the_range_evenly_on_its_scale(scale, to_share):
    found = values(spanned(range_=[f"lr={scale}:1e-5:1e-3"], draws=400))
    shares = np.sort([to_share(float(point["lr"])) for point in found])
    assert (
        np.abs(shares - (np.arange(400) + 0.5) / 400).max() < 0.07
    )  # Kolmogorov and Smirnov at one in a thousand: 0.097


def test_keys_of_whole_numbers_get_whole_numbers():
    found = values(spanned(range_=["steps=linear:10:20", "lr=linear:0:1"], draws=50, whole=["steps"]))
    assert {point["steps"] for point in found} == {str(number) for number in range(10, 21)}
    assert all("." in point["lr"] for point in found)


@pytest.mark.parametrize("draws", [1, 3, 9, 11])
def test_what_was_drawn_is_not_drawn_again(draws):
    def points(count: int, *ranges: str) -> list[tuple[str, ...]]:
        return [tuple(point.values()) for point in values(spanned(range_=ranges, draws=count, whole=["a", "b"]))]

    found = points(draws, "a=linear:10:20")
    assert len(set(found)) == draws and {value for (value,) in found} <= {str(number) for number in range(10, 21)}
    assert points(11, "a=linear:10:20")[:draws] == found
    pairs = points(4 * draws // 3, "a=linear:0:3", "b=linear:0:3")
    assert len(set(pairs)) == 4 * draws // 3
    assert draws < 9 or len({first for first, _ in pairs}) < len(pairs)  # a value may come again, a point may not


def test_more_draws_than_there_are_values_are_refused_with_their_number():
    with pytest.raises(Refused, match=r"^--random=12: 1\d\d\d draws gave 11 different points: ask for no more$"):
        spanned(range_=["a=linear:10:20"], draws=12, whole=["a"])
    with pytest.raises(Refused, match="gave 2 different points"):
        spanned(range_=["a=linear:0.5:0.5001"], draws=3)


@pytest.mark.parametrize(
    ("listed", "wanted"),
    [
        ("1,2", ["1", "2"]),
        (" 1e-5 , 2e-5", ["1e-5", "2e-5"]),
        ("(),('c2p','p2c')", ["()", "('c2p','p2c')"]),
        ("[1,[2,3]],4", ["[1,[2,3]]", "4"]),
        ("'a,b',\"(\"", ["'a,b'", '"("']),
        ("a,,b", ["a", "", "b"]),
        ("", []),
    ],
)
def test_values_are_split_at_commas_outside_of_brackets_and_quotes(listed, wanted):
    assert space.split_values(listed) == wanted


@pytest.mark.parametrize("flag", ["grid", "zip_"])
def test_quotes_hold_text_together_and_are_not_part_of_it(flag):
    given = """run='a,b',"(",c,'',see 'x','a' 'b'"""
    texts = ["a,b", "(", "c", "", "see 'x'", "'a' 'b'"]
    assert [point["run"] for point in values(spanned(**{flag: [f"config.{given}"], "text": ["run"]}))] == texts
    kept = ["'a,b'", '"("', "c", "''", "see 'x'", "'a' 'b'"]  # a key without a type reads them as Python's
    assert [point["run"] for point in values(spanned(**{flag: [given], "text": ["other"]}))] == kept


def test_the_text_of_a_file_needs_no_quotes_and_keeps_what_it_has():
    assert values(spanned(file=[{"run": "'a'"}], text=["run"])) == [{"run": "'a'"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-05"),
        (0.1, "0.1"),
        (1 / 3, repr(1 / 3)),
        (3, "3"),
        (True, "True"),
        ("a", "a"),
        (None, "None"),
        ((), "()"),
    ],
)
def test_a_value_is_written_so_that_it_reads_back_as_itself(value, text):
    assert space.text_of(value) == text
    if isinstance(value, float):
        assert float(text) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "nothing to sweep: give --grid"),
        ({"grid": ["seed"]}, "'seed' sweeps nothing: KEY=VALUE,VALUE is expected"),
        ({"grid": ["seed="]}, "'seed=' sweeps nothing"),
        ({"grid": ["=1,2"]}, "'=1,2' sweeps nothing"),
        ({"grid": ["a=(1,2"]}, "'(1,2': a bracket or quote has no end"),
        ({"grid": ["a=1,2)"]}, "a bracket or quote has no end"),
        ({"grid": ["seed=0", "seed=1"]}, "seed is swept twice"),
        ({"grid": ["seed=0"], "file": [{"seed": 1}]}, "seed is swept twice"),
        ({"zip_": ["a=1,2", "b=1"]}, "--zip needs as many values of each key: a has 2, b has 1"),
        ({"zip_": ["a=1", "a=2"]}, "--zip names a key twice"),
        ({"draws": 3}, "--random=N and --range=KEY=log:A:B belong together"),
        ({"range_": ["lr=log:1:2"]}, "--random=N and --range=KEY=log:A:B belong together"),
        ({"range_": ["lr=log:1:2", "config.lr=log:3:4"], "draws": 1}, "--range names a key twice"),
        ({"range_": ["lr=log:1:2"], "draws": 0}, "--random must be at least 1, got 0"),
        ({"range_": ["lr=lgo:1:2"], "draws": 1}, "no scale 'lgo', did you mean 'log'?; there are log, linear"),
        ({"range_": ["lr=log:1"], "draws": 1}, "--range=lr=log:1: KEY=log:LOW:HIGH"),
        ({"range_": ["log:1:2"], "draws": 1}, "KEY=log:LOW:HIGH"),
        ({"range_": ["lr=log:a:2"], "draws": 1}, "'a' and '2' must be numbers"),
        ({"range_": ["lr=log:0:2"], "draws": 1}, "positive on a log scale"),
        ({"range_": ["lr=linear:2:1"], "draws": 1}, "LOW must be below HIGH"),
        ({"range_": ["lr=linear:1:1"], "draws": 1}, "LOW must be below HIGH"),
        ({"range_": ["lr=linear:0:inf"], "draws": 1}, "LOW must be below HIGH"),
    ],
)
def test_what_spans_nothing_is_refused(flags, message):
    with pytest.raises(Refused) as raised:
        spanned(**flags)
    assert message in str(raised.value)


@pytest.mark.parametrize("found", [{"a": 1}, [1], "ab", [], [{1: 2}], 7])
def test_a_file_gives_dictionaries(found):
    with pytest.raises(Refused, match=r"x.py: get_sweep\(\) must return a list of dictionaries, {KEY: value}"):
        space.checked(found, "x.py")


def test_a_file_without_a_sweep_has_no_settings():
    assert space.checked(None, "x.py") == []
