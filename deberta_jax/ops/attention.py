"""Disentangled attention (He et al. 2021, section 3.1) as the released weights compute it.

The score of query i for key j is, with rel = the row of the relative table for the distance i - j,

    (q_i . k_j  +  q_i . pos_k[rel]  +  k_j . pos_q[rel]  +  pos_q[rel] . pos_k[rel]) / sqrt(d * terms)

content to content, content to position (c2p), position to content (p2c), position to position (p2p): the product
(q_i + pos_q[rel]) . (k_j + pos_k[rel]) written out. Each position term is optional; published models have c2p and p2c.
The paper's equation 4 scores position to content with the distance j - i; the released code, and so every published
weight, uses i - j in both terms. p2p crashes in the released code; here it takes the same row as the others.

The row depends on i - j alone, so no [length, length] gather is needed: the table is expanded to the 2 * length
possible distances, multiplied once, and each row of the product is shifted into place (a reshape). Its gradient is a
shift too.

Scores are heads first, [h, b, q, k]: the products with the table are then one matrix product per head over all rows of
the batch, and leave no transposed copy behind.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

MASKED_SCORE = -1e30  # finite: a row without any key must not become NaN


def scores(
    q_bqhd: jax.Array,
    k_bkhd: jax.Array,
    pos_k_rhd: jax.Array | None,
    pos_q_rhd: jax.Array | None,
    row_of_distance: np.ndarray,
    terms: tuple[str, ...],
) -> jax.Array:
    """Scaled float32 scores [h, b, q, k] of every position for every position.

    `terms` are of c2p, p2c, p2p; c2p and p2p need pos_k, p2c and p2p pos_q. `row_of_distance` [2 * length] gives the
    table's row for the distances -length .. length - 1.
    """
    scale = score_scale(q_bqhd.shape[-1], terms)
    q_bqhd = q_bqhd * scale
    s_hbqk = _product("bqhd,bkhd->hbqk", q_bqhd, k_bkhd)
    if "c2p" in terms:
        far_first = pos_k_rhd[row_of_distance[::-1]]  # distances length - 1 .. -length
        s_hbqk += shift(table_product(q_bqhd, far_first))
    if "p2c" in terms:
        s_hbqk += shift(_position_to_content(k_bkhd, pos_q_rhd * scale, row_of_distance)).swapaxes(-1, -2)
    if "p2p" in terms:
        s_hbqk += _position_to_position(pos_q_rhd * scale, pos_k_rhd, row_of_distance)[:, None]
    return s_hbqk


def scores_at(
    q_bphd: jax.Array,
    k_bkhd: jax.Array,
    pos_k_rhd: jax.Array | None,
    pos_q_rhd: jax.Array | None,
    row_of_distance: np.ndarray,
    terms: tuple[str, ...],
    select_bpk: jax.Array,
    position_bp: jax.Array,
) -> jax.Array:
    """As `scores`, [h, b, p, k], for queries that stand at `position_bp` only; `select_bpk` is its one-hot form."""
    scale = score_scale(q_bphd.shape[-1], terms)
    q_bphd = q_bphd * scale
    s_hbpk = _product("bphd,bkhd->hbpk", q_bphd, k_bkhd)
    if "c2p" in terms:
        far_first = pos_k_rhd[row_of_distance[::-1]]
        s_hbpk += window(table_product(q_bphd, far_first), position_bp)
    if "p2c" in terms:
        every_hbkq = shift(_position_to_content(k_bkhd, pos_q_rhd * scale, row_of_distance))
        s_hbpk += select("hbkq,bpq->hbpk", every_hbkq, select_bpk)
    if "p2p" in terms:
        every_hqk = _position_to_position(pos_q_rhd * scale, pos_k_rhd, row_of_distance)
        s_hbpk += select("hqk,bpq->hbpk", every_hqk, select_bpk)
    return s_hbpk


def score_scale(head_size: int, terms: tuple[str, ...]) -> float:
    """1 / sqrt(d * number of terms): sqrt(3 d) with c2p and p2c, sqrt(d) for plain attention."""
    return 1 / math.sqrt(head_size * (1 + len(terms)))


def _position_to_position(pos_q_rhd: jax.Array, pos_k_rhd: jax.Array, row_of_distance: np.ndarray) -> jax.Array:
    """[h, q, k]: what each head gives to a distance, whatever the content."""
    bias_hr = _product("rhd,rhd->hr", pos_q_rhd, pos_k_rhd)
    far_first = bias_hr[:, row_of_distance[::-1]]
    heads, distances = far_first.shape
    return shift(jnp.broadcast_to(far_first[:, None], (heads, distances // 2, distances)))


def _position_to_content(k_bkhd: jax.Array, pos_q_rhd: jax.Array, row_of_distance: np.ndarray) -> jax.Array:
    """[h, b, k, r] product of each key with the table rows of the distances 1 - length .. length."""
    length = k_bkhd.shape[1]
    # The last column is cut off by the shift; any row will do for it.
    near_first = pos_q_rhd[np.append(row_of_distance[1:], row_of_distance[-1])]
    assert row_of_distance.shape == (2 * length,)
    return table_product(k_bkhd, near_first)


@jax.custom_vjp
def table_product(x_bqhd: jax.Array, table_rhd: jax.Array) -> jax.Array:
    """float32 products [h, b, q, r] of every position with every row of the table.

    The table's gradient is written with the big operand on the right, as it lies in memory; autodiff puts it on the
    left and pays for a transposed copy.
    """
    return _product("bqhd,rhd->hbqr", x_bqhd, table_rhd)


def _table_product_forward(x_bqhd, table_rhd):
    return table_product(x_bqhd, table_rhd), (x_bqhd, table_rhd)


def _table_product_backward(saved, g_hbqr):
    x_bqhd, table_rhd = saved
    g_hbqr = g_hbqr.astype(x_bqhd.dtype)
    dx_bqhd = _product("hbqr,rhd->bqhd", g_hbqr, table_rhd).astype(x_bqhd.dtype)
    dtable_hdr = _product("bqhd,hbqr->hdr", x_bqhd, g_hbqr)
    return dx_bqhd, dtable_hdr.transpose(2, 0, 1).astype(table_rhd.dtype)


table_product.defvjp(_table_product_forward, _table_product_backward)


def shift(e_nr: jax.Array) -> jax.Array:
    """[..., n, 2n] to [..., n, n]: row i from its column n - 1 - i on. A reshape, one slice, a reshape, a slice."""
    *lead, n, _ = e_nr.shape
    flat = e_nr.reshape(*lead, 2 * n * n)[..., n - 1 : 2 * n * n - 1]
    return flat.reshape(*lead, n, 2 * n - 1)[..., :n]


@jax.custom_vjp
def window(e_hbpr: jax.Array, position_bp: jax.Array) -> jax.Array:
    """[h, b, p, 2n] to [h, b, p, n]: row p from its column n - 1 - position on.

    The gradient is a gather as well (each column feeds at most one output), where autodiff would scatter.
    """
    n = e_hbpr.shape[-1] // 2
    column_bpk = n - 1 - position_bp[..., None] + np.arange(n)[None, None]
    return jnp.take_along_axis(e_hbpr, column_bpk[None], axis=-1, mode="promise_in_bounds")


def _window_forward(e_hbpr, position_bp):
    return window(e_hbpr, position_bp), position_bp


def _window_backward(position_bp, g_hbpk):
    n = g_hbpk.shape[-1]
    key_bpr = np.arange(2 * n)[None, None] - (n - 1) + position_bp[..., None]
    inside_bpr = (key_bpr >= 0) & (key_bpr < n)
    g_hbpr = jnp.take_along_axis(g_hbpk, jnp.clip(key_bpr, 0, n - 1)[None], axis=-1, mode="promise_in_bounds")
    return jnp.where(inside_bpr[None], g_hbpr, 0), None


window.defvjp(_window_forward, _window_backward)


def select(subscripts: str, x: jax.Array, one_hot: jax.Array) -> jax.Array:
    """Picks rows of `x` by a product with `one_hot`: exact, and no scatter in the gradient."""
    # HIGHEST: a TPU would round float32 operands to bfloat16, and picking would change the numbers.
    return jnp.einsum(subscripts, x, one_hot.astype(x.dtype), precision=jax.lax.Precision.HIGHEST)


def masked_softmax(s_hbqk: jax.Array, allowed_bqk: jax.Array) -> jax.Array:
    """float32 softmax over allowed keys; a query without any gets zeros, not a uniform row (released behaviour)."""
    allowed_1bqk = allowed_bqk[None]
    s_hbqk = jnp.where(allowed_1bqk, s_hbqk.astype(jnp.float32), MASKED_SCORE)
    return jnp.where(allowed_1bqk, jax.nn.softmax(s_hbqk, axis=-1), 0)


def mix(p_hbqk: jax.Array, v_bkhd: jax.Array) -> jax.Array:
    """Values mixed by probabilities: [b, q, h, d] in the values' dtype."""
    return jnp.einsum("hbqk,bkhd->bqhd", p_hbqk.astype(v_bkhd.dtype), v_bkhd)


# Products of activations are accumulated and kept in float32: a bfloat16 score loses the softmax's small differences.
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
