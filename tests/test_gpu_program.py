"""Attention and the training step through XLA's compiler for an H200, without one."""

import numpy as np
import pytest

from benchmarks import ahead_of_time, gpu_program
from benchmarks.gpu_program import Shape, compiled, kernels, lower_attention, lower_step
from configs import base
from deberta_jax import config
from deberta_jax.plan import hlo

ROWS, HEADS, LENGTH = 4, 12, 512

PRODUCT = """
HloModule example
ENTRY %main (a: bf16[96,512,64], b: bf16[96,512,64]) -> f32[96,512,512] {
  %a = bf16[96,512,64]{2,1,0} parameter(0)
  %b = bf16[96,512,64]{2,1,0} parameter(1)
  %both = (f32[96,512,512]{2,1,0}, s8[1048576]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="x/attention._of_all/dot_general"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"]}}}
  ROOT %scores = f32[96,512,512]{2,1,0} get-tuple-element(%both), index=0
}
"""  # noqa: E501


def needs_compiler(test):
    missing = not gpu_program.is_installed()
    reason = "needs XLA's compiler for GPUs: requirements-cuda.txt"
    return pytest.mark.cuda(pytest.mark.skipif(missing, reason=reason)(test))


def test_a_product_is_counted_without_its_working_room():
    (kernel,) = kernels(PRODUCT)
    assert kernel.bytes == 2 * 96 * 512 * 64 * 2 + 96 * 512 * 512 * 4
    assert kernel.flops == 2 * 96 * 512 * 512 * 64
    assert (kernel.operands, kernel.times, kernel.source) == ("bf16", 1, "x/attention._of_all/dot_general")


@needs_compiler
@pytest.mark.parametrize(("name", "rate", "limit"), [("gpu", 0.0, 23), ("xla", 0.1, 41)])
def test_attention_passes_the_memory_as_often_as_it_was_found_to(name, rate, limit):
    """Regression figures of jax 0.10.2. Gathers with jax's own gradient take over 90."""
    shape = Shape(ROWS, LENGTH)
    program = compiled(lower_attention(name, shape, rate=rate))
    found = kernels(program.as_text())
    assert sum(kernel.times * kernel.bytes for kernel in found) < limit * shape.pass_bytes
    assert {kernel.operands for kernel in found} == {"", "bf16"}  # no product of float32
    assert program.memory_analysis().temp_size_in_bytes < 8 * shape.pass_bytes
    assert "scatter" not in {move.operation for move in ahead_of_time.moves(program.as_text())}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("rate", "calls"), [(0.0, 1), (0.1, 0)])
def test_a_step_takes_cudnn_without_dropout_and_carries_no_masks_through_its_layers(rate, calls):
    """A base model's step in bfloat16: two scanned layers below the decoder's."""
    c = base.get_config("v3_base")
    c.model.update(num_layers=3, vocab_size=1000, dtype="bfloat16", attention_dropout=rate)
    c.batch_size = c.eval.batch_size = ROWS
    text = compiled(lower_step(config.build(c), LENGTH)).as_text()
    assert text.count('custom_call_target="__cudnn$fmhaScaleBiasSoftmax"') == calls
    assert text.count('custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward"') == calls
    carried = {
        (array.dtype, array.dims)
        for lines in hlo.parse(text).computations.values()
        for line in lines.values()
        if line.opcode == "while"
        for array in line.arrays
    }
    pairs = {each for each in carried if each[1][-2:] == (LENGTH, LENGTH) and len(each[1]) >= 4}
    assert {dtype for dtype, _ in pairs} == {"bf16"}, pairs
    assert all(dims[0] == 2 for _, dims in pairs), pairs  # one of each layer; nothing that all of them share
    moved = [move for move in ahead_of_time.moves(text) if move.operation == "scatter"]
    assert not [move for move in moved if np.prod(move.operands[-1]) >= ROWS * HEADS * LENGTH**2]
