import pytest

from deberta_jax.plan import compiler

REFUSALS = [
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (29.94G) exceeds available HBM (15.75G). HLO module: jit_train_step.",
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 30.10G of 15.75G hbm.",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_room_that_the_compiler_names(refusal):
    assert compiler.room_in(refusal) == int(15.75 * 2**30)


def test_a_refusal_for_another_reason_has_none():
    with pytest.raises(ValueError, match="no size"):
        compiler.room_in("INVALID_ARGUMENT: no such thing")
