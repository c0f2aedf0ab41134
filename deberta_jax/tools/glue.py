"""Fine-tunes a model for every task of GLUE with several seeds, and writes a table of the scores with pictures.

    python -m deberta_jax.tools.glue --init=WORKDIR --data=GLUE --workdir=DIR [--size=v3_base] [--tasks=mrpc,cola]
        [--seeds=5] [--option=sift ...] [--mnli_first] [--config.KEY=VALUE ...]

GLUE holds the folders of the release (CoLA, SST-2, ...). A run is train.py with configs/finetune.py:TASK,SIZE,OPTION in
DIR/TASK/seed-S, starting from WORKDIR, of tools.convert or of a run; with --init= from random weights (name
--config.data.tokenizer then). --config.KEY=VALUE holds for all runs. With --mnli_first RTE, MRPC and STS-B start from
the best MNLI run, as the published numbers do.

The same command goes on where it was stopped: finished runs are skipped, failed ones tried again. DIR gets results.md
(what is printed), results.json, scores.png, and confusion-TASK.png of the best run of each classification task. Exit
codes: 0 when all runs ended well, 1 when some failed, 75 when stopped by a signal.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.config import FinetuneConfig
from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Failed, Refused, nearest
from deberta_jax.reports.bars import plot_bars
from deberta_jax.reports.confusion import plot_confusion
from deberta_jax.reports.suite_table import Row, Run, average, best, environment_lines, report, summary
from deberta_jax.tasks import registry
from deberta_jax.tasks.registry import task_named
from deberta_jax.tools.suite import RESULT, Job, Outcome, require_root, require_start, run_jobs, start_of

CONFIG = "configs/finetune.py"
MNLI = "mnli"
MNLI_START = "mnli_start.txt"  # in DIR: which MNLI run the others start from
OWN_FLAGS = {"seed": "--seeds", "init_from": "--init", "data.dir": "--data", "data.task": "--tasks"}
OTHER_MODEL_KEYS = ("decoder", "max_position_embeddings", "vocab_size")  # may differ between --init and a run


class Benchmark(NamedTuple):
    """Tasks that are reported together."""

    name: str
    module: str  # the command
    tasks: tuple[str, ...]
    from_mnli: tuple[str, ...]  # those that start from MNLI with --mnli_first; () = there is no such flag


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the flags ask for."""

    benchmark: Benchmark
    tasks: tuple[str, ...]
    seeds: int
    size: str
    options: tuple[str, ...]
    init: str  # a workdir; "" = random weights
    data: Path
    workdir: Path
    mnli_first: bool
    given: tuple[str, ...]  # --config.KEY=VALUE of all runs


GLUE = Benchmark("GLUE", "deberta_jax.tools.glue", registry.GLUE, ("mrpc", "sts-b", "rte"))


def main(argv: list[str]) -> None:
    """Runs GLUE as the flags in `argv` say."""
    run_benchmark(GLUE, argv, __doc__)


def run_benchmark(benchmark: Benchmark, argv: list[str], description: str) -> None:
    """Trains what is not trained yet, and writes and prints the report.

    Raises Refused before anything is run where the flags do not fit, and Failed at the end where runs failed.
    """
    plan = plan_of(benchmark, argv, description)
    require_root()
    start = initialisation(plan, checked_config(plan))
    require_start(start, plan.workdir)
    outcomes = run_plan(plan)
    print(write_report(plan, start, outcomes, shlex.join(["python", "-m", benchmark.module, *argv])), end="")
    if failed := [outcome.job.name for outcome in outcomes if outcome.result is None]:
        raise Failed(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}")


