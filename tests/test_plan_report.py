import dataclasses

import pytest

from builders import LEXICON, tiny_config
from deberta_jax.plan import planning, report
from deberta_jax.plan.chips import topology_of
from deberta_jax.plan.compiler import Job
from deberta_jax.train.build import build_run

GIB = 2**30


@pytest.fixture(scope="module")
def facts() -> dict:
    """Of a tiny model, before anything is compiled."""
    config = dataclasses.replace(tiny_config(), batch_size=64)
    job, topology = Job(config, LEXICON, "v5e:2x4", 1, 64), topology_of("v5e:2x4")
    plan = planning.Planner(job, topology, build_run(config, LEXICON)).facts()
    plan["topology"]["room"] = int(15.75 * GIB)
    return plan | {"config": "configs/mlm.py:tiny", "vocabulary_from": "model.vocab_size"}


def point(rows: int, size: float, fits: bool) -> dict:
    return planning.Point(
        rows=rows,
        batch_size=8 * rows,
        bytes=int(size * GIB),
        fits=fits,
        whole=False,
        seconds=10.0,
        temporaries=int(size * GIB / 2),
        collectives={"all-reduce": {"count": 27, "bytes": 2 * GIB, "wire_bytes": 3.5 * GIB}},
        unknown_loops=["while.7"],
        seconds_of={
            "products": 0.01,
            "memory": 0.02,
            "operations": 0.03,
            "waiting": 0.004,
            "hidden": 0.001,
            "between_slices": 0.0,
        },
        step_seconds=0.034,
        tokens_per_second=1e6,
        mfu=0.31,
        buffers=[{"bytes": GIB, "shape": "f32[4,5]", "name": "state.x", "what": "parameter", "arrays": 2}],
    )._asdict()


def compiled(facts: dict, configured: dict, largest: dict | None) -> str:
    found = {"rows": 12, "too_many": 13, "trials": []}
    searched = {"configured": configured, "largest": largest, "search": found, "activation_bytes_per_row": 0.5 * GIB}
    return report.text(facts | searched)


def test_what_fits_is_shown_with_its_messages_and_its_time(facts):
    text = compiled(facts, point(8, 4.0, True), point(12, 6.0, True))
    for said in (
        "8 at once on a chip",
        "2.000 GiB temporaries",
        "4.000 GiB   of these activations: what grows with the rows, 0.500 GiB each",
        "4.000 GiB total without the program's code, of 15.750 GiB that the compiler has for it: fits",
        "all-reduce                    27     2.000 GiB     3.500 GiB",
        "loops of unknown length, counted once: while.7",
        "modelled: 34.0 ms",
        "MFU 31.0 %",
        "12 rows at once on a chip, 96 rows a step (13 rows do not fit), 6.000 GiB",
        "1.000 GiB f32[4,5]                 parameter: state.x",
        "nothing was measured",
    ):
        assert said in text


def test_what_does_not_fit_has_no_time(facts):
    text = compiled(facts, point(64, 20.0, False), None)
    assert "DOES NOT FIT, 4.250 GiB too many" in text
    assert "not even one row a chip fits" in text
    assert "ms" not in text.replace("messages", "")


def test_without_a_compiler_nothing_is_said_to_fit(facts):
    text = report.text(facts | {"configured": None})
    assert "unknown without the TPU compiler" in text and "fits" not in text.replace("that it fits", "")
