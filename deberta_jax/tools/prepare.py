"""Turns text into packed rows of tokens that training reads.

python -m deberta_jax.tools.prepare --input='text/*.txt' --tokenizer=tokenizer --length=128 --output=prepared

--input is a glob of .txt, .jsonl (both also .gz, .zst) or .parquet files, tfds:NAME[/CONFIG]:SPLIT:FIELD, or builtin
(the documentation strings of the Python standard library). Run again after a kill, it goes on where it was.
"""

import argparse
import math
import os
import sys

from deberta_jax import errors
from deberta_jax.data.prepare import Job, Prepared, prepare
from deberta_jax.flags import Arguments, local_path, whole_number


def main(argv: list[str]) -> None:
    """Prepares what the flags in `argv` say and prints one line of totals."""
    args = _parser().parse_args(argv)
    shard, shards = args.shard
    job = Job(
        source=args.input,
        field=args.field,
        one_per_line=args.one_per_line,
        tokenizer=args.tokenizer,
        length=args.length,
        holdout=args.holdout,
        shard=shard,
        shards=shards,
        unit_chars=args.unit_mb,
        processes=args.processes,
        output=args.output,
    )
    print(_summary(prepare(job)))


def _parser() -> Arguments:
    parser = Arguments(prog="python -m deberta_jax.tools.prepare", description=__doc__)
    parser.add_argument("--input", required=True, help="glob, tfds:NAME[/CONFIG]:SPLIT:FIELD, or builtin")
    parser.add_argument("--field", default="text", help="of JSON lines, Parquet and tfds that holds the text")
    parser.add_argument(
        "--one_per_line", action="store_true", help="a document is a line, not a block between blank ones"
    )
    parser.add_argument("--tokenizer", required=True, type=local_path, help="directory of one, or a .model file")
    parser.add_argument("--length", required=True, type=whole_number, help="tokens in a row")
    parser.add_argument("--holdout", default="0.5%", type=share, help="share of the documents kept for evaluation")
    parser.add_argument("--shard", default="0/1", type=part, help="i/n: this machine does part i of n")
    parser.add_argument("--processes", default=os.cpu_count(), type=whole_number, help="the result is the same for any")
    parser.add_argument("--unit_mb", default="16", type=millions, help="million characters of text in a shard")
    parser.add_argument("--output", required=True, type=local_path)
    return parser


def share(text: str) -> float:
    """0.5% or 0.005 as a number."""
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def millions(text: str) -> int:
    """16 as 16000000."""
    value = float(text) * 1e6
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expects a finite number, got {text!r}")
    return round(value)


def part(text: str) -> tuple[int, int]:
    """i/n as two numbers."""
    index, count = text.split("/")
    return int(index), int(count)


def _summary(prepared: Prepared) -> str:
    counts = [
        f"{split.rows:,} rows, {split.tokens:,} tokens, {split.documents:,} documents in {name}"
        for name, split in prepared.manifest.splits.items()
    ]
    megabytes, seconds = prepared.megabytes, prepared.seconds
    speed = f"{megabytes:,.1f} MB in {seconds:,.1f} s, {megabytes / seconds:,.1f} MB/s"
    return "; ".join([f"{prepared.manifest.path}: {counts[0]}", *counts[1:], speed])


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
