import jax.numpy as jnp
import pytest

from attention_cases import SPANS, assert_equal, problem, solved
from deberta_jax.ops.attention import choice, reference

BASE = choice.Facts(
    platform="gpu",
    length=512,
    heads=12,
    head_size=64,
    terms=("c2p", "p2c"),
    dtype=jnp.dtype("bfloat16"),
    rate=0.0,
    heads_split=False,
)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "gpu"),
        ({"rate": 0.1}, "xla"),
        ({"dtype": jnp.dtype("float32")}, "xla"),
        ({"length": 1024, "rate": 0.1}, "xla"),
        ({"length": 1025, "rate": 0.1}, "blockwise"),
        ({"platform": "cpu"}, "blockwise"),
        ({"platform": "cpu", "terms": ("p2p",)}, "xla"),
        ({"terms": ("c2p", "p2p"), "length": 4096}, "xla"),
    ],
)
def test_auto_goes_by_platform_length_and_dropout_and_says_why(changes, name):
    found = choice.choose("auto", BASE._replace(**changes))
    assert found.name == name and found.why


def test_what_is_asked_for_is_taken():
    assert choice.choose("reference", BASE).name == "reference"


def test_heads_are_taken_singly_on_cpus_unless_devices_share_them():
    assert choice.heads_at_once("cpu", heads_split=False) == 1
    assert choice.heads_at_once("cpu", heads_split=True) is None
    assert choice.heads_at_once("gpu", heads_split=False) is None


@pytest.mark.parametrize("asked", ["auto", "xla", "blockwise"])
def test_all_give_what_the_reference_gives(asked):
    given = problem(40, SPANS["small"], "c2p|p2c", rate=0.2)
    facts = BASE._replace(platform="cpu", length=40, heads=2, head_size=8, dtype=jnp.dtype("float32"), rate=0.2)
    found = solved(lambda given: choice.attend(given, asked, facts), given)
    assert_equal(found, solved(reference.attend, given))
