"""Attention of a few queries, standing at given positions, to all keys: the enhanced mask decoder's.

What position to content adds does not depend on the queries' content, so the decoder's passes share it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from deberta_jax.ops.attention.distances import expand, skew, unskew
from deberta_jax.ops.attention.heads import over_heads
from deberta_jax.ops.attention.problem import product, score_scale


def scores(
    q_bphd: jax.Array,
    k_bkhd: jax.Array,
    pos_k_rhd: jax.Array | None,
    pos_q_rhd: jax.Array | None,
    row_of_distance: np.ndarray,
    terms: tuple[str, ...],
    of_keys_hbpk: jax.Array | None,
    position_bp: jax.Array,
) -> jax.Array:
    """Scaled float32 scores [h, b, p, k]; `of_keys_hbpk` is `position_to_content` of the same positions."""
    s_hbpk = product("bphd,bkhd->hbpk", q_bphd, k_bkhd)
    far_first = row_of_distance[::-1]
    if "c2p" in terms:
        s_hbpk += window(table_product(q_bphd, expand(pos_k_rhd, far_first)), position_bp)
    if "p2c" in terms:
        s_hbpk += of_keys_hbpk
    if "p2p" in terms:
        bias_hc = product("chd,chd->hc", expand(pos_q_rhd, far_first), expand(pos_k_rhd, far_first))
        shape = (bias_hc.shape[0], *q_bphd.shape[:2], bias_hc.shape[1])
        s_hbpk += window(jnp.broadcast_to(bias_hc[:, None, None], shape), position_bp)
    return s_hbpk * score_scale(q_bphd.shape[-1], terms)


def position_to_content(
    k_bkhd: jax.Array,
    pos_q_rhd: jax.Array,
    row_of_distance: np.ndarray,
    position_bp: jax.Array,
    select_bpk: jax.Array,
    *,
    heads: int | None,
) -> jax.Array:
    """float32 [h, b, p, k]: each key times the table's row for a query's distance to it; not scaled.

    `select_bpk` is `position_bp` in one-hot form; `heads` at a time, None is all.
    """
    near_hcd = expand(pos_q_rhd, row_of_distance).transpose(1, 0, 2)
    return _position_to_content(heads, k_bkhd.transpose(2, 0, 1, 3), near_hcd, position_bp, select_bpk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _position_to_content(heads, k_hbkd, near_hcd, position_bp, select_bpk):
    def group(given):
        k_gbkd, near_gcd = given
        f_gbkc = product("gbkd,gcd->gbkc", k_gbkd, near_gcd)
        by_product = functools.partial(queries_by_product, dtype=k_gbkd.dtype)
        return jax.lax.platform_dependent(f_gbkc, position_bp, select_bpk, tpu=by_product, default=queries_by_gather)

    return over_heads(heads, group, (k_hbkd, near_hcd))


def queries_by_gather(f_gbkc: jax.Array, position_bp: jax.Array, select_bpk: jax.Array) -> jax.Array:
    """[g, b, p, k]: of each key's product with every distance, the one for the query at this position."""
    n = f_gbkc.shape[2]
    column_bpk = n + position_bp[..., None] - np.arange(n)[None, None]
    return pick_by_row(f_gbkc, np.arange(n)[None, None] * 2 * n + column_bpk)


def queries_by_product(
    f_gbkc: jax.Array, position_bp: jax.Array, select_bpk: jax.Array, *, dtype: jnp.dtype
) -> jax.Array:
    """The same, rounded to `dtype`, without a gather of single numbers, which TPUs make one by one.

    Turned to all queries, of which a product with `select_bpk` picks: in bfloat16 one pass of the matrix unit.
    """
    s_gbkq = skew(f_gbkc.astype(dtype), f_gbkc.shape[2])
    return select("gbkq,bpq->gbpk", s_gbkq, select_bpk).astype(jnp.float32)


def _position_to_content_forward(heads, k_hbkd, near_hcd, position_bp, select_bpk):
    s_hbpk = _position_to_content(heads, k_hbkd, near_hcd, position_bp, select_bpk)
    return s_hbpk, (k_hbkd, near_hcd, select_bpk)


def _position_to_content_backward(heads, saved, s_hbpk):
    k_hbkd, near_hcd, select_bpk = saved

    def group(given):
        k_gbkd, near_gcd, s_gbpk = given
        s_gbkq = select("gbpk,bpq->gbkq", s_gbpk.astype(k_gbkd.dtype), select_bpk)  # a position may be chosen twice
        f_gbkc = unskew(s_gbkq, s_gbkq.shape[-1])
        dk_gbkd = product("gbkc,gcd->gbkd", f_gbkc, near_gcd)
        dnear_gcd = product("gbkd,gbkc->gdc", k_gbkd, f_gbkc).swapaxes(-1, -2)
        return dk_gbkd.astype(k_gbkd.dtype), dnear_gcd.astype(near_gcd.dtype)

    return *over_heads(heads, group, (k_hbkd, near_hcd, s_hbpk)), None, jnp.zeros_like(select_bpk)


_position_to_content.defvjp(_position_to_content_forward, _position_to_content_backward)


