"""The TPU kernel in the interpreter against scores that are gathered entry by entry; jax derives their gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deberta_jax.ops.attention import tpu
from deberta_jax.ops.attention.tpu_plan import make_plan
from deberta_jax.ops.buckets import row_of_distance

RELEASED, SMALL, LINEAR = (256, 512), (8, 16), (0, 16)  # buckets, distance limit; LINEAR has a row per distance
BOTH = ("c2p", "p2c")
TILED = {"whole": 256, "tile": 256}  # what otherwise happens beyond 1024 positions


@dataclasses.dataclass
class Case:
    """Random operands of the kernel, and what it is told besides."""

    length: int
    terms: tuple[str, ...] = BOTH
    span: tuple[int, int] = RELEASED
    rate: float = 0.0
    heads: int = 1  # one head in a register is the least to compile
    head_size: int = 128
    document_bk: np.ndarray | None = None
    batch: int = 2

    def __post_init__(self):
        rng = np.random.default_rng(self.length)
        shape = (self.batch, self.length, self.heads, self.head_size)
        self.row_of_distance = row_of_distance(np.arange(-self.length, self.length), *self.span, clamp=True)
        self.table_rows = 2 * (self.span[0] or self.span[1])
        self.values = {name: rng.normal(size=shape).astype(np.float32) for name in "qkv"}
        for name, term in (("pos_k", "c2p"), ("pos_q", "p2c")):
            if term in self.terms:
                table = rng.normal(size=(self.table_rows, *shape[2:]))
                self.values[name] = table.astype(np.float32)
        self.weight = rng.normal(size=shape).astype(np.float32)
        self.seed_bhq = rng.integers(-(2**31), 2**31, (self.batch, self.heads, self.length)).astype(np.int32)
        if self.document_bk is None:
            self.document_bk = np.ones((self.batch, self.length), np.int32)

    def as_bfloat16(self) -> dict[str, jax.Array]:
        return {name: jnp.asarray(value, jnp.bfloat16) for name, value in self.values.items()}


def documents(length: int) -> np.ndarray:
    """Two rows: three documents and padding, one of them a single position; one document from the middle on."""
    row = np.repeat([1, 2, 3, 0], [length // 3, 1, length // 2, length - 1 - length // 3 - length // 2])
    late = np.where(np.arange(length) < length // 2, 0, 5)
    return np.stack([row, late]).astype(np.int32)


def kept_bhqk(case: Case) -> np.ndarray:
    """Which probabilities dropout keeps, as ops/dropout.py says, in NumPy's 32-bit arithmetic."""
    column = np.arange(case.length, dtype=np.uint32)
    x = case.seed_bhq.view(np.uint32)[..., None] ^ (column * np.uint32(0x9E3779B1))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x.view(np.int32) >= round(case.rate * 2**32) - 2**31


def by_gather(case: Case, q, k, v, pos_k=None, pos_q=None):
    """Section 3.1 of the paper with a table row taken for each query and key."""
    position = np.arange(case.length)
    row_qk = case.row_of_distance[position[:, None] - position[None] + case.length]
    s_bhqk = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    if pos_k is not None:
        index = np.broadcast_to(row_qk, s_bhqk.shape)
        s_bhqk += jnp.take_along_axis(jnp.einsum("bqhd,rhd->bhqr", q, pos_k), index, axis=-1)
    if pos_q is not None:
        index = np.broadcast_to(row_qk.T, s_bhqk.shape)
        s_bhqk += jnp.take_along_axis(jnp.einsum("bkhd,rhd->bhkr", k, pos_q), index, axis=-1).swapaxes(-1, -2)
    s_bhqk /= np.sqrt(case.head_size * (1 + len(case.terms)))
    document = case.document_bk
    allowed = ((document[:, :, None] == document[:, None]) & (document[:, :, None] > 0))[:, None]
    p_bhqk = jnp.where(allowed, jax.nn.softmax(jnp.where(allowed, s_bhqk, -1e30), axis=-1), 0)
    if case.rate:
        p_bhqk = jnp.where(kept_bhqk(case), p_bhqk / (1 - case.rate), 0)
    return jnp.einsum("bhqk,bkhd->bqhd", p_bhqk, v)


def by_kernel(case: Case, sizes: dict, q, k, v, pos_k=None, pos_q=None):
    settings = {"head_size": case.head_size, "terms": case.terms, "rate": case.rate}
    plan = make_plan(case.length, case.row_of_distance, **settings, hardware_bits=False, interpret=True, **sizes)
    return tpu.run(plan, q, k, v, pos_k, pos_q, case.row_of_distance, case.document_bk, case.seed_bhq)


