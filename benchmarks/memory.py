"""Whether a long run grows: memory and threads of a small one, early and late, on a small corpus and a large one.

python -m benchmarks.memory [--steps=2000] [--evaluations=100] [--megabytes=0.4] [--times=100] [--json=FILE]

Runs train.py twice, each time on the same text (documentation strings of the standard library), once repeated to
`megabytes` and once to `times` as many. The system is asked for the resident memory and the number of threads of the
process, after each line that it logs. Fails where, from a tenth of the steps to the last, the memory grows by more than
50 MB or threads are left over, or where the larger corpus takes more than 200 MB more.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.input import write_parts
from deberta_jax import errors
from deberta_jax.data.documents import read_documents
from deberta_jax.flags import Arguments, whole_number
from deberta_jax.tools import train_tokenizer

GROWTH, LARGER = 50, 200  # MB that are allowed
MODEL = ("num_layers=2", "hidden_size=32", "num_heads=2", "intermediate_size=64", "position_buckets=8")


class Sample(NamedTuple):
    """A process at some time."""

    step: int
    evaluations: int
    megabytes: float  # resident
    threads: int


def main(argv: list[str]) -> None:
    parser = Arguments(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--steps", default=2000, type=whole_number)
    parser.add_argument("--evaluations", default=100, type=whole_number)
    parser.add_argument("--megabytes", default=0.4, type=float, help="of text in the small corpus")
    parser.add_argument("--times", default=100, type=whole_number, help="as much text in the large one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    every = args.steps // args.evaluations
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_tokenizer.main(["--input=builtin", "--vocab_size=1000", f"--output={folder / 'tokenizer'}"])
        samples = {
            times: sampled(training(prepared(folder, args.megabytes * times), args.steps, every), folder)
            for times in (1, args.times)
        }
    rows = [row(times, early_and_late(of_run, args.steps)) for times, of_run in samples.items()]
    print(report.table(rows))
    if args.json:
        report.write(args.json, rows)
    check(rows)


def prepared(folder: Path, megabytes: float) -> Path:
    """The standard library's text repeated to so many megabytes, as rows of 32 tokens in `folder`/rows."""
    output = folder / "rows"
    for before in (output, folder / "run"):
        shutil.rmtree(before, ignore_errors=True)
    texts = [document.text for document in read_documents("builtin")]
    (text,) = write_parts(texts, round(megabytes * 1e6), 1, folder)
    flags = [f"--input={text}", f"--tokenizer={folder / 'tokenizer'}", "--length=32", "--holdout=0.5%"]
    command = [sys.executable, "-m", "deberta_jax.tools.prepare", *flags, "--processes=2", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    return output


def training(rows: Path, steps: int, every: int) -> list[str]:
    """The command of a run on `rows`, evaluated every so many steps and saved now and then, in `rows`/../run."""
    values = [*(f"model.{value}" for value in MODEL), f"steps={steps}", "batch_size=8", "log_every=1"]
    values += [f"data.paths=('{rows}',)", f"eval.every={every}", "eval.max_rows=64", "eval.batch_size=16"]
    values += ["optimizer.warmup_steps=2", f"checkpoint.every_steps={5 * every}"]
    flags = [f"--config.{value}" for value in values]
    return [sys.executable, "train.py", "--config=configs/quickstart.py", *flags, f"--workdir={rows.parent / 'run'}"]


def sampled(command: list[str], folder: Path) -> list[Sample]:
    """Runs `command` and looks at it whenever it has logged something."""
    metrics, samples = folder / "run" / "metrics.jsonl", []
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            samples += [sample] if (sample := look(process.pid, metrics)) else []
            time.sleep(0.1)
    if process.returncode:
        raise errors.Failed(f"train.py: {(folder / 'log').read_text().splitlines()[-1]}")
    return samples


def look(pid: int, metrics: Path) -> Sample | None:
    """The process as it is; None before its first step and after its end."""
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    try:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return None
    if not whole or "VmRSS" not in status:
        return None
    evaluations = sum("eval/loss" in line for line in whole)
    return Sample(whole[-1]["step"], evaluations, int(status["VmRSS"].split()[0]) / 1e3, int(status["Threads"]))


def early_and_late(samples: list[Sample], steps: int) -> tuple[Sample, Sample]:
    """What a run holds after a tenth of the steps, and before the last."""
    return settled(samples, steps // 10, steps // 5), settled(samples, steps - steps // 10, steps)


def settled(samples: list[Sample], first: int, end: int) -> Sample:
    """The first of the samples from step `first` to `end`, with the fewest threads of them all: a save that is being
    written has some of its own."""
    window = [sample for sample in samples if first <= sample.step < end]
    return window[0]._replace(threads=min(sample.threads for sample in window))


def row(times: int, samples: tuple[Sample, Sample]) -> dict[str, Any]:
    """A row of the table."""
    early, late = samples
    return {
        "corpus": times,
        "steps": f"{early.step}, {late.step}",
        "evaluations": f"{early.evaluations}, {late.evaluations}",
        "MB early": early.megabytes,
        "MB late": late.megabytes,
        "threads early": early.threads,
        "threads late": late.threads,
    }


def check(rows: list[dict[str, Any]]) -> None:
    """Raises Failed where a limit is passed."""
    small, large = rows
    for found in rows:
        if found["MB late"] - found["MB early"] > GROWTH:
            raise errors.Failed(f"grew by more than {GROWTH} MB: {found}")
        if found["threads late"] > found["threads early"]:
            raise errors.Failed(f"threads are left over: {found}")
    if large["MB late"] - small["MB late"] > LARGER:
        raise errors.Failed(f"the large corpus takes more than {LARGER} MB more: {rows}")


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
