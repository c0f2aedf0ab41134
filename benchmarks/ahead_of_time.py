"""Compiling for TPUs that are not there: the compiler alone (requirements-libtpu.txt), on any machine.

lowered = lower_for("v5e", function, *shapes)
lowered = lower_step("v5e", config, 512)  # the step of train.py
moves(compiled_text(lowered))             # its gathers and scatters
lowered.compile().memory_analysis()
with tempfile.TemporaryDirectory() as folder:
    schedules(folder, compile_for, "v5e", function, ...)  # cycles of its kernels, by name
"""

import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deberta_jax.config import Config
from deberta_jax.objectives import Lexicon
from deberta_jax.plan import compiler
from deberta_jax.train import shapes
from deberta_jax.train.build import build_run

CHIPS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}  # the smallest topology with each
GIGAHERTZ = {"v5e": 1.5, "v5p": 1.75, "v6e": 1.75}

_DEFINITION = re.compile(r"%([\w.-]+) = \w+\[([\d,]*)\]\S* ([\w-]+)\(([^)]*)\)")
_SCHEDULE = "*schedule-analysis_packed-bundles-post-ra.txt"


class Move(NamedTuple):
    """A gather or scatter of compiled code."""

    operation: str
    result: tuple[int, ...]
    operands: list[tuple[int, ...]]


def devices(chip: str) -> list:
    """The devices, for a mesh, of the smallest slice with `chip`."""
    return compiler.devices(CHIPS[chip])


def lower_for(chip: str, function: Callable, *arguments: Any) -> jax.stages.Lowered:
    """`function` lowered for one `chip`; `arguments` are trees of ShapeDtypeStruct."""
    alone = NamedSharding(Mesh(np.array(devices(chip)[:1]), ("x",)), PartitionSpec())
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=alone), arguments)
    return jax.jit(function).lower(*placed)


def compile_for(chip: str, function: Callable, *arguments: Any) -> jax.stages.Compiled:
    """`function` compiled for one `chip`; `arguments` are trees of ShapeDtypeStruct."""
    return lower_for(chip, function, *arguments).compile()


def lower_step(chip: str, config: Config, length: int, count: int = 1) -> jax.stages.Lowered:
    """The training step as train.py runs it on `count` devices of the smallest slice with `chip`, rows of `length`.

    The ids of special tokens are made up; nothing else that the data decide is in a step.
    """
    known = Lexicon(top_id=5, size=config.model.vocab_size, special_ids=(0, 1, 2, 3), mask_id=4)
    run = build_run(config, known, devices(chip)[:count])
    return run.train_step.lower(run.abstract, shapes.masked_batch(run, length))


def compiled_text(lowered: jax.stages.Lowered) -> str:
    """The optimised program, for `moves`, as the compiler dumps it (deberta_jax/plan/compiler.py says why)."""
    with tempfile.TemporaryDirectory() as folder:
        lowered.compile(compiler_options=compiler.options(folder))
        return compiler.dumped(folder, compiler.DUMPS["program"])


def moves(hlo: str) -> Iterator[Move]:
    """The gathers and scatters of a compiled program's text, those inside fusions too."""
    definitions = list(_DEFINITION.findall(hlo))
    shape_of = {name: _shape(dimensions) for name, dimensions, _, _ in definitions}
    for name, _, operation, operands in definitions:
        if operation in ("gather", "scatter"):
            yield Move(operation, shape_of[name], [shape_of[used] for used in re.findall(r"%([\w.-]+)", operands)])


def _shape(dimensions: str) -> tuple[int, ...]:
    return tuple(int(size) for size in dimensions.split(",") if size)


def schedules(folder: str | Path, function: Callable, *arguments: Any) -> dict[str, int]:
    """Cycles of one grid step of each kernel that `function(*arguments)` compiles, by the kernel's name.

    These are the bundles of instructions of the compiler's static schedule: waiting for memory is not in them, a
    loop's body and both sides of a branch are counted once. `function` runs in another process, since the compiler
    reads its settings when it is first used; `folder` must be empty.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_dump, initargs=(str(folder),)) as process:
        process.submit(_call, function, arguments).result()
    return {
        re.sub(r"^\d+-|-\d+-schedule.*", "", path.name): int(re.search(r"bundles: +(\d+)", path.read_text())[1])
        for path in Path(folder).glob(_SCHEDULE)
    }


def _dump(folder: str) -> None:
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"


def _call(function: Callable, arguments: tuple) -> None:
    function(*arguments)  # what it returns may not be able to travel
