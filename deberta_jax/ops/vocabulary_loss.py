"""Cross-entropy over a large vocabulary, a chunk of predictions at a time: all logits are never there together.

Where the loss is differentiated, a chunk's gradients are computed while its logits are at hand ("gradient in forward":
FusedLinearCrossEntropy of the Liger Kernel, arXiv:2410.10989). That takes the three products of the plain way, and
keeps no logits for the backward pass, which only scales.

Letters: b sequences, p predictions of each, v ids, e width; n chunks, d parts of the batch, r predictions of a part.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deberta_jax.ops.cross_entropy import cross_entropy

ROWS = 1024  # of float32 logits over 128,000 ids: half a gigabyte
Pick = Callable[[jax.Array, jax.Array], jax.Array]  # (float32 logits [d, r, v], draws [d, r, k]) -> ids [d, r]


class LogitFactors(NamedTuple):
    """Logits that are not yet multiplied out: x_bpe word_ve^T + bias_v, a product in the dtype of x."""

    x_bpe: jax.Array
    word_ve: jax.Array  # float32
    bias_v: jax.Array  # float32


class Chunking(NamedTuple):
    """How the predictions of a batch are taken in turn."""

    parts: int = 1  # that devices split the batch into: each sums its own gradients before they are added up
    rows: int = ROWS  # predictions of a part at once; one of each of its sequences at the least
    place: Callable[..., jax.Array] = lambda x, *axes: x  # (array, names of its axes) -> the array where it belongs


def logits_of(factors: LogitFactors) -> jax.Array:
    """All logits [b, p, v], in float32."""
    word_ve = factors.word_ve.astype(factors.x_bpe.dtype)
    logits_bpv = jnp.einsum("bpe,ve->bpv", factors.x_bpe, word_ve, preferred_element_type=jnp.float32)
    # Behind a barrier: XLA would have cuBLAS add the bias, and write it out for each prediction first.
    return jax.lax.optimization_barrier(logits_bpv) + factors.bias_v[None, None]


def vocabulary_loss(
    factors: LogitFactors, label_bp: jax.Array, weight_bp: jax.Array, chunking: Chunking
) -> tuple[jax.Array, jax.Array]:
    """(weighted sum of -log softmax(logits)[label] in nats, weight of the labels that no other logit exceeds).

    Gradients reach the factors and come from the first sum; labels and weights are constants.
    """
    loss, hits, _ = _loss(factors, (label_bp, weight_bp), chunking, None)
    return loss, hits


def vocabulary_loss_and_picks(
    factors: LogitFactors,
    label_bp: jax.Array,
    weight_bp: jax.Array,
    chunking: Chunking,
    pick: Pick,
    draw_bpk: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `vocabulary_loss`, and the ids [b, p] that `pick` chooses by the logits; they have no gradient."""
    return _loss(factors, (label_bp, weight_bp, draw_bpk), chunking, pick)


