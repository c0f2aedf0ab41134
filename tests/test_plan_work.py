import jax
import jax.numpy as jnp
import pytest

from deberta_jax.plan import hlo
from deberta_jax.plan.work import Work, work


def of(text: str) -> dict[str, Work]:
    return {each.name: each for each in work(hlo.parse(text))}


def of_function(function, *shapes) -> list[Work]:
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return work(hlo.parse(jax.jit(function).lower(*arrays).compile().as_text()))


def module(lines: str, other: str = "") -> str:
    return f"HloModule m\n\n{other}\nENTRY %main (x: f32[1]) -> f32[1] {{\n{lines}\n}}\n"


@pytest.mark.parametrize(
    ("spec", "shapes", "flops"),
    [
        ("ij,jk->ik", ((8, 16), (16, 32)), 2 * 8 * 16 * 32),
        ("bij,bkj->bik", ((4, 8, 16), (4, 32, 16)), 2 * 4 * 8 * 16 * 32),
        ("ijk,jkl->il", ((8, 3, 5), (3, 5, 7)), 2 * 8 * 15 * 7),
    ],
)
def test_flops_of_products(spec, shapes, flops):
    found = of_function(lambda x, y: jnp.einsum(spec, x, y), *shapes)
    assert sum(each.flops * each.times for each in found) == flops


def test_a_loop_repeats_its_products_and_reads_its_slices_once():
    def layers(x, w_lij):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, w_lij)[0]

    found = of_function(layers, (32, 64), (6, 64, 64))
    assert sum(each.flops * each.times for each in found) == 6 * 2 * 32 * 64 * 64
    # Each turn reads its own [64, 64] of the weights and a few arrays of [32, 64], not all weights.
    moved = sum(each.bytes * each.times for each in found)
    assert 6 * 4 * 64 * 64 <= moved < 6 * 4 * (3 * 64 * 64 + 12 * 32 * 64)


# Products as XLA for TPUs writes them, and the FLOPs of what they are.
CONVOLUTIONS = {
    "f32[512,768] f32[512,256] f32[256,768] dim_labels=bf_io->bf": 2 * 512 * 768 * 256,
    # [8 heads] x [2 rows]: a batch is a window that meets one position
    "f32[12,8,5,6] f32[12,8,5,7] f32[12,8,6,7] "
    "window={size=12x8 stride=11x7 lhs_dilate=12x8}, dim_labels=01bf_01oi->01bf": 2 * 12 * 8 * 5 * 6 * 7,
    # a real convolution of 3 taps over 10 positions with padding: the ends meet 2 taps
    "f32[4,10,7] f32[4,10,6] f32[3,6,7] window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f": 2 * 4 * (3 * 10 - 2) * 6 * 7,
}


@pytest.mark.parametrize("written", CONVOLUTIONS)
def test_flops_of_convolutions(written):
    out, left, right, attributes = written.split(" ", 3)
    lines = (
        f"  %x = {left} parameter(0)\n  %y = {right} parameter(1)\n  ROOT %c = {out} convolution(%x, %y), {attributes}"
    )
    assert of(module(lines))["c"].flops == CONVOLUTIONS[written]


def test_a_model_s_gradient_has_three_times_its_forward_flops():
    def loss(w, x):
        return jnp.square(jnp.tanh(x @ w[0]) @ w[1]).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 64, 64), (32, 64))]
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile().as_text()
    assert sum(each.flops * each.times for each in work(hlo.parse(text))) == 3 * 2 * 2 * 32 * 64 * 64


def test_what_stays_inside_the_chip_is_not_moved():
    lines = """  %x = f32[256]{0} parameter(0)
  %y = f32[256]{0:S(1)} copy(%x)
  %z = f32[256]{0:S(1)} negate(%y)
  ROOT %out = f32[256]{0} add(%z, %x)"""
    assert {name: each.bytes for name, each in of(module(lines)).items()} == {"y": 1024, "out": 2048}


def test_an_array_changed_in_place_counts_with_what_changes():
    fused = """%f (a: f32[100,256], b: f32[1,256], i: s32[]) -> f32[100,256] {
  %a = f32[100,256]{1,0} parameter(0)
  %b = f32[1,256]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = f32[100,256]{1,0} dynamic-update-slice(%a, %b, %i, %zero)
}
"""
    lines = """  %x = f32[100,256]{1,0} parameter(0)
  %y = f32[1,256]{1,0} parameter(1)
  %i.2 = s32[] parameter(2)
  ROOT %out = f32[100,256]{1,0} fusion(%x, %y, %i.2), kind=kLoop, calls=%f"""
    assert of(module(lines, fused))["out"].bytes == 1024 + 1024 + 4  # the row read, the row written, the place


def test_the_attention_kernel_is_counted_from_its_shapes():
    lines = """  %q = bf16[8,512,768]{2,1,0} parameter(0)
  %t = bf16[768,1024]{1,0} parameter(1)
  ROOT %k = (bf16[8,512,768]{2,1,0}, f32[8,6,2,512]{3,2,1,0}) custom-call(%q, %q, %q, %t, %t), \
custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/deberta_attention_forward/pallas_call"}"""
    assert of(module(lines))["k"].flops == 2 * (2 + 2) * 8 * 512 * 512 * 768
