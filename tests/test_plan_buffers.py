from deberta_jax.plan import hlo
from deberta_jax.plan.buffers import largest, needed_bytes

ASSIGNMENT = """BufferAssignment:
allocation 0: size 4096, page 0, thread-local:
 value: <9000 add.1 @0> (size=4096,offset=0): u32[]
allocation 1: size 3000, page 0, parameter 21, shape |f32[10,75]| at ShapeIndex {}, maybe-live-out:
 value: <15693 param.85 @0> (size=3000,offset=0): f32[10,75]{1,0:T(8,128)}
 value: <20135 update.7{1} @0> (size=3000,offset=0): f32[10,75]{1,0:T(8,128)}
allocation 2: size 9000, page 0, preallocated-temp:
 value: <9639 compare.56 @0> (size=512,offset=100): pred[4,128]{1,0:T(512)}
 value: <9641 fusion.57{0} @2> (size=2000,offset=100): bf16[8,125]{1,0}
 value: <9642 small.1 @2> (size=700,offset=5000): bf16[350]{0}
allocation 3: size 117440512, color 1, page 0, preallocated-temp:
 value: <16467 inside.8{3} @2> (size=100000,offset=32): f32[25000]{0:S(1)}

Total bytes used: 1 (1B)

Used values:
<3 x>
 positions:
"""
PROGRAM = """HloModule m

ENTRY %main (param.85: f32[10,75]) -> f32[10,75] {
  %param.85 = f32[10,75]{1,0} parameter(0), metadata={op_name="state.params[\\'word\\']"}
  %fusion.57 = bf16[8,125]{1,0} fusion(%param.85), calls=%main, metadata={op_name="jit(f)/dot" stack_frame_id=3}
  ROOT %small.1 = bf16[350]{0} copy(%fusion.57)
}
"""


def test_the_largest_pieces_of_main_memory_have_a_shape_and_a_name():
    found = [tuple(each) for each in largest(ASSIGNMENT, hlo.parse(PROGRAM), 5)]
    assert found == [
        (3000, "f32[10,75]", "state.params['word']", "parameter", 2),
        (2000, "bf16[8,125]", "jit(f)/dot", "preallocated-temp", 2),
        (700, "bf16[350]", "small.1", "preallocated-temp", 1),
    ]
    assert len(largest(ASSIGNMENT, hlo.parse(PROGRAM), 2)) == 2


def test_the_need_is_what_is_allocated_in_the_main_memory():
    assert needed_bytes(ASSIGNMENT) == 3000 + 9000