def _loss(factors: LogitFactors, others: tuple, chunking: Chunking, pick: Pick | None) -> tuple:
    batch, predictions = factors.x_bpe.shape[:2]
    own = batch // chunking.parts
    count = -(-predictions // max(1, chunking.rows // own))
    size = -(-predictions // count)
    x_ndre, *others = jax.tree.map(lambda each: _split(each, count, size, chunking.parts), (factors.x_bpe, *others))
    loss, hits, id_ndr = _in_turn((chunking, pick), x_ndre, factors.word_ve, factors.bias_v, tuple(others))
    return loss, hits, None if id_ndr is None else _merge(id_ndr, own)[:, :predictions]


def _split(x: jax.Array, count: int, size: int, parts: int) -> jax.Array:
    """[b, p, ...] to [n, d, r, ...]; what fills the last chunk up is zero, its weight too."""
    batch, predictions, *rest = x.shape
    x = jnp.pad(x, [(0, 0), (0, count * size - predictions), *[(0, 0)] * len(rest)])
    x = x.reshape(parts, batch // parts, count, size, *rest)
    return jnp.moveaxis(x, 2, 0).reshape(count, parts, -1, *rest)


def _merge(x: jax.Array, own: int) -> jax.Array:
    """The inverse of `_split`, but for what was filled up; `own` sequences in each part."""
    count, parts, rows = x.shape
    x = x.reshape(count, parts, own, rows // own)
    return jnp.moveaxis(x, 0, 2).reshape(parts * own, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _in_turn(how: tuple[Chunking, Pick | None], x_ndre, word_ve, bias_v, others: tuple) -> tuple:
    """(loss, hits, ids [n, d, r] or None)."""
    chunking, pick = how
    word_ve = _placed_words(chunking, word_ve, x_ndre.dtype)

    def read(total: jax.Array, chunk: tuple) -> tuple:
        logits_drv = _logits(chunking, chunk[0], word_ve, bias_v)
        _, sums_2d = _weighted(logits_drv, *chunk[1:3])
        return total + sums_2d, _picked(pick, logits_drv, *chunk[3:])

    start_2d = jnp.zeros((2, chunking.parts), jnp.float32)
    sums_2d, ids = jax.lax.scan(read, start_2d, (x_ndre, *others), unroll=len(x_ndre) == 1)
    return *sums_2d.sum(-1), ids


def _with_gradients(how: tuple[Chunking, Pick | None], x_ndre, word_ve, bias_v, others: tuple) -> tuple:
    """(what `_in_turn` gives, gradients of the loss for x, words and bias)."""
    chunking, pick = how
    typed_ve = _placed_words(chunking, word_ve, x_ndre.dtype)

    def read(total: tuple, chunk: tuple) -> tuple:
        sums_2d, of_word_dve, of_bias_dv = total
        logits_drv = _logits(chunking, chunk[0], typed_ve, bias_v)
        slope_drv, more_2d = jax.grad(_weighted, has_aux=True)(logits_drv, *chunk[1:3])
        ids = _picked(pick, logits_drv, *chunk[3:])
        slope_drv = chunking.place(slope_drv.astype(x_ndre.dtype), "batch", "prediction", "vocab")
        of_x_dre = jnp.einsum("drv,ve->dre", slope_drv, typed_ve, preferred_element_type=jnp.float32)
        of_word_dve += jnp.einsum("drv,dre->dve", slope_drv, chunk[0], preferred_element_type=jnp.float32)
        of_bias_dv += jax.lax.platform_dependent(slope_drv, cpu=_summed_by_product, default=_summed)
        of_word_dve = chunking.place(of_word_dve, "batch", "vocab", "embed")
        of_x_dre = chunking.place(of_x_dre.astype(x_ndre.dtype), "batch", "prediction", "embed")
        return (sums_2d + more_2d, of_word_dve, chunking.place(of_bias_dv, "batch", "vocab")), (of_x_dre, ids)

    # Of each part by itself: added up once, after the last chunk, not in every turn.
    start = (
        jnp.zeros((2, chunking.parts), jnp.float32),
        chunking.place(jnp.zeros((chunking.parts, *word_ve.shape), jnp.float32), "batch", "vocab", "embed"),
        chunking.place(jnp.zeros((chunking.parts, *bias_v.shape), jnp.float32), "batch", "vocab"),
    )
    total, (of_x_ndre, ids) = jax.lax.scan(read, start, (x_ndre, *others), unroll=len(x_ndre) == 1)
    sums_2d, of_word_dve, of_bias_dv = total
    return (*sums_2d.sum(-1), ids), (of_x_ndre, of_word_dve.sum(0), of_bias_dv.sum(0))


def _summed(slope_drv: jax.Array) -> jax.Array:
    """float32 [d, v]."""
    return slope_drv.astype(jnp.float32).sum(1)


def _summed_by_product(slope_drv: jax.Array) -> jax.Array:
    """The same as a product with ones: on CPUs XLA's sum over few lines of a vocabulary takes twenty times as long."""
    ones_dr = jnp.ones(slope_drv.shape[:2], slope_drv.dtype)
    return jnp.einsum("drv,dr->dv", slope_drv, ones_dr, preferred_element_type=jnp.float32)


def _scaled(how: tuple, gradients: tuple, cotangents: tuple) -> tuple:
    """Gradients for x, words, bias and, none, the others; hits and picks are constants."""
    return *((cotangents[0] * each).astype(each.dtype) for each in gradients), None


_in_turn.defvjp(_with_gradients, _scaled)


def _placed_words(chunking: Chunking, word_ve: jax.Array, dtype: Any) -> jax.Array:
    """The table as products use it: gathered once, before the first chunk."""
    return chunking.place(word_ve.astype(dtype), "vocab", "embed")


def _logits(chunking: Chunking, x_dre: jax.Array, word_ve: jax.Array, bias_v: jax.Array) -> jax.Array:
    x_dre = chunking.place(x_dre, "batch", "prediction", "embed")
    return chunking.place(logits_of(LogitFactors(x_dre, word_ve, bias_v)), "batch", "prediction", "vocab")


def _weighted(logits_drv: jax.Array, label_dr: jax.Array, weight_dr: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the sum of the losses, [2, d]: sums of losses and hits of each part)."""
    nll_dr, right_dr = cross_entropy(logits_drv, label_dr)
    sums_2d = jnp.stack([(nll_dr * weight_dr).sum(-1), (right_dr * weight_dr).sum(-1)])
    return sums_2d[0].sum(), sums_2d


def _picked(pick: Pick | None, logits_drv: jax.Array, *draws: jax.Array) -> jax.Array | None:
    return None if pick is None else pick(logits_drv, *draws)
