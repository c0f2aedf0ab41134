"""The benchmark of attention in a small shape: it leaves nothing out in silence, and shows the errors there are."""

import dataclasses
import json

import pytest

from benchmarks import attention as benchmark
from deberta_jax import config as configs
from deberta_jax.ops.attention import choice, reference

SMALL = ["--lengths=24", "--tokens=48", "--heads=2", "--rounds=1"]
KIND = benchmark.Kind(rows=1, length=24, heads=2, dtype="float32", rate=0.1)
ERRORS = ("output max", "output L2", "gradient max", "gradient L2")
HERE = {"reference", "xla", "blockwise", "plain"}


def test_the_table_has_every_implementation_or_why_it_cannot_run(tmp_path):
    file = tmp_path / "attention.json"
    benchmark.main([*SMALL, f"--json={file}"])
    rows = {row["attention"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows.keys() == {*configs.ATTENTION, "plain"} - {choice.AUTO}
    assert {name for name, row in rows.items() if "not run" not in row} == HERE
    assert "runs on TPUs, this is a cpu" in rows["tpu"]["not run"] and "GPUs" in rows["gpu"]["not run"]
    assert [name for name, row in rows.items() if "auto" in row and row["auto"]] == ["blockwise"]
    for row in (rows[name] for name in HERE):
        assert (row["rows"], row["length"], row["heads"], row["rate"]) == (2, 24, 2, 0.1)
        assert row["forward ms"] > 0 and row["with gradients ms"] > 0 and row["temp MB"] > 0
        assert all(row[column] <= 1e-5 for column in ERRORS)


def test_bfloat16_is_compared_with_float32():
    errors = benchmark.error_of("reference", KIND._replace(dtype="bfloat16"))
    assert 1e-4 < errors["output L2"] < 0.01 and 1e-4 < errors["gradient L2"] < 0.01


def test_what_needs_too_much_memory_is_named_and_compared_all_the_same(monkeypatch):
    monkeypatch.setattr(configs, "ATTENTION", ("auto", "reference"))
    rows = list(benchmark.measured(benchmark.parse([*SMALL, "--memory=0.000001"]), 24))
    assert [row["attention"] for row in rows] == ["reference", "plain"]
    for row in rows:
        assert row["not run"].startswith("needs ") and "forward ms" not in row
        assert row["temp MB"] > 0 and row["gradient max"] <= 1e-5


def test_a_wrong_implementation_is_seen(monkeypatch):
    def wrong(name, facts):
        return lambda problem: reference.attend(dataclasses.replace(problem, v_bkhd=0.999 * problem.v_bkhd))

    monkeypatch.setattr(choice, "implementation", wrong)
    errors = benchmark.error_of("xla", KIND)
    assert errors["output L2"] == pytest.approx(1e-3, rel=0.01) and errors["gradient L2"] > 5e-4
    assert errors["output max"] > 1e-4 and errors["gradient max"] > 1e-4


@pytest.mark.torch
def test_transformers_computes_the_same_in_the_same_shape():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert benchmark.competitor("transformers", KIND).forward().shape == (1, 24, 2 * benchmark.HEAD_SIZE)
    assert all(error <= 1e-5 for error in benchmark.error_of("transformers", KIND).values())
