import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from builders import LEXICON, tiny_config
from deberta_jax.plan import planning
from deberta_jax.plan.chips import topology_of
from deberta_jax.plan.compiler import Job
from deberta_jax.plan.search import Trial
from deberta_jax.train.build import build_run
from deberta_jax.train.shapes import masked_batch

LENGTH = 64


@pytest.fixture
def planner() -> planning.Planner:
    config = dataclasses.replace(tiny_config(), batch_size=64, micro_batches=2)
    run = build_run(config, LEXICON)
    return planning.Planner(Job(config, LEXICON, "v5e:2x4", 1, LENGTH), topology_of("v5e:2x4"), run)


def test_rows_are_those_that_a_chip_computes_at_once(planner):
    assert (planner.parts, planner.rows) == (8, 4)
    more = planning.with_rows(planner.run.config, 6, planner.parts)
    assert (more.batch_size, more.micro_batches, more.eval.batch_size) == (96, 2, 48)


def test_the_bytes_of_state_and_batch_are_those_of_the_step_s_arguments(planner):
    batch = masked_batch(planner.run, LENGTH)
    assert 8 * planner.batch_bytes(planner.rows) == sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch)
    )
    state = planner.run.abstract
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state.params, state.opt_state)))
    assert sum(planner.state_bytes().values()) == held


def test_the_mesh_of_several_slices_as_one():
    config = dataclasses.replace(
        tiny_config(),
        mesh=(("data", -1), ("fsdp", 4), ("tensor", 1)),
        dcn_mesh=(("data", -1), ("fsdp", 1), ("tensor", 1)),
    )
    one = planning.in_one_slice(config, topology_of("v5e:2x4", slices=3))
    assert (one.mesh, one.dcn_mesh) == ((("data", 6), ("fsdp", 4), ("tensor", 1)), ())


def test_facts_hold_what_the_model_is(planner):
    facts = planner.facts()
    assert facts["parameter_count"] == sum(leaf.size for leaf in jax.tree.leaves(planner.run.abstract.params))
    assert facts["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert facts["batch"]["flops"] == pytest.approx(facts["flops_per_token"] * 64 * LENGTH / 8)


def point(rows: int, size: int, fits: bool) -> planning.Point:
    values = dict.fromkeys(planning.Point._fields, 0) | {"rows": rows, "bytes": size, "temporaries": size, "fits": fits}
    return planning.Point(**values)


def test_activations_are_what_grows_between_the_fewest_and_the_most_rows_that_fit():
    points = [point(16, 900, True), point(4, 300, True), point(8, 450, True), point(32, 99_999, False)]
    assert planning.activation_slope(points) == 50
    assert planning.activation_slope(points[1:2] + points[3:]) is None


def test_the_search_starts_from_the_config_s_point_and_compiles_none_twice(planner, monkeypatch):
    asked = []

    def at(self, rows: int, whole: bool) -> planning.Point:
        asked.append((rows, whole))
        return point(rows, 100 * rows, rows <= 9)

    monkeypatch.setattr(planning.Planner, "at", at)
    found = planning.search(planner, point(4, 400, True), 1000, lambda line: None)
    assert found.largest.rows == 9 and found.found.too_many == 10
    assert found.found.trials[0] == Trial(4, 400, True)
    assert (4, False) not in asked and len(asked) == len(set(asked))
    assert found.bytes_per_row == 100


def test_places_are_the_coordinates_of_one_slice_in_the_order_of_the_mesh():
    class Device(NamedTuple):
        slice_index: int
        coords: tuple[int, int, int]
        platform: str = "tpu"

    class Made(NamedTuple):
        mesh: Any

    class Devices(NamedTuple):
        devices: np.ndarray

    grid = np.empty(4, object)
    grid[:] = [Device(1, (5, 0, 0)), Device(0, (1, 2, 0)), Device(1, (3, 1, 0)), Device(0, (0, 0, 0))]
    assert planning.places(Made(Devices(grid))).tolist() == [[5, 0, 0], [3, 1, 0]]
