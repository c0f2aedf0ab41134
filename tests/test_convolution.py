import jax
import jax.numpy as jnp
import numpy as np
import pytest

import slow_deberta
from builders import tiny_model
from deberta_jax.ops.convolution import convolve

DOCUMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1] * 9])


def random_parts(taps, groups, width=6):
    rng = np.random.default_rng(taps)
    x_ble = rng.normal(size=(*DOCUMENTS.shape, width)).astype(np.float32)
    kernel_kio = rng.normal(size=(taps, width // groups, width)).astype(np.float32)
    return x_ble, kernel_kio, rng.normal(size=width).astype(np.float32)


@pytest.mark.parametrize(("taps", "groups"), [(1, 1), (3, 1), (3, 2), (5, 6), (21, 3)])
def test_the_convolution_is_the_sum_over_neighbours_of_the_same_document(taps, groups):
    x_ble, kernel_kio, bias_o = random_parts(taps, groups)
    cfg = tiny_model(hidden_size=6, num_heads=2, conv_kernel_size=taps, conv_groups=groups, conv_act="linear")
    params = {"kernel": kernel_kio.astype(np.float64), "bias": bias_o.astype(np.float64)}
    expected = [slow_deberta._convolved(cfg, params, x, d) for x, d in zip(x_ble, DOCUMENTS, strict=True)]
    np.testing.assert_allclose(convolve(x_ble, kernel_kio, bias_o, groups, DOCUMENTS), expected, rtol=0, atol=1e-5)


def test_within_one_document_it_is_the_convolution_of_the_library():
    x_ble, kernel_kio, bias_o = random_parts(3, 2)
    expected = jax.lax.conv_general_dilated(
        x_ble, kernel_kio, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=2
    )
    ones = np.ones_like(DOCUMENTS)
    np.testing.assert_allclose(
        convolve(x_ble, kernel_kio, bias_o, 2, ones), expected + bias_o[None, None], rtol=0, atol=1e-5
    )


def test_padding_is_zero_whatever_stands_there():
    x_ble, kernel_kio, bias_o = random_parts(3, 1)
    y_ble = np.asarray(convolve(x_ble, kernel_kio, bias_o, 1, DOCUMENTS))
    assert not y_ble[DOCUMENTS == 0].any()
    other = np.where((DOCUMENTS == 0)[..., None], 1e6, x_ble).astype(np.float32)
    np.testing.assert_array_equal(convolve(jnp.asarray(other), kernel_kio, bias_o, 1, DOCUMENTS), y_ble)
