"""Training throughput of whole steps, side by side in one run: this code, plain attention in it, and transformers.

python -m benchmarks.train_step [--size=v3_base] [--layers=4] [--shapes=8x128,2x512] [--dtype=float32] [--compare]
    [--torch_compile] [--attention_dropout=0.1] [--set=KEY=VALUE] [--rounds=9] [--json=FILE]

A step is forward, backward, clipping and AdamW on one random batch with the same masked positions (15 %). `ours` is
the step that train.py runs, decoder and all; `plain` the same with plain attention; `stock` transformers'
DebertaV2ForMaskedLM, whose head sees every position and which has no decoder; `masked` that with its head on the masked
positions only; `stock, compiled` and `masked, compiled` those through torch.compile. transformers get torch's fused
AdamW. All take turns, round by round: `times ours` is the median over rounds of how many times longer a step took. MFU
and GFLOP/s count the model's own products (train/flops.py). `held GB` is state, batch and temporary arrays of our
compiled program; of transformers what torch has taken at most on a GPU, its other models included, and nothing on CPUs.
Peers need requirements-torch.txt.
"""

import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import report, torch_peer
from benchmarks.timing import Step, alternating, ratio
from configs import base
from deberta_jax import config as configs
from deberta_jax import errors
from deberta_jax.data.masking import predictions_per_row
from deberta_jax.flags import Arguments
from deberta_jax.objectives import Lexicon
from deberta_jax.train.build import Run, build_run
from deberta_jax.train.flops import PEAK_FLOPS, flops_per_row

VOCABULARY = 32_000
SPECIALS = 5  # [PAD], [CLS], [SEP], [UNK], [MASK]


class Shape(NamedTuple):
    rows: int
    length: int


def main(argv: list[str]) -> None:
    args = parse(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peers need memory of the same GPU
    rows = [row for shape in args.shapes for row in measured(args, shape)]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)


def parse(argv: list[str]):
    parser = Arguments(prog="python -m benchmarks.train_step", description=__doc__)
    parser.add_argument("--size", default="v3_base", help="of configs/sizes.py")
    parser.add_argument("--layers", default=0, type=int, help="0 = as many as the size has")
    parser.add_argument("--vocabulary", default=VOCABULARY, type=int)
    parser.add_argument("--shapes", default=(Shape(8, 128), Shape(2, 512)), type=shapes, help="ROWSxLENGTH,...")
    parser.add_argument("--dtype", default="float32", choices=configs.DTYPES)
    parser.add_argument("--attention_dropout", default=0.1, type=float)
    parser.add_argument(
        "--set", default=[], action="append", type=setting, help="model.KEY=VALUE of ours, as KEY=VALUE"
    )
    parser.add_argument("--compare", action="store_true", help="with transformers beside")
    parser.add_argument("--torch_compile", action="store_true", help="with torch.compile of both beside")
    parser.add_argument("--rounds", default=9, type=int)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(argv)


def shapes(text: str) -> tuple[Shape, ...]:
    """((8, 128), (2, 512)) of "8x128,2x512"."""
    return tuple(Shape(*map(int, each.split("x"))) for each in text.split(","))


def setting(text: str) -> tuple[str, Any]:
    """("attention", "xla") of "attention=xla"; true and false are booleans."""
    key, _, value = text.partition("=")
    return key, {"true": True, "false": False}.get(value, value)


def measured(args, shape: Shape) -> Iterator[dict[str, Any]]:
    """A row for each competitor at this shape."""
    batch = random_batch(shape, args.vocabulary)
    runs = {"ours": run_of(args, shape), "plain": run_of(args, shape, pos_att_type=())}
    steps: dict[str, Step] = {name: step_of(run, batch) for name, run in runs.items()}
    if args.compare:
        steps |= torch_peer.steps(runs["ours"].config.model, batch, compiled=args.torch_compile)
    seconds = alternating(steps, rounds=args.rounds)
    for name, times in seconds.items():
        row = {
            "size": args.size,
            "layers": runs["ours"].config.model.num_layers,
            "rows": shape.rows,
            "length": shape.length,
            "dtype": args.dtype,
            "step of": name,
            "tokens/s": shape.rows * shape.length / statistics.median(times),
            "times ours": ratio(times, seconds["ours"]),
            "quartiles ms": "-".join(f"{1000 * q:.0f}" for q in np.quantile(times, (0.25, 0.75))),
        }
        if name in runs:
            row |= of_the_model(runs[name], shape, batch, statistics.median(times))
        else:
            row |= torch_peer.peak_of(steps[name])
        yield row


def of_the_model(run: Run, shape: Shape, batch: dict[str, np.ndarray], seconds: float) -> dict[str, float]:
    """GFLOP/s of the model's own products, MFU where the device's peak is known, memory of the compiled step."""
    slots = predictions_per_row(shape.length, run.config.data.mask.rate)
    flops = shape.rows * flops_per_row(run.config, shape.length, slots, shape.rows) / seconds
    found = {"GFLOP/s": flops / 1e9}
    device = jax.devices()[0]
    if device.device_kind in PEAK_FLOPS:
        found["MFU"] = flops / PEAK_FLOPS[device.device_kind]
    memory = run.train_step.lower(run.abstract, run.place(batch)).compile().memory_analysis()
    return found | {"held GB": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9}


def run_of(args, shape: Shape, **model: Any) -> Run:
    c = base.get_config(args.size)
    c.model.update(vocab_size=args.vocabulary, dtype=args.dtype, attention_dropout=args.attention_dropout)
    c.model.update(dict(args.set) | model)
    if args.layers:
        c.model.num_layers = args.layers
    c.batch_size = c.eval.batch_size = shape.rows
    known = Lexicon(top_id=SPECIALS, size=args.vocabulary, special_ids=tuple(range(SPECIALS)), mask_id=SPECIALS - 1)
    return build_run(configs.build(c), known)


def step_of(run: Run, batch: dict[str, np.ndarray]) -> Step:
    """One training step after the other, each waited for."""
    state, placed = [run.fresh()], run.place(batch)

    def step() -> None:
        state[0], sums = run.train_step(state[0], placed)
        jax.block_until_ready(sums)

    return step


def random_batch(shape: Shape, vocabulary: int) -> dict[str, np.ndarray]:
    """Rows of one document each, without padding; the masked positions all hold [MASK]."""
    rng = np.random.default_rng(0)
    ids_bl = rng.integers(SPECIALS, vocabulary, shape).astype(np.int32)
    slots = predictions_per_row(shape.length, 0.15)
    position_bp = np.sort(np.stack([rng.permutation(shape.length)[:slots] for _ in range(shape.rows)]), axis=1)
    labels_bp = np.take_along_axis(ids_bl, position_bp, axis=1)
    np.put_along_axis(ids_bl, position_bp, SPECIALS - 1, axis=1)
    row_b = np.arange(shape.rows, dtype=np.int32)
    return {
        "input_ids": ids_bl,
        "documents": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(shape.length, dtype=np.int32), (shape.rows, 1)),
        "masked_positions": position_bp.astype(np.int32),
        "labels": labels_bp,
        "weights": np.ones(position_bp.shape, np.float32),
        "rows": row_b,
        "examples": row_b,
    }


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
