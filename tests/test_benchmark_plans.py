import json

import pytest

from benchmarks import plans
from deberta_jax import config, errors, flags


def test_every_case_is_a_config_whose_batch_its_slice_can_share():
    for case in plans.CASES:
        loaded = flags.load_config(case.flags)
        built = config.build(loaded.config)
        assert built.batch_size == case.rows * plans.SLICES[case.chip][1]
        assert built.model.remat == case.remat


def test_names_are_unique():
    assert len({case.name for case in plans.CASES}) == len(plans.CASES) == 8


def test_a_row_of_the_table(tmp_path, monkeypatch, capsys):
    case = plans.CASES[0]
    point = {
        "rows": 32,
        "bytes": 15 * 2**30,
        "collectives": {"all-reduce": {"count": 50, "bytes": 1_730_000_000, "wire_bytes": 3.4e9}},
        "seconds_of": {"waiting": 0.02, "hidden": 0.001},
        "step_seconds": 0.3,
        "tokens_per_second": 13e6,
        "mfu": 0.575,
    }
    plan = {
        "largest": point,
        "search": {"too_many": 36},
        "topology": {"name": "v5e:16x16", "room": 15.75 * 2**30},
        "state": {"parameters": 2**30, "optimizer": 2 * 2**30},
    }
    monkeypatch.setattr(plans, "RESULTS", tmp_path)
    plans.path_of(case).write_text(json.dumps(plan))
    plans.main([f"--only={case.name}"])  # made already: nothing is compiled
    shown = capsys.readouterr().out
    for cell in ("v3_large MLM", "32 (36 do not fit)", "15.0 of 15.8", "all-reduce 50: 1.73", "300", "57.5"):
        assert f" {cell} " in shown


def test_an_unknown_name_is_refused():
    with pytest.raises(errors.Refused, match="no plan 'v3_large_mlm_v5'"):
        plans.main(["--only=v3_large_mlm_v5"])
