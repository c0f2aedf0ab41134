"""Attention and the training step through XLA's compiler for an H200, without one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import ahead_of_time, gpu_program
from benchmarks.gpu_program import Shape, compiled, kernels, lower_attention, lower_step
from configs import base, meshes
from deberta_jax import config
from deberta_jax.model.layers import with_bias
from deberta_jax.ops.layer_norm import layer_norm
from deberta_jax.plan import hlo

ROWS, HEADS, LENGTH = 4, 12, 512
CUDNN = "__cudnn$fmhaScaleBiasSoftmax"

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
@pytest.mark.parametrize(("name", "rate", "limit"), [("gpu", 0.0, 23), ("xla", 0.1, 37)])
def test_attention_passes_the_memory_as_often_as_it_was_found_to(name, rate, limit):
    """Regression figures of jax 0.10.2. Gathers with jax's own gradient take over 90."""
    shape = Shape(ROWS, LENGTH)
    program = compiled(lower_attention(name, shape, rate=rate))
    found = kernels(program.as_text())
    assert sum(kernel.times * kernel.bytes for kernel in found) < limit * shape.pass_bytes
    assert {kernel.operands for kernel in found} == {"", "bf16"}  # no product of float32
    assert program.memory_analysis().temp_size_in_bytes < 8 * shape.pass_bytes
    assert "scatter" not in {move.operation for move in ahead_of_time.moves(program.as_text())}


def compiled_vjp(function, *shapes, dtypes):
    """`function` of arrays of these shapes and all its gradients."""

    def solved(slope, *arrays):
        found, pull = jax.vjp(function, *arrays)
        return found, pull(slope)

    alone = NamedSharding(Mesh(np.array(gpu_program.devices()), ("x",)), PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=alone) for shape, dtype in zip(shapes, dtypes, strict=True)]
    slope = jax.eval_shape(function, *arrays).update(sharding=alone)
    return compiled(jax.jit(solved).lower(slope, *arrays)).as_text()


@needs_compiler
def test_a_norm_of_a_residual_passes_the_memory_twelve_times():
    """Regression figure of jax 0.10.2; with the gradient of flax's it is 17.

    Six forward: two are read and their sum is written, then the sum is read for the variance, again for the output.
    Six in the gradient: sum and slope are read for the means, again for the gradients; that of x is written twice here.
    """
    tokens, width = (32, LENGTH, 768), (768,)

    def normalised(x, branch, scale, bias):
        return layer_norm(x + branch, scale, bias, 1e-7, jnp.dtype("bfloat16"))

    shapes, dtypes = (tokens, tokens, width, width), ("bfloat16", "bfloat16", "float32", "float32")
    found = kernels(compiled_vjp(normalised, *shapes, dtypes=dtypes))
    assert sum(kernel.times * kernel.bytes for kernel in found) < 12.5 * 2 * math.prod(tokens)


@needs_compiler
@pytest.mark.parametrize("features", [(3072,), (12, 64)], ids=["dense", "heads"])
def test_a_bias_is_added_by_the_product_that_it_follows(features):
    tokens = (ROWS, LENGTH)

    def projected(x_te, w_ef, b_f):
        return with_bias(jnp.tensordot(x_te, w_ef.astype(x_te.dtype), 1), b_f)

    shapes, dtypes = ((*tokens, 768), (768, *features), features), ("bfloat16", "float32", "float32")
    text = compiled_vjp(projected, *shapes, dtypes=dtypes)
    assert text.count('"epilogue":"BIAS"') == 1
    written = 2 * math.prod((*tokens, *features))
    passing = [kernel for kernel in kernels(text) if not kernel.target and kernel.bytes >= 2 * written]
    assert passing == []  # the gradient of the bias reads the slope once


def compiled_step(rate=0.0, mesh=(1, 1, 1), rules=meshes.dp):
    """A base model's step in bfloat16: two scanned layers below the decoder's."""
    c = base.get_config("v3_base")
    c.model.update(num_layers=3, vocab_size=1024, dtype="bfloat16", attention_dropout=rate)
    c.batch_size = c.eval.batch_size = ROWS
    c.mesh, c.rules = tuple(zip(("data", "fsdp", "tensor"), mesh, strict=True)), rules
    return compiled(lower_step(config.build(c), LENGTH, math.prod(mesh))).as_text()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("rate", "calls"), [(0.0, 1), (0.1, 0)])
def test_a_step_takes_cudnn_without_dropout_and_carries_no_masks_through_its_layers(rate, calls):
    text = compiled_step(rate)
    assert text.count(f'custom_call_target="{CUDNN}"') == calls
    assert text.count(f'custom_call_target="{CUDNN}Backward"') == calls
    lines = [line for computation in hlo.parse(text).computations.values() for line in computation.values()]
    carried = {array for line in lines if line.opcode == "while" for array in line.arrays}
    pairs = {array for array in carried if array.dims[-2:] == (LENGTH, LENGTH) and len(array.dims) >= 4}
    assert {array.dtype for array in pairs} == {"f16" if rate else "bf16"}
    assert {array.dims[0] for array in pairs} == {2}  # one of each layer; nothing that all of them share
    scattered = [move.operands[-1] for move in ahead_of_time.moves(text) if move.operation == "scatter"]
    assert not [shape for shape in scattered if math.prod(shape) >= ROWS * HEADS * LENGTH**2]
    made = [array.dims for line in lines if line.opcode == "custom-call" for array in line.arrays]
    assert not [dims for dims in made if math.prod(dims) == ROWS * LENGTH * 3 * HEADS * 64]  # queries, keys and values
    logits = [line for line in lines if line.opcode == "custom-call" and "bpe,ve->bpv" in line.attributes]
    assert logits and all(len(line.operands) == 2 for line in logits)  # no bias as large as they are


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "rules", "rows", "heads"),
    [((4, 1, 1), meshes.dp, 1, 12), ((1, 4, 1), meshes.fsdp, 1, 12), ((1, 2, 2), meshes.fsdp_tp, 2, 6)],
    ids=["dp", "fsdp", "fsdp_tp"],
)
def test_each_of_several_gpus_attends_in_its_own_rows_and_heads(mesh, rules, rows, heads):
    calls = [line for line in compiled_step(mesh=mesh, rules=rules).splitlines() if f'target="{CUDNN}' in line]
    assert len(calls) == 2
    assert all(f"bf16[{rows},{heads},{LENGTH},64]" in call.partition("custom-call(")[0] for call in calls)
