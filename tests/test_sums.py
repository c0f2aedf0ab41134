import math

import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.objectives.sums import perplexity, ratios


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
