import pytest

from benchmarks.compile import Variant, growth, row_of, whole_numbers


def test_a_row_is_the_least_of_all_rounds():
    row = row_of(Variant(True, "dots"), 4, [(1.0, 5.0, 3_000_000), (2.0, 3.0, 3_000_000)])
    assert (row["layers"], row["laid out"], row["remat"]) == (4, "scanned", "dots")
    assert (row["trace s"], row["compile s"], row["together s"], row["temp MB"]) == (1.0, 3.0, 5.0, 3.0)


def test_growth_compares_the_deepest_scanned_step_with_the_shallowest_of_its_policy():
    seconds = {("none", True): (10, 11, 12), ("full", True): (20, 10, 30), ("none", False): (10, 30, 60)}
    rows = [
        row_of(Variant(scan, remat), depth, [(0, each, 0)])
        for (remat, scan), of_depths in seconds.items()
        for depth, each in zip((4, 12, 24), of_depths, strict=True)
    ]
    assert dict(growth(rows)) == pytest.approx({"none": 1.2, "full": 1.5})


def test_depths_are_whole_numbers():
    assert whole_numbers("4,12") == (4, 12)
