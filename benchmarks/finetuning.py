"""What pretraining is worth: fine-tuning from a pretrained workdir against the same architecture from random weights.

    python -m benchmarks.finetuning --init=runs/laptop --data=DATA --size=mini --workdir=runs/finetuning \
        [--tasks=mrpc,cola] [--seeds=3] [--json=FILE] [--config.KEY=VALUE ...]

DATA holds glue/ and squad/ as published. MRPC, CoLA, RTE and STS-B are used whole; of SST-2, QNLI and SQuAD 1.1 4,000
training examples, drawn by the seed, for two epochs. Rows have at most 128 tokens, of SQuAD 256. Both starts have the
same settings, order of examples and, as far as they have any, the same random bits. MRPC is also trained in float32
from the pretrained weights, with SiFT and without, for one epoch. Each run leaves a result.json: an interrupted study
goes on by the same command.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deberta_jax import errors, flags
from deberta_jax.errors import Failed, Refused
from deberta_jax.reports.bars import plot_bars
from deberta_jax.tools.suite import Job, Outcome, require_start, run_jobs, start_of

CAPPED = ("--config.data.max_train=4000", "--config.epochs=2")
SHORT = ("--config.data.max_length=128", "--config.data.buckets=(16,32,48,64,80,96,128)")  # padding costs most on CPUs
TASKS = {  # folder below DATA, flags, the metrics that are shown
    "mrpc": ("glue/MRPC", SHORT, ("accuracy", "f1")),
    "cola": ("glue/CoLA", (), ("matthews",)),
    "rte": ("glue/RTE", SHORT, ("accuracy",)),
    "sts-b": ("glue/STS-B", SHORT, ("pearson", "spearman")),
    "sst-2": ("glue/SST-2", (*CAPPED, *SHORT), ("accuracy",)),
    "qnli": ("glue/QNLI", (*CAPPED, *SHORT), ("accuracy",)),
    "squad": (
        "squad",
        (*CAPPED, "--config.data.max_length=256", "--config.data.buckets=(128,160,192,224,256)"),
        ("exact", "f1"),
    ),
}
SIFT_SETTINGS = (  # three lengths to compile, one epoch: a step of SiFT costs three
    "--config.data.max_length=128",
    "--config.data.buckets=(64,96,128)",
    "--config.epochs=1",
    "--config.model.dtype=float32",
)
PRETRAINED, RANDOM, FLOAT32, SIFT = "pretrained", "random", "float32", "sift"


def main(argv: list[str]) -> None:
    """Runs the study and prints its table."""
    split = flags.split_config_flags(argv)
    if split.source:
        raise Refused("--config names no file here: configs/finetune.py is used; single keys may be given")
    args = _parser().parse_args(split.rest)
    tasks = tuple(TASKS) if args.tasks == "all" else tuple(args.tasks.split(","))
    for task in tasks:
        if task not in TASKS:
            raise Refused(f"--tasks: no task {task!r}{errors.nearest(task, TASKS)}; there are {', '.join(TASKS)}")
    given = tuple(f"--config.{key}={value}" for key, value in split.assignments)
    jobs = [job for seed in range(args.seeds) for task in tasks for job in jobs_of(args, task, seed, given)]
    start = start_of(args.init)
    require_start(start, args.workdir)
    outcomes = run_jobs(sorted(jobs, key=is_long), args.workdir)
    series = scores_by_start(outcomes)
    print(table(series))
    if args.json:
        runs = [{"name": outcome.job.name} | (outcome.result or {"error": outcome.error}) for outcome in outcomes]
        args.json.write_text(json.dumps({"command": argv, "start": start, "runs": runs}, indent=1) + "\n")
    plot_bars(series, args.workdir / "scores.png", title=f"{args.size}: fine-tuned from pretrained and random weights")
    if failed := [outcome.job.name for outcome in outcomes if outcome.error]:
        raise Failed(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}")


def _parser() -> flags.Arguments:
    parser = flags.Arguments(prog="python -m benchmarks.finetuning", description=__doc__)
    parser.add_argument("--init", required=True, type=Path, help="workdir of pretraining")
    parser.add_argument("--data", required=True, type=Path, help="folder with glue/ and squad/")
    parser.add_argument("--size", required=True, help="of configs/sizes.py: that of --init")
    parser.add_argument("--tasks", default="all", help=f"comma-separated, of {', '.join(TASKS)}")
    parser.add_argument("--seeds", default=3, type=flags.whole_number, help="runs of each")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--json", type=Path, help="all results in one file")
    return parser


def jobs_of(args, task: str, seed: int, given: Sequence[str]) -> list[Job]:
    """The runs of a task with a seed: both starts, and those for SiFT of MRPC."""
    folder, settings, _ = TASKS[task]
    common = (f"--config.data.dir={args.data / folder}", f"--config.seed={seed}")
    source = f"--config=configs/finetune.py:{task},{args.size}"
    started = {
        PRETRAINED: (source, *common, *settings, *given, f"--config.init_from={args.init}"),
        RANDOM: (source, *common, *settings, *given, f"--config.data.tokenizer={args.init / 'tokenizer'}"),
    }
    if task == "mrpc":
        of_sift = (*common, *SIFT_SETTINGS, *given, f"--config.init_from={args.init}")
        started |= {FLOAT32: (source, *of_sift), SIFT: (f"{source},sift", *of_sift)}
    return [Job(f"{task}/{start}-{seed}", words) for start, words in started.items()]


def is_long(job: Job) -> bool:
    """Whether a run belongs to the end of a study."""
    return job.name.startswith("squad") or f"/{SIFT}-" in job.name or f"/{FLOAT32}-" in job.name


def scores_by_start(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[float]]]:
    """{start: {"TASK METRIC": scores of the best checkpoints}} of the runs that ended well."""
    series: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        if outcome.result is None:
            continue
        task, _, start = outcome.job.name.rpartition("-")[0].partition("/")
        (scores,) = outcome.result["scores"].values()
        for metric in TASKS[task][2]:
            series.setdefault(start, {}).setdefault(f"{task} {metric}", []).append(scores[metric])
    return series


def table(series: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Mean and standard deviation over the seeds in points, a row a task and metric."""
    starts = [start for start in (PRETRAINED, RANDOM, FLOAT32, SIFT) if start in series]
    lines = ["| task | " + " | ".join(starts) + " |", "|---" * (len(starts) + 1) + "|"]
    for name in dict.fromkeys(name for start in starts for name in series[start]):
        cells = [_cell(series[start].get(name)) for start in starts]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(scores: Sequence[float] | None) -> str:
    if not scores:
        return ""
    spread = f" ± {100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{100 * np.mean(scores):.1f}{spread} ({len(scores)})"


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
