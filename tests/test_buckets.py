"""Values printed by the released code for its published settings (256 buckets, distances to 512)."""

import functools

import numpy as np
import pytest

import slow_deberta
from deberta_jax.ops import buckets as under_test

bucket_of_distance = functools.partial(under_test.bucket_of_distance, clamp=True)
row_of_distance = functools.partial(under_test.row_of_distance, clamp=True)

RELEASED = {
    **{127: 127, 128: 128, 129: 129, 131: 131, 140: 137, 200: 169, 256: 192, 300: 207, 400: 233, 500: 254},
    **{509: 255, 510: 255, 511: 255},
}


def test_the_buckets_are_those_of_the_released_code():
    distance = np.array(list(RELEASED))
    assert bucket_of_distance(distance, 256, 512).tolist() == list(RELEASED.values())


def test_negative_distances_mirror_positive_ones():
    distance = np.arange(0, 2000)
    np.testing.assert_array_equal(bucket_of_distance(-distance, 256, 512), -bucket_of_distance(distance, 256, 512))


def test_distances_up_to_half_the_buckets_are_exact():
    distance = np.arange(-128, 129)
    np.testing.assert_array_equal(bucket_of_distance(distance, 256, 512), distance)


def test_buckets_never_decrease_with_distance():
    buckets = bucket_of_distance(np.arange(-700, 701), 256, 512)
    assert set(np.diff(buckets)) <= {0, 1}


def test_rows_are_1_to_511_at_any_length_and_each_is_used():
    assert set(row_of_distance(np.arange(-5000, 5001), 256, 512)) == set(range(1, 512))


def test_distances_beyond_the_limit_share_the_last_row():
    assert row_of_distance(np.array([511, 512, 600, 100_000]), 256, 512).tolist() == [511] * 4
    assert row_of_distance(np.array([-511, -512, -600, -100_000]), 256, 512).tolist() == [1] * 4


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize(("buckets", "limit"), [(256, 512), (8, 16), (32, 64), (2, 3), (5, 9), (16, 16), (0, 16)])
def test_every_distance_agrees_with_the_formula_one_by_one(buckets, limit, clamp):
    distance = range(-3 * limit, 3 * limit + 1)
    expected = [slow_deberta.table_row(d, 0, buckets, limit, clamp) for d in distance]
    assert row_of_distance(np.array(distance), buckets, limit, clamp=clamp).tolist() == expected


def test_the_clamp_matters_only_from_the_negative_limit_on():
    distance = np.arange(-5000, 5001)
    differs = row_of_distance(distance, 256, 512) != row_of_distance(distance, 256, 512, clamp=False)
    assert distance[differs].tolist() == list(range(-5000, -511))
    assert set(row_of_distance(distance[differs], 256, 512, clamp=False)) == {0}


def test_without_buckets_each_distance_has_its_row():
    assert row_of_distance(np.array([-700, -512, -1, 0, 1, 511, 512, 700]), 0, 512).tolist() == (
        [0, 0, 511, 512, 513, 1023, 1023, 1023]
    )


@pytest.mark.torch
@pytest.mark.parametrize("setting", [(256, 512), (32, 129), (50, 122), (54, 76), (100, 171), (512, 615), (18, 26)])
def test_without_the_clamp_the_buckets_are_those_of_transformers(setting):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    distance = np.arange(-3 * setting[1], 3 * setting[1] + 1)
    expected = modeling.make_log_bucket_position(torch.tensor(distance), *setting).long().numpy()
    np.testing.assert_array_equal(under_test.bucket_of_distance(distance, *setting, clamp=False), expected)
