import math

import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.train.metrics import Lagged, perplexity, ratios


def test_ratios_divide_sums_by_weights():
    values = ratios({"loss": (jnp.float32(6), jnp.float32(4)), "accuracy": (np.float32(0), 2)})
    assert values == {"loss": 1.5, "accuracy": 0.0}
    assert all(type(value) is float for value in values.values())


def test_what_was_never_counted_is_left_out():
    assert ratios({"loss": (jnp.float32(0), jnp.float32(0)), "learning_rate": (0.1, 1)}) == {"learning_rate": 0.1}


def test_a_loss_that_is_no_number_stays_visible():
    assert math.isnan(ratios({"loss": (jnp.float32("nan"), jnp.float32(3))})["loss"])


@pytest.mark.parametrize(
    ("loss", "expected"), [(0.0, 1.0), (math.log(50), 50.0), (710.0, math.inf), (math.inf, math.inf)]
)
def test_perplexity_is_the_exponential_of_the_loss(loss, expected):
    assert perplexity(loss) == pytest.approx(expected)


def test_the_perplexity_of_no_number_is_no_number():
    assert math.isnan(perplexity(math.nan))


def test_values_are_consumed_one_push_late_and_in_order():
    seen = []
    lagged = Lagged(lambda *values: seen.append(values))
    lagged.push(1, "a")
    assert seen == []
    lagged.push(2, "b")
    assert seen == [(1, "a")]
    lagged.flush()
    assert seen == [(1, "a"), (2, "b")]


def test_nothing_is_consumed_twice():
    seen = []
    lagged = Lagged(seen.append)
    lagged.flush()
    lagged.push(1)
    lagged.flush()
    lagged.flush()
    assert seen == [1]


def test_values_whose_reading_failed_are_not_read_again():
    def fail(value):
        raise RuntimeError(value)

    lagged = Lagged(fail)
    lagged.push(1)
    with pytest.raises(RuntimeError):
        lagged.flush()
    lagged.flush()