def output_and_gradients(attend, case: Case, values: dict) -> dict[str, np.ndarray]:
    def loss(values):
        o_bqhd = attend(**values)
        return (o_bqhd.astype(jnp.float32) * case.weight).sum(), o_bqhd

    (_, output), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(values)
    return {name: np.asarray(value, np.float32) for name, value in (gradients | {"output": output}).items()}


def expected(case: Case, values: dict | None = None) -> dict[str, np.ndarray]:
    values = {name: np.asarray(value, np.float32) for name, value in (values or case.values).items()}
    return output_and_gradients(lambda **v: by_gather(case, **v), case, values)


def assert_exact(case: Case, **sizes):
    right = expected(case)
    found = output_and_gradients(lambda **v: by_kernel(case, sizes, **v), case, case.values)
    assert found.keys() == right.keys() == {"output", *case.values}
    for name, value in right.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def assert_close(case: Case, **sizes):
    """Within one percent of the gather form in float32 at the same rounded operands."""
    right = expected(case, case.as_bfloat16())
    found = output_and_gradients(lambda **v: by_kernel(case, sizes, **v), case, case.as_bfloat16())
    for name, value in right.items():
        assert np.linalg.norm(found[name] - value) < 0.01 * np.linalg.norm(value), name


def test_blocks_documents_padding_and_dropout():
    assert_exact(Case(200, rate=0.1, heads=4, head_size=64, document_bk=documents(200)), block=128)


def test_three_blocks():
    assert_exact(Case(384, batch=1))


def test_windows_are_the_whole_table_when_a_tile_is_one_block():
    assert_exact(Case(250, document_bk=documents(250)))


def test_tiles_near_the_diagonal_and_far_from_it():
    assert_exact(Case(700, span=SMALL, rate=0.1, document_bk=documents(700)), **TILED)


@pytest.mark.parametrize("terms", [("c2p",), ("p2c",), ()])
def test_terms_one_by_one(terms):
    assert_exact(Case(130, terms=terms, rate=0.3))


@pytest.mark.parametrize("terms", [("c2p",), ("p2c",), ()])
def test_terms_one_by_one_in_tiles(terms):
    assert_exact(Case(600, terms=terms, span=LINEAR, batch=1), **TILED)


@pytest.mark.parametrize(("heads", "head_size"), [(4, 32), (8, 16)])
def test_heads_that_share_a_register(heads, head_size):
    assert_exact(Case(100, heads=heads, head_size=head_size, rate=0.1, batch=1))


def test_bfloat16():
    assert_close(Case(300, rate=0.1, document_bk=documents(300)))


def test_bfloat16_in_tiles():
    assert_close(Case(700, span=SMALL, rate=0.1, document_bk=documents(700)), **TILED)


def test_one_position():
    assert_exact(Case(1, batch=1))


def test_a_query_without_any_key_gives_zeros_and_takes_no_gradient():
    case = Case(64, document_bk=documents(64))
    found = output_and_gradients(lambda **v: by_kernel(case, {}, **v), case, case.values)
    nowhere = case.document_bk == 0
    assert nowhere.any()
    for name in ("output", "q", "k", "v"):
        assert (found[name][nowhere] == 0).all(), name
        assert (found[name][~nowhere] != 0).any(), name


def test_the_public_function_makes_its_own_plan():
    case = Case(20, batch=1)
    found = tpu.attend(
        **{f"{name}_{shape}": case.values[name] for name, shape in SHAPES.items()},
        row_of_distance=case.row_of_distance,
        terms=case.terms,
        document_bk=case.document_bk,
        row_seed_bhq=None,
        rate=0.0,
        interpret=True,
    )
    np.testing.assert_allclose(found, by_gather(case, **case.values), rtol=1e-5, atol=1e-5)


SHAPES = {"q": "bqhd", "k": "bkhd", "v": "bkhd", "pos_k": "rhd", "pos_q": "rhd"}


@pytest.mark.parametrize(
    ("terms", "heads", "head_size", "said"),
    [(("c2p", "p2p"), 2, 64, "p2p"), (BOTH, 3, 64, "3 heads of 64"), (BOTH, 2, 48, "48"), (BOTH, 16, 8, "heads of 8")],
)
def test_what_the_kernel_is_not_made_for_is_refused(terms, heads, head_size, said):
    case = Case(8, terms=terms, heads=heads, head_size=head_size)
    q, k, v = (case.values[name] for name in "qkv")
    rules = {"row_of_distance": case.row_of_distance, "terms": terms, "document_bk": case.document_bk}
    with pytest.raises(ValueError, match=said):
        tpu.attend(q, k, v, q[0], q[0], **rules, row_seed_bhq=None, rate=0.0)
