"""The whole training step through the TPU's compiler, without a TPU: what it gathers and scatters."""

import importlib.util
import math

import numpy as np
import pytest

from benchmarks import ahead_of_time
from configs import base, meshes
from deberta_jax import config

pytestmark = [
    pytest.mark.libtpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs the TPU's compiler: requirements-libtpu.txt"
    ),
]

ROWS, HEADS = 8, 12
VOCABULARY = 1000  # small: the word table is gathered from and scattered to, and must not count as large


def compiled_step(
    chip: str, length: int, attention: str, layers: int = 2, mesh: tuple = (1, 1, 1), rules: tuple = meshes.dp
) -> str:
    """A base model's step in bfloat16, with decoder and dropout, layers scanned."""
    c = base.get_config("v3_base")
    c.model.update(num_layers=layers, vocab_size=VOCABULARY, attention=attention)
    c.batch_size = c.eval.batch_size = ROWS
    c.mesh, c.rules = tuple(zip(("data", "fsdp", "tensor"), mesh, strict=True)), rules
    return ahead_of_time.compiled_text(ahead_of_time.lower_step(chip, config.build(c), length, math.prod(mesh)))


def over_pairs(hlo: str, length: int) -> set[str]:
    """Which of gather and scatter read, write or make as many numbers as there are pairs of positions in all heads."""
    return {
        move.operation
        for move in ahead_of_time.moves(hlo)
        for shape in (move.result, *move.operands)
        if np.prod(shape) >= ROWS * HEADS * length**2
    }


@pytest.mark.parametrize(("chip", "length"), [("v5e", 128), ("v5e", 512), ("v5p", 512), ("v6e", 512)])
def test_it_takes_the_kernel_and_moves_nothing_over_pairs_of_positions(chip, length):
    hlo = compiled_step(chip, length, "auto")
    assert hlo.count('custom_call_target="tpu_custom_call"') == 2  # forward and backward of the scanned layer
    assert over_pairs(hlo, length) == set()


@pytest.mark.parametrize(
    ("mesh", "rules"),
    [((4, 1, 1), meshes.dp), ((1, 4, 1), meshes.fsdp), ((1, 2, 2), meshes.fsdp_tp)],
    ids=["dp", "fsdp", "fsdp_tp"],
)
def test_so_does_each_of_several_chips(mesh, rules):
    hlo = compiled_step("v5e", 128, "auto", mesh=mesh, rules=rules)
    assert hlo.count('custom_call_target="tpu_custom_call"') == 2
    rows = ROWS // (mesh[0] * mesh[1])
    kernels = [line for line in hlo.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    width = 768 // mesh[2]
    assert all(f"bf16[{rows},128,{width}]" in line.partition(" = ")[2] for line in kernels)  # its own part, no more


@pytest.mark.slow
@pytest.mark.parametrize("chip", ahead_of_time.CHIPS)
def test_all_twelve_layers_do_not_either(chip):
    assert over_pairs(compiled_step(chip, 512, "auto", layers=12), 512) == set()


@pytest.mark.parametrize(
    ("attention", "found"),
    [("blockwise", set()), ("xla", {"gather"}), ("reference", {"gather", "scatter"})],
)
def test_other_implementations_do_by_their_nature(attention, found):
    assert over_pairs(compiled_step("v5e", 128, attention), 128) == found
