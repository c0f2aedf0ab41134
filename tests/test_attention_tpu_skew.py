import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.attention import tpu_skew

ROWS, COLUMNS = 16, 112  # the operations do not ask for whole registers, except reverse
# A rotation has no rule for running outside of a compiled function.
skew = jax.jit(tpu_skew.skew, static_argnames="interpret")
unskew_reversed = jax.jit(tpu_skew.unskew_reversed, static_argnames=("dtype", "interpret"))
rotate = jax.jit(tpu_skew.rotate, static_argnames=("shift", "interpret"))
reverse = jax.jit(tpu_skew.reverse, static_argnames=("axis", "interpret"))
MODES = pytest.mark.parametrize("interpret", [False, True])  # both run on CPUs


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@MODES
def test_skew_moves_each_row_one_column_less_than_the_one_before(interpret):
    e = numbers(ROWS, COLUMNS + ROWS)
    s = np.asarray(skew(jnp.asarray(e), interpret))
    assert s.shape == (ROWS, COLUMNS)
    for row in range(ROWS):
        np.testing.assert_array_equal(s[row], e[row, ROWS - 1 - row :][:COLUMNS])


@MODES
def test_unskew_is_its_transpose_from_the_last_row_to_the_first(interpret):
    s = numbers(ROWS, 128)
    e = np.asarray(unskew_reversed(jnp.asarray(s), jnp.float32, interpret))
    right = np.zeros((ROWS, 128 + ROWS), np.float32)
    for row in range(ROWS):
        right[row, ROWS - 1 - row :][:128] = s[row]
    np.testing.assert_array_equal(e, right[::-1])


def test_unskew_rounds_and_does_nothing_else():
    s = numbers(ROWS, 128)
    exact = unskew_reversed(jnp.asarray(s), jnp.float32, interpret=True)
    rounded = unskew_reversed(jnp.asarray(s), jnp.bfloat16, interpret=True)
    np.testing.assert_array_equal(exact.astype(jnp.bfloat16), rounded)


@pytest.mark.parametrize("shift", [0, 1, 7, 30])
def test_the_interpreters_rotation_is_the_real_one(shift):
    a = jnp.asarray(numbers(24, 31))
    np.testing.assert_array_equal(rotate(a, shift, interpret=True), rotate(a, shift, interpret=False))


@MODES
@pytest.mark.parametrize("axis", [0, 1])
def test_reverse(axis, interpret):
    a = numbers(24, 384)
    np.testing.assert_array_equal(reverse(jnp.asarray(a), axis, interpret), np.flip(a, axis))
