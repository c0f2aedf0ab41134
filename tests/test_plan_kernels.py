import json
from pathlib import Path

import pytest

from benchmarks.ahead_of_time import GIGAHERTZ
from deberta_jax.plan.chips import CHIPS
from deberta_jax.plan.kernels import CLOCKS, CYCLES, Kernel, seconds

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "tpu_schedule.json"


def test_the_cycles_are_those_of_the_benchmark():
    rows = [row for row in json.loads(RESULTS.read_text())["rows"] if row["cycles of"] == "kernel"]
    assert len(rows) == 15
    for row in rows:
        assert CYCLES[CHIPS[row["chip"]].kind][row["length"]] == (row["forward"], row["backward"])


def test_the_clocks_are_those_of_the_benchmark():
    assert {name: CLOCKS[CHIPS[name].kind][0] / 1e9 for name in GIGAHERTZ} == GIGAHERTZ


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_a_schedule(name):
    assert seconds(Kernel("backward", 8, 512), CHIPS[name].kind) > 0


def test_seconds_by_hand():
    assert seconds(Kernel("forward", 96, 512), "TPU v5 lite") == pytest.approx(96 * 4256 / 1.5e9)
    assert seconds(Kernel("backward", 96, 512), "TPU v5") == pytest.approx(96 * 6272 / 1.75e9 / 2)
    assert seconds(Kernel("forward", 1, 256), "TPU v5 lite") == pytest.approx(4 * 423 / 1.5e9)  # nearer to 128