@jax.custom_vjp
def table_product(x_bphd: jax.Array, table_chd: jax.Array) -> jax.Array:
    """float32 products [h, b, p, c] of every query with every row of the table.

    The table's gradient is written with the big operand on the right, as it lies in memory; autodiff puts it on the
    left and pays for a transposed copy.
    """
    return product("bphd,chd->hbpc", x_bphd, table_chd)


def _table_product_forward(x_bphd, table_chd):
    return table_product(x_bphd, table_chd), (x_bphd, table_chd)


def _table_product_backward(saved, g_hbpc):
    x_bphd, table_chd = saved
    g_hbpc = g_hbpc.astype(x_bphd.dtype)
    dx_bphd = product("hbpc,chd->bphd", g_hbpc, table_chd).astype(x_bphd.dtype)
    dtable_hdc = product("bphd,hbpc->hdc", x_bphd, g_hbpc)
    return dx_bphd, dtable_hdc.transpose(2, 0, 1).astype(table_chd.dtype)


table_product.defvjp(_table_product_forward, _table_product_backward)


@jax.custom_vjp
def window(e_hbpc: jax.Array, position_bp: jax.Array) -> jax.Array:
    """[h, b, p, 2n] to [h, b, p, n]: row p from its column n - 1 - position on.

    The gradient is a gather as well (each column feeds at most one output), where autodiff would scatter. TPUs gather
    single numbers one by one: there a slice is taken of the row in all heads.
    """
    return jax.lax.platform_dependent(e_hbpc, position_bp, tpu=window_by_slice, default=window_by_gather)


def window_by_slice(e_hbpc: jax.Array, position_bp: jax.Array) -> jax.Array:
    n = e_hbpc.shape[-1] // 2
    return slices_of_rows(e_hbpc, n - 1 - position_bp, n)


def window_by_gather(e_hbpc: jax.Array, position_bp: jax.Array) -> jax.Array:
    p, c = e_hbpc.shape[-2:]
    column_bpk = c // 2 - 1 - position_bp[..., None] + np.arange(c // 2)[None, None]
    return pick_by_row(e_hbpc, np.arange(p)[None, :, None] * c + column_bpk)


def _window_forward(e_hbpc, position_bp):
    return window(e_hbpc, position_bp), position_bp


def _window_backward(position_bp, g_hbpk):
    by_platform = {"tpu": unwindowed_by_slice, "default": unwindowed_by_gather}
    return jax.lax.platform_dependent(g_hbpk, position_bp, **by_platform), None


window.defvjp(_window_forward, _window_backward)


def unwindowed_by_slice(g_hbpk: jax.Array, position_bp: jax.Array) -> jax.Array:
    """The transpose of `window`, [h, b, p, n] to [h, b, p, 2n]."""
    n = g_hbpk.shape[-1]
    return slices_of_rows(jnp.pad(g_hbpk, [(0, 0)] * 3 + [(n, n)]), position_bp + 1, 2 * n)


def unwindowed_by_gather(g_hbpk: jax.Array, position_bp: jax.Array) -> jax.Array:
    """The transpose of `window`, [h, b, p, n] to [h, b, p, 2n]."""
    p, n = g_hbpk.shape[-2:]
    key_bpc = np.arange(2 * n)[None, None] - (n - 1) + position_bp[..., None]
    inside_bpc = (key_bpc >= 0) & (key_bpc < n)
    g_hbpc = pick_by_row(g_hbpk, np.arange(p)[None, :, None] * n + jnp.clip(key_bpc, 0, n - 1))
    return jnp.where(inside_bpc[None], g_hbpc, 0)


def slices_of_rows(x_hbpn: jax.Array, start_bp: jax.Array, size: int) -> jax.Array:
    """[h, b, p, size]: of each row the entries from `start` on, all of which are there."""

    def of_row(x_hn, start):
        return jax.lax.dynamic_slice_in_dim(x_hn, start, size, axis=1)

    of_rows = jax.vmap(of_row, in_axes=(1, 0), out_axes=1)
    return jax.vmap(of_rows, in_axes=(1, 0), out_axes=1)(x_hbpn, start_bp)


def pick_by_row(x_hbmn: jax.Array, place_bpk: jax.Array) -> jax.Array:
    """[h, b, p, k]: the entries `place` of the last two axes counted as one; each row of the batch has its own."""

    def of_row(x_hmn, place_pk):
        flat = x_hmn.reshape(x_hmn.shape[0], -1)
        picked = jnp.take(flat, place_pk.reshape(-1), axis=1, mode="clip")
        return picked.reshape(-1, *place_pk.shape)

    return jax.vmap(of_row, in_axes=(1, 0), out_axes=1)(x_hbmn, place_bpk)


def select(subscripts: str, x: jax.Array, one_hot: jax.Array) -> jax.Array:
    """Picks rows of `x` by a product with `one_hot`: exact, and no scatter in the gradient."""
    # HIGHEST: a TPU would round float32 operands to bfloat16, and picking would change the numbers.
    return jnp.einsum(subscripts, x, one_hot.astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
