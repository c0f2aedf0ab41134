"""What XLA makes of a program for an H200 that is not there: its kernels, and how much memory each of them passes.

kernels(compiled(lower_attention("xla", Shape(8, 512), rate=0.1)))
kernels(compiled(lower_step(config, 512)))

The compiler alone runs, on any machine with requirements-cuda.txt. Nothing is tuned by trying, as it would be where a
GPU is: products are cuBLAS' calls and not Triton's kernels.
"""

import importlib.util
import json
import math
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.config import Config
from deberta_jax.objectives import Lexicon
from deberta_jax.ops.attention import blockwise, gpu, reference, xla
from deberta_jax.ops.attention.problem import Problem
from deberta_jax.ops.buckets import row_of_distance
from deberta_jax.plan import hlo, work
from deberta_jax.plan.hlo import Instruction, Program
from deberta_jax.train import shapes
from deberta_jax.train.build import build_run

PLUGIN = "jax_cuda12_plugin"
# Of NVIDIA's data sheet and CUDA's device properties, in the form that XLA reads.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 151397597184
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
SPAN, HEAD_SIZE = (256, 512), 64  # of the released models
ATTEND = {"gpu": gpu.attend, "xla": xla.attend, "blockwise": blockwise.attend, "reference": reference.attend}
_CUBLAS, _CUDNN = "__cublas$lt$matmul", "__cudnn$fmha"
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Shape(NamedTuple):
    rows: int
    length: int
    heads: int = 12

    @property
    def pass_bytes(self) -> int:
        """Of one bfloat16 number for every pair of positions in every head: the unit that attention is counted in."""
        return 2 * self.rows * self.heads * self.length**2


class Kernel(NamedTuple):
    """What one launch of the compiled program does."""

    name: str
    source: str  # the operation of the model that it came from
    target: str  # the library's function; empty for XLA's own code
    bytes: int  # read and written
    flops: float  # of matrix products
    operands: str  # their type: bf16, f32; empty without products
    times: int  # in one run of the program


def is_installed() -> bool:
    return importlib.util.find_spec(PLUGIN) is not None


def devices(count: int = 1) -> list:
    """H200s of one machine, for a mesh."""
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # of a driver that is not there
    return topologies.get_topology_desc("h200", "cuda", topology=f"1x{count}x1", target_config=H200).devices


def lower_step(config: Config, length: int, count: int = 1) -> jax.stages.Lowered:
    """The training step that train.py runs on so many GPUs, rows of `length`."""
    known = Lexicon(top_id=5, size=config.model.vocab_size, special_ids=(0, 1, 2, 3), mask_id=4)
    run = build_run(config, known, devices(count))
    return run.train_step.lower(run.abstract, shapes.masked_batch(run, length))


def lower_attention(
    name: str, shape: Shape, *, terms: tuple[str, ...] = ("c2p", "p2c"), rate: float = 0.0, dtype=jnp.bfloat16
) -> jax.stages.Lowered:
    """Output and all gradients of one layer's attention."""
    rows, length, heads = shape
    row_of = row_of_distance(np.arange(-length, length), *SPAN, clamp=True)

    def solved(arrays, document_bk, seed_bhq, do_bqhd):
        def output(arrays):
            tables = [table if term in terms else None for term, table in zip(("c2p", "p2c"), arrays[3:], strict=True)]
            seed = seed_bhq if rate else None
            return ATTEND[name](Problem(*arrays[:3], *tables, row_of, terms, document_bk, seed, rate))

        found, pull = jax.vjp(output, arrays)
        return found, pull(do_bqhd)

    alone = NamedSharding(Mesh(np.array(devices()), ("x",)), PartitionSpec())

    def array(*dims: int, dtype=dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=alone)

    tokens, table = array(rows, length, heads, HEAD_SIZE), array(2 * SPAN[0], heads, HEAD_SIZE)
    numbers = array(rows, length, dtype=jnp.int32), array(rows, heads, length, dtype=jnp.int32)
    return jax.jit(solved).lower((tokens, tokens, tokens, table, table), *numbers, tokens)


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    return lowered.compile(compiler_options=OPTIONS)


def kernels(text: str) -> list[Kernel]:
    """All launches of a compiled program."""
    program, found = hlo.parse(text), []
    for computation, times in hlo.executions(program)[0]:
        lines = program.computations[computation]
        found += [kernel for line in lines.values() if (kernel := _kernel(program, lines, line, times))]
    return found


def _kernel(program: Program, lines: dict[str, Instruction], line: Instruction, times: int) -> Kernel | None:
    if line.opcode in work.FREE:
        return None
    target, source = _TARGET.search(line.attributes), _SOURCE.search(line.attributes)
    name, moved, flops, operands = target[1] if target else "", work.traffic(program, lines, line), 0.0, ""
    if name == _CUBLAS:
        moved -= sum(array.bytes for array in line.arrays[1:])  # room to work in
        flops, operands = _product(lines, line), lines[line.operands[0]].arrays[0].dtype
    elif name.startswith(_CUDNN):
        flops, operands = _attention(lines, line), line.arrays[0].dtype
    return Kernel(line.name, source[1] if source else "", name, moved, flops, operands, times)


def _product(lines: dict[str, Instruction], line: Instruction) -> float:
    """FLOPs of a call of cuBLAS."""
    left = lines[line.operands[0]].arrays[0].dims
    settings = json.loads(re.search(r"backend_config=(\{.*\})", line.attributes)[1])["gemm_backend_config"]
    summed = settings["dot_dimension_numbers"]["lhs_contracting_dimensions"]
    return 2.0 * math.prod(line.arrays[0].dims) * math.prod(left[int(axis)] for axis in summed)


def _attention(lines: dict[str, Instruction], line: Instruction) -> float:
    """FLOPs of a call of cuDNN: two products of all pairs of positions forward, five backward."""
    rows, heads, length, size = line.arrays[0].dims
    return 2.0 * (5 if "Backward" in line.attributes else 2) * rows * heads * length**2 * size
