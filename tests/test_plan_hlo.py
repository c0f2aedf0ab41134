import jax
import jax.numpy as jnp
import pytest

from deberta_jax.plan import hlo

# As XLA for TPUs writes a loop: no note of how often it runs, layouts with tiles and memory spaces.
OF_A_TPU = """HloModule jit_f, is_scheduled=true

%condition (p: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(11)
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%body (q: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%q), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%turn, %one)
  %x = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%q), index=1
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%next, %x)
}

ENTRY %main (x.0: f32[8,128]) -> f32[8,128] {
  %x.0 = f32[8,128]{1,0:T(8,128)} parameter(0), metadata={op_name="a (b) {c}"}
  %start = s32[]{:T(128)} constant(START)
  %copy.1 = s32[]{:T(128)} copy(%start)
  %tuple.1 = (s32[]{:T(128)}, /*index=1*/f32[8,128]{1,0:T(8,128)}) tuple(%copy.1, %x.0)
  %while.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple.1), condition=%condition, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""


def times_of(program: hlo.Program) -> dict[str, int]:
    return dict(hlo.executions(program)[0])


def compiled_text(function, *shapes) -> str:
    return jax.jit(function).lower(*shapes).compile().as_text()


def test_lines_are_taken_apart():
    program = hlo.parse(OF_A_TPU.replace("START", "0"))
    body = program.computations["body"]
    assert program.entry == "main"
    assert body["q"].arrays == (hlo.Array("s32", (), 0), hlo.Array("f32", (8, 128), 1))
    assert body["next"].operands == ("turn", "one")
    assert body["q"].bytes == 4 + 8 * 128 * 4
    assert program.root("body").name == "out"
    assert program.computations["main"]["while.1"].called("condition") == "condition"


@pytest.mark.parametrize(
    ("written", "size"),
    [("bf16[3,5]{1,0}", 30), ("pred[7]", 7), ("s4[8]", 4), ("(f32[], u8[2]{0:T(256)})", 6), ("f8e4m3fn[4]", 4)],
)
def test_bytes_of_types(written, size):
    assert sum(array.bytes for array in hlo.arrays_of(written)) == size


@pytest.mark.parametrize(("start", "times"), [("0", 11), ("4", 7), ("20", 0)])
def test_a_loop_without_a_note_is_counted_from_its_condition(start, times):
    assert times_of(hlo.parse(OF_A_TPU.replace("START", start)))["body"] == times


@pytest.mark.parametrize(
    "replaced",
    [("direction=LT", "direction=NE"), ("add(%turn, %one)", "multiply(%turn, %one)"), ("(START)", "({...})")],
)
def test_a_loop_that_does_not_count_up_is_named_and_taken_once(replaced):
    found, unknown = hlo.executions(hlo.parse(OF_A_TPU.replace(*replaced).replace("START", "0")))
    assert unknown == ["while.1"]
    assert dict(found)["body"] == 1


def test_nested_loops_of_a_real_program_multiply():
    def inner(c, _):
        return jnp.sin(c), None

    def outer(c, _):
        return jax.lax.scan(inner, c, None, length=5)[0] * 2, None

    text = compiled_text(lambda x: jax.lax.scan(outer, x, None, length=3)[0], jax.ShapeDtypeStruct((64,), jnp.float32))
    noted = times_of(hlo.parse(text))
    assert sorted(set(noted.values())) == [1, 3, 15]
    derived = times_of(hlo.parse(text.replace("known_trip_count", "something_else")))
    assert set(noted.items()) - set(derived.items()) == set() or "fusion" in text


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no HLO module"):
        hlo.parse("nothing")
