"""What devices send one another in a training step, read from the compiled program."""

import dataclasses
import re

import numpy as np
import pytest

from builders import COMPILE_FAST, LEXICON, tiny_config, tiny_pair_config
from configs import meshes
from deberta_jax.train import shapes
from deberta_jax.train.build import build_run

ROWS, LENGTH, WIDTH, VOCABULARY = 16, 40, 32, 1024
MOVES = ("all-gather", "all-to-all", "collective-permute")
KINDS = {"fsdp": ((2, 4, 1), meshes.fsdp), "fsdp_tp": ((2, 2, 2), meshes.fsdp_tp)}


def run_of(objective: str, rules: str):
    model = {"vocab_size": VOCABULARY, "num_layers": 1, "decoder": "none"}
    pair = tiny_pair_config(model=model, generator={"num_layers": 1, "decoder": "none"})
    config = tiny_config(**model) if objective == "mlm" else pair
    sizes, table = KINDS[rules]
    mesh = tuple(zip(("data", "fsdp", "tensor"), sizes, strict=True))
    return build_run(
        dataclasses.replace(config, mesh=mesh, rules=table, batch_size=ROWS), LEXICON._replace(size=VOCABULARY)
    )


def moved(hlo: str) -> list[tuple[str, tuple[int, ...]]]:
    """(kind, shape) of each array that a device gets by a collective operation that does not add."""
    found = []
    for line in re.sub(r"/\*.*?\*/", "", hlo).splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(MOVES)})(-start)?\(", line)
        if match:
            found += [(match[2], tuple(map(int, dims.split(",")))) for dims in re.findall(r"\w+\[([\d,]+)\]", match[1])]
    return found


@pytest.mark.parametrize(("objective", "rules"), [("mlm", "fsdp"), ("rtd", "fsdp_tp")])
def test_no_more_is_moved_than_a_device_computes_with(objective, rules, capfd):
    run = run_of(objective, rules)
    lowered = run.train_step.lower(run.abstract, shapes.masked_batch(run, LENGTH))
    hlo = lowered.compile(compiler_options=COMPILE_FAST).as_text()
    # The partitioner warns where it gathers an array whole because it knows no way from one placement to another.
    assert "rematerialization" not in capfd.readouterr().err
    (_, _, tensor), _ = KINDS[rules]
    word_table = (VOCABULARY // tensor, WIDTH)
    activation = ROWS * LENGTH * WIDTH * tensor // run.mesh.size  # of a device's own rows
    sizes = moved(hlo)
    assert {"all-gather", "all-to-all"} <= {kind for kind, _ in sizes}
    large = [shape for _, shape in sizes if np.prod(shape) > activation]
    assert large == [word_table]  # for the logits, once; neither logits nor vectors of the whole batch
    assert np.prod(word_table) > activation < ROWS * LENGTH * WIDTH