def plan_of(benchmark: Benchmark, argv: list[str], description: str) -> Plan:
    """The plan of a command line. Raises Refused for flags that make none."""
    split = flags.split_config_flags(argv)
    if split.source is not None:
        raise Refused(f"--config names no file here: {CONFIG} is used; single keys may be given")
    for key, _ in split.assignments:
        if key in OWN_FLAGS:
            raise Refused(f"--config.{key} differs between the runs: give {OWN_FLAGS[key]}")
    args = _parser(benchmark, description).parse_args(split.rest)
    if args.seeds < 1:
        raise Refused(f"--seeds must be at least 1, got {args.seeds}")
    tasks = tasks_named(args.tasks, benchmark)
    if args.mnli_first and MNLI not in tasks:
        raise Refused(f"--mnli_first needs {MNLI} among --tasks, which are {', '.join(tasks)}")
    given = tuple(f"--config.{key}={text}" for key, text in split.assignments)
    paths = {"init": args.init, "data": args.data, "workdir": args.workdir}
    return Plan(
        benchmark, tasks, args.seeds, args.size, tuple(args.option), **paths, mnli_first=args.mnli_first, given=given
    )


def tasks_named(text: str, benchmark: Benchmark) -> tuple[str, ...]:
    """Those of "all" or "mrpc,cola", in the benchmark's order. Raises Refused, with the nearest, for an unknown one."""
    named = benchmark.tasks if text == "all" else text.split(",")
    for task in named:
        if task not in benchmark.tasks:
            known = ", ".join(benchmark.tasks)
            raise Refused(
                f"--tasks: {benchmark.name} has no task {task!r}{nearest(task, benchmark.tasks)}; it has {known}"
            )
    return tuple(task for task in benchmark.tasks if task in named)


def _parser(benchmark: Benchmark, description: str) -> flags.Arguments:
    parser = flags.Arguments(prog=f"python -m {benchmark.module}", description=description)
    parser.add_argument("--init", required=True, help="workdir to start from; empty: random weights")
    parser.add_argument("--data", required=True, type=flags.local_path, help="folder with the tasks' folders")
    parser.add_argument("--workdir", required=True, type=flags.local_path, help="where all runs and the report go")
    parser.add_argument("--size", default="v3_base", help="of configs/sizes.py: that of --init")
    parser.add_argument("--tasks", default="all", help=f"comma-separated, of {', '.join(benchmark.tasks)}")
    parser.add_argument("--seeds", default=5, type=flags.whole_number, help="runs of each task")
    parser.add_argument("--option", action="append", default=[], help=f"of {CONFIG}, as sift or fsdp; may be repeated")
    parser.set_defaults(mnli_first=False)
    if benchmark.from_mnli:
        named = ", ".join(benchmark.from_mnli)
        parser.add_argument("--mnli_first", action="store_true", help=f"start {named} from the best {MNLI} run")
    return parser


def job_of(plan: Plan, task: str, seed: int, start: str) -> Job:
    """The run of a task with a seed, from the workdir `start`."""
    begun = (f"--config.init_from={start}",) if start else ()
    return Job(
        f"{task}/seed-{seed}",
        (
            f"--config={CONFIG}:{','.join((task, plan.size, *plan.options))}",
            f"--config.data.dir={folder_of(plan, task)}",
            f"--config.seed={seed}",
            *begun,
            *plan.given,
        ),
    )


def folder_of(plan: Plan, task: str) -> Path:
    """Where the task's files are."""
    return plan.data / task_named(task).folder


def checked_config(plan: Plan) -> FinetuneConfig:
    """The config of the first run. Raises Refused where that of any task cannot be, or its folder is not there."""
    found = []
    for task in plan.tasks:
        folder = folder_of(plan, task)
        if not folder.is_dir():
            raise Refused(f"--data: there is no folder {folder} for task {task!r}{_meant(folder)}")
        found.append(configs.build(flags.load_config(list(job_of(plan, task, 0, plan.init).flags)).config))
    return found[0]


