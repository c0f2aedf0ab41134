"""The n-gram induced input encoding (nGiE) of DeBERTa v2: a convolution over time that respects documents."""

import jax
import jax.numpy as jnp


def convolve(x_ble: jax.Array, kernel_kio: jax.Array, bias_o: jax.Array, groups: int, document_bl: jax.Array):
    """[b, l, o]: taps k at the neighbours l + k - (kernel - 1) / 2, zeros beyond the row's ends.

    Within `groups` equal blocks of features, as torch.nn.Conv1d; kernel_kio is its [o, i / groups, k] weight reversed
    in order of axes. A neighbour of another document, and padding (document 0), counts as zeros, so that packed rows
    give what each document gives alone; padding itself becomes zeros.
    """
    taps, width, features = kernel_kio.shape
    shape = (*x_ble.shape[:2], groups, width)
    kernel_kgio = kernel_kio.reshape(taps, width, groups, features // groups).swapaxes(1, 2)
    y_blgo = jnp.zeros((*shape[:3], features // groups), jnp.float32)
    for tap in range(taps):
        near_ble = _neighbour(x_ble, tap - taps // 2)
        same_bl = _neighbour(document_bl, tap - taps // 2) == document_bl
        near_blgi = jnp.where(same_bl[..., None], near_ble, 0).reshape(shape)
        y_blgo += jnp.einsum("blgi,gio->blgo", near_blgi, kernel_kgio[tap], preferred_element_type=jnp.float32)
    y_blo = y_blgo.reshape(*shape[:2], features) + bias_o[None, None].astype(jnp.float32)
    return jnp.where(document_bl[..., None] > 0, y_blo, 0).astype(x_ble.dtype)


def _neighbour(x: jax.Array, distance: int) -> jax.Array:
    """Row l of the second axis is row l + distance of `x`, zeros where there is none."""
    length = x.shape[1]
    if abs(distance) >= length:
        return jnp.zeros_like(x)
    pad = [(0, 0)] * x.ndim
    pad[1] = (max(-distance, 0), max(distance, 0))
    start = max(distance, 0)
    return jnp.pad(x, pad)[:, start : start + length]
