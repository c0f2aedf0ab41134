"""The relative table spread over distances, and products with it turned from [query, distance] to [query, key].

The row of the table depends on i - j alone, so no [length, length, d] tensor is needed (paper section 3.1.1), nor a
scatter: rows of the table belong to contiguous runs of distances, and turning a product is a shift of each line.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def expand(table_rhd: jax.Array, row_n: np.ndarray) -> jax.Array:
    """The table's rows `row_n`, which must not decrease or not increase: [n, h, d].

    The gradient is a sum over runs of equal rows, made of gathers and slices; autodiff would scatter.
    """
    if row_n[0] > row_n[-1]:
        return _expand(Runs.of(row_n[::-1], table_rhd.shape[0]), table_rhd)[::-1]
    return _expand(Runs.of(row_n, table_rhd.shape[0]), table_rhd)


class Runs:
    """Where each of the table's rows stands in a line of ascending rows.

    The first and the last row hold all far distances and may be long; the others are short (6 at most of the released
    256 buckets).
    """

    def __init__(self, row_n: np.ndarray, rows: int):
        if (np.diff(row_n) < 0).any():
            raise ValueError("rows must be in order")
        self.row_n = row_n
        self.start_r = np.searchsorted(row_n, np.arange(rows))
        self.width_r = np.searchsorted(row_n, np.arange(rows), side="right") - self.start_r

    @classmethod
    @functools.lru_cache(maxsize=256)
    def _cached(cls, rows_of: bytes, rows: int) -> "Runs":
        return cls(np.frombuffer(rows_of, np.int64), rows)

    @classmethod
    def of(cls, row_n: np.ndarray, rows: int) -> "Runs":
        """The same object for the same rows, so that jax may compare it by identity."""
        return cls._cached(np.ascontiguousarray(row_n, np.int64).tobytes(), rows)

    def ends(self) -> tuple[int, int]:
        """The first and the last row that occur."""
        return int(self.row_n[0]), int(self.row_n[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _expand(runs: Runs, table_rhd: jax.Array) -> jax.Array:
    return table_rhd[runs.row_n]


def _expand_forward(runs, table_rhd):
    return _expand(runs, table_rhd), None


def _expand_backward(runs, _, g_nhd):
    return (sum_runs(runs, g_nhd).astype(g_nhd.dtype),)


_expand.defvjp(_expand_forward, _expand_backward)


def sum_runs(runs: Runs, g_nhd: jax.Array) -> jax.Array:
    """float32 sums [r, h, d] over the places of each row: the transpose of taking rows."""
    g_nhd = g_nhd.astype(jnp.float32)
    first, last = runs.ends()
    width_r = runs.width_r.copy()
    width_r[[first, last]] = 0
    step = np.arange(max(width_r.max(), 1))
    place_rs = np.minimum(runs.start_r[:, None] + step, len(runs.row_n) - 1)
    inside_rs = step < width_r[:, None]
    total_rhd = jnp.where(inside_rs[..., None, None], g_nhd[place_rs], 0).sum(1)
    for row in {first, last}:
        start = runs.start_r[row]
        run_hd = g_nhd[start : start + runs.width_r[row]].sum(0)
        total_rhd += jnp.where(np.arange(len(width_r))[:, None, None] == row, run_hd[None], 0)
    return total_rhd


def skew(e_tc: jax.Array, first: int) -> jax.Array:
    """[..., t, k + t] to [..., t, k]: line i from its column `first` - i on, first being t - 1 or t.

    A slice between two reshapes: line i starts at i * (k + t) + first - i = first + i * (k + t - 1).
    """
    *lead, t, c = e_tc.shape
    flat = e_tc.reshape(*lead, t * c)[..., first : first + t * (c - 1)]
    return flat.reshape(*lead, t, c - 1)[..., : c - t]


def unskew(s_tk: jax.Array, first: int) -> jax.Array:
    """The transpose of `skew`, [..., t, k] to [..., t, k + t]."""
    # On CPUs a gather takes half the time or less; TPUs gather single numbers one by one.
    return jax.lax.platform_dependent(
        s_tk,
        tpu=functools.partial(unskewed_by_reshape, first=first),
        default=functools.partial(unskewed_by_gather, first=first),
    )


def unskewed_by_reshape(s_tk: jax.Array, first: int) -> jax.Array:
    """`skew` backwards: zeros where it cut, and lines of another length."""
    *lead, t, k = s_tk.shape
    whole = [(0, 0)] * len(lead)
    flat = jnp.pad(s_tk, [*whole, (0, 0), (0, t - 1)]).reshape(*lead, t * (k + t - 1))
    return jnp.pad(flat, [*whole, (first, t - first)]).reshape(*lead, t, k + t)


def unskewed_by_gather(s_tk: jax.Array, first: int) -> jax.Array:
    """With indices known at compile time."""
    t, k = s_tk.shape[-2:]
    key_tc = np.arange(k + t) - (first - np.arange(t)[:, None])
    inside_tc = (key_tc >= 0) & (key_tc < k)
    return pick(s_tk, np.where(inside_tc, np.arange(t)[:, None] * k + key_tc, 0), inside_tc)


def pick(x_mn: jax.Array, place: np.ndarray, inside: np.ndarray | None = None) -> jax.Array:
    """The entries `place` of the last two axes, counted as one; zero where not `inside`.

    One index for all leading axes. `take_along_axis` would first write an index for each of them: on CPUs that took
    longer than the gather.
    """
    flat = x_mn.reshape(*x_mn.shape[:-2], -1)
    picked = flat[..., jnp.asarray(place.reshape(-1), jnp.int32)].reshape(*flat.shape[:-1], *place.shape)
    if inside is None:
        return picked
    return jnp.where(inside.reshape((1,) * (flat.ndim - 1) + inside.shape), picked, 0)