def _meant(path: Path) -> str:
    """A question for the nearest name beside a path that is not there."""
    return nearest(path.name, [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else [])


def initialisation(plan: Plan, config: FinetuneConfig) -> dict[str, Any]:
    """What the runs start from: {"path", "step", "digest", "head", "objective"}, or {"path": "", "tokenizer"}.

    Raises Refused where there is no checkpoint, or it is of another model than `config`, or nothing names a tokenizer.
    """
    tokenizer = config.data.tokenizer
    if not plan.init:
        if not tokenizer:
            raise Refused("--init is empty, so nothing names a tokenizer: give --config.data.tokenizer=DIR")
        return {"path": "", "tokenizer": tokenizer}
    errors.refuse_remote("--init", plan.init)
    path = Path(plan.init)
    if not path.is_dir():
        raise Refused(f"--init: there is no workdir {path}{_meant(path)}")
    import jax

    from deberta_jax.train import checkpoint, session

    jax.config.update("jax_platforms", "cpu")  # accelerators are for the runs, which are other processes
    try:
        start = start_of(path)
        directory, step = session.trained_checkpoint(path)
        meta = checkpoint.read_meta(directory, step)
        where = directory / str(step)
        session.check_same_model("model", config.model, meta["config"]["model"], where, but=OTHER_MODEL_KEYS)
    except Refused as error:
        raise Refused(f"--init: {error}") from error
    if not tokenizer and not (path / session.TOKENIZER).is_dir():
        raise Refused(f"--init: {path} has no tokenizer: give --config.data.tokenizer=DIR")
    objective = meta["config"]["objective"]
    # A pretraining run's own checkpoint names no head: it has its objective's.
    return start | {"head": meta.get("head", objective), "objective": objective}


def run_plan(plan: Plan) -> list[Outcome]:
    """Runs everything; what starts from MNLI at the end, and not at all where no MNLI run ended well."""
    late = [task for task in plan.tasks if plan.mnli_first and task in plan.benchmark.from_mnli]
    early = [task for task in plan.tasks if task not in late]
    jobs = [job_of(plan, task, seed, plan.init) for seed in range(plan.seeds) for task in early]
    outcomes = run_jobs(jobs, plan.workdir)
    if late:
        start = mnli_start(outcomes, plan.workdir)
        jobs = [job_of(plan, task, seed, start) for seed in range(plan.seeds) for task in late]
        without = [Outcome(job, None, f"there is no {MNLI} run to start from") for job in jobs]
        outcomes += run_jobs(jobs, plan.workdir) if start else without
    return outcomes


def mnli_start(outcomes: Sequence[Outcome], workdir: Path) -> str:
    """The workdir of the MNLI run that others start from: the best by its validation score; "" without any.

    The choice is noted and stays, whatever runs are added: all runs of the others must start alike.
    """
    if not noted_start(workdir):
        ended = [outcome for outcome in outcomes if task_and_seed(outcome)[0] == MNLI and outcome.result]
        if not ended:
            return ""
        best_run = max(ended, key=lambda outcome: outcome.result["score"])
        write_text(workdir / MNLI_START, best_run.job.name + "\n")
    place = workdir / noted_start(workdir)
    return str(place) if (place / RESULT).is_file() else ""


def noted_start(workdir: Path) -> str:
    """The name of the MNLI run that was chosen; "" while none is."""
    note = workdir / MNLI_START
    return note.read_text().strip() if note.is_file() else ""


def task_and_seed(outcome: Outcome) -> tuple[str, int]:
    """Of "mrpc/seed-3"."""
    task, _, seed = outcome.job.name.partition("/seed-")
    return task, int(seed)


def row_of(task: str, outcomes: Sequence[Outcome]) -> Row:
    """The table's row of a task from the outcomes of all tasks."""
    results = {seed: outcome.result for outcome in outcomes for name, seed in [task_and_seed(outcome)] if name == task}
    ended = {seed: results[seed] for seed in sorted(results) if results[seed] is not None}
    failed = tuple(seed for seed in sorted(results) if seed not in ended)
    splits = tuple(next(iter(ended.values()))["scores"]) if ended else task_named(task).validation
    shown = [(split, metric) for split in splits for metric in task_named(task).selection]
    names = [metric if len(splits) == 1 else f"{metric} {split.removeprefix('validation_')}" for split, metric in shown]
    runs = [
        Run(seed, result["score"], tuple(result["scores"][split][metric] for split, metric in shown))
        for seed, result in ended.items()
    ]
    return Row(task, tuple(names), tuple(runs), failed)


def write_report(plan: Plan, start: dict[str, Any], outcomes: Sequence[Outcome], command: str) -> str:
    """Writes results.json, the pictures and results.md, whose text is returned."""
    rows = [row_of(task, outcomes) for task in plan.tasks]
    found = {row.task: _config_of(plan, row) for row in rows}
    mean = average(rows) if plan.tasks == plan.benchmark.tasks else None
    values = {
        "benchmark": plan.benchmark.name,
        "command": command,
        "initialisation": start | ({"mnli_first": noted_start(plan.workdir)} if plan.mnli_first else {}),
        "average": mean,
        "tasks": {row.task: summary(row) | {"config": found[row.task]} for row in rows},
        "runs": [{"name": outcome.job.name} | (outcome.result or {"error": outcome.error}) for outcome in outcomes],
    }
    text = report(
        _title(plan),
        rows,
        found,
        mean=mean,
        failures={outcome.job.name: outcome.error for outcome in outcomes if outcome.result is None},
        notes=[_start_said(plan, start), *_ran_on(outcomes), f"Command: `{command}`"],
    )
    plan.workdir.mkdir(parents=True, exist_ok=True)
    write_text(plan.workdir / "results.json", json.dumps(values, indent=1) + "\n")
    write_text(plan.workdir / "results.md", text)
    draw_pictures(plan, rows)
    return text


def _title(plan: Plan) -> str:
    return f"{plan.benchmark.name}: {plan.size} from {plan.init or 'random weights'}"


def _config_of(plan: Plan, row: Row) -> dict[str, Any] | None:
    """The resolved config of the task's best run; runs of a task differ in the seed only."""
    if (run := best(row)) is None:
        return None
    return json.loads((_place(plan, row.task, run) / "config.json").read_text())


def _place(plan: Plan, task: str, run: Run) -> Path:
    return plan.workdir / job_of(plan, task, run.seed, "").name


def _start_said(plan: Plan, start: dict[str, Any]) -> str:
    if not start["path"]:
        said = f"Initialisation: random weights, tokenizer {start['tokenizer']}"
    else:
        said = "Initialisation: {path}, step {step}, head {head}, objective {objective}".format(**start)
    late = [task for task in plan.tasks if task in plan.benchmark.from_mnli]
    if plan.mnli_first and late:
        said += f"; {', '.join(late)} from {noted_start(plan.workdir) or 'nothing: no MNLI run ended well'}"
    return said


def _ran_on(outcomes: Sequence[Outcome]) -> list[str]:
    found = [outcome.result["environment"] for outcome in outcomes if outcome.result is not None]
    return [f"Ran on {line}" for line in environment_lines(found)]


def draw_pictures(plan: Plan, rows: Sequence[Row]) -> None:
    """scores.png, and for each classification task confusion-TASK.png of its best run, all its splits together."""
    scores = {row.task: [run.score for run in row.runs] for row in rows if row.runs}
    if scores:
        plot_bars({plan.size: scores}, plan.workdir / "scores.png", title=_title(plan))
    for row in rows:
        task, run = task_named(row.task), best(row)
        if task.kind != "classification" or run is None:
            continue
        files = sorted((_place(plan, row.task, run) / "validation").glob("predictions-*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        gold, said = ([line[key] for line in lines] for key in ("gold", "prediction"))
        place = plan.workdir / f"confusion-{row.task}.png"
        plot_confusion(gold, said, task.labels, place, f"{row.task}: the best run, seed {run.seed}")


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
