import jax.numpy as jnp
import pytest

from attention_cases import SPANS, assert_equal, problem, solved
from deberta_jax.errors import Refused
from deberta_jax.ops.attention import choice, reference
from deberta_jax.ops.attention.by_device import Split

BASE = choice.Facts(
    platform="gpu",
    rows=8,
    length=512,
    heads=12,
    head_size=64,
    terms=("c2p", "p2c"),
    dtype=jnp.dtype("bfloat16"),
    rate=0.0,
    hardware_bits=False,
)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "gpu"),
        ({"rate": 0.1}, "xla"),
        ({"dtype": jnp.dtype("float32")}, "xla"),
        ({"head_size": 20}, "xla"),
        ({"head_size": 256}, "xla"),
        ({"length": 2048, "rate": 0.1}, "xla"),
        ({"length": 2049, "rate": 0.1}, "blockwise"),
        ({"length": 1024, "dtype": jnp.dtype("float32")}, "xla"),
        ({"length": 1025, "dtype": jnp.dtype("float32")}, "blockwise"),
        ({"length": 4096}, "gpu"),
        ({"length": 4097}, "blockwise"),
        ({"platform": "cpu"}, "blockwise"),
        ({"platform": "tpu", "rate": 0.1}, "tpu"),
        ({"platform": "tpu", "dtype": jnp.dtype("float32"), "length": 4096}, "tpu"),
        ({"platform": "tpu", "devices": 4, "split": Split(rows=2, heads=2)}, "tpu"),
        ({"platform": "tpu", "devices": 8, "split": Split(rows=3)}, "blockwise"),
        ({"platform": "tpu", "devices": 4, "split": Split(heads=4)}, "blockwise"),
        ({"platform": "tpu", "heads": 3}, "blockwise"),
        ({"platform": "tpu", "head_size": 96}, "blockwise"),
        ({"platform": "tpu", "terms": ("p2p",)}, "xla"),
        ({"platform": "cpu", "terms": ("p2p",)}, "xla"),
        ({"terms": ("c2p", "p2p"), "length": 4096}, "xla"),
    ],
)
def test_auto_goes_by_platform_length_and_dropout_and_says_why(changes, name):
    found = choice.choose("auto", BASE._replace(**changes))
    assert found.name == name and found.why


def test_what_is_asked_for_is_taken():
    assert choice.choose("reference", BASE).name == "reference"


@pytest.mark.parametrize(
    ("asked", "changes", "said"),
    [
        ("tpu", {"platform": "cpu"}, "runs on TPUs, this is a cpu"),
        ("tpu", {"platform": "tpu", "split": Split(rows=3)}, "8 rows cannot be shared evenly by 3 devices"),
        ("tpu", {"platform": "tpu", "split": Split(heads=8)}, "12 heads cannot be shared evenly by 8 devices"),
        ("tpu", {"platform": "tpu", "split": Split(heads=4)}, "3 heads of 64.* on each device"),
        ("tpu", {"platform": "tpu", "heads": 3}, "3 heads of 64"),
        ("gpu", {"platform": "cpu"}, "runs on GPUs, this is a cpu"),
        ("gpu", {"rate": 0.1}, "no dropout"),
        ("gpu", {"head_size": 20}, "heads of 20"),
    ],
)
def test_what_cannot_run_here_is_refused_by_name(asked, changes, said):
    with pytest.raises(Refused, match=f"model.attention '{asked}'.*{said}"):
        choice.choose(asked, BASE._replace(**changes))


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


@pytest.mark.parametrize(
    ("platform", "length", "heads"), [("cpu", 128, 1), ("gpu", 1024, None), ("gpu", 1025, 1), ("tpu", 4096, 1)]
)
def test_the_decoder_takes_long_rows_a_head_at_a_time(platform, length, heads):
    assert choice.decoder_heads_at_once(platform, length, heads_split=False) == heads
    assert choice.decoder_heads_at_once(platform, length, heads_split=True) is None
