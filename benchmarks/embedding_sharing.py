"""Three ways for a discriminator to get its embeddings, at equal tokens: which learns best?

python -m benchmarks.embedding_sharing --data=PREPARED --output=DIR [--tokens=1e6] [--seeds=0,1] \
    [--modes=gdes,shared,none] [--config=FILE] [--config.key=value ...]

Trains configs/laptop_rtd.py (or FILE) once for each mode and seed with train.py, one after the other, in DIR/MODE-SEED.
Leaves the output of a run in DIR/MODE-SEED.log, its scores in DIR/MODE-SEED.json, all curves in
DIR/embedding_sharing.png, and prints a table. Started again, it skips what is finished and goes on with the rest.
Start it in the repository's root. Exit 1: runs failed, the others are there; 75: stopped by a signal, state saved.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from deberta_jax import config as configs
from deberta_jax import errors, flags
from deberta_jax.data.prepared import Manifest, read_manifest, write_text
from deberta_jax.errors import Refused
from deberta_jax.reports.curves import Series, read_metrics, smoothed
from deberta_jax.train.session import flat
from deberta_jax.train.signals import StopRequest

CONFIG = "configs/laptop_rtd.py"
PICTURE = "embedding_sharing.png"
MODES = {"gdes": ("#004488", "o"), "shared": ("#ddaa33", "s"), "none": ("#bb5566", "^")}  # (colour, marker)
STYLES = ("-", "--", ":", "-.")  # of the seeds
PATIENCE = 0.2  # seconds between two looks for a signal
OWN = {  # keys that the study sets itself, and by what
    "data.paths": "--data",
    "steps": "--tokens",
    "seed": "--seeds",
    "rtd.embedding_sharing": "--modes",
}
PANELS = {
    "generator/loss": "generator: cross-entropy at masked positions (nats)",
    "discriminator/loss": "discriminator: cross-entropy at every token (nats)",
}
COLUMNS = {  # of the table: held-out score and its format
    "generator loss": ("generator/loss", ".3f"),
    "generator accuracy": ("generator/accuracy", ".1%"),
    "discriminator loss": ("discriminator/loss", ".4f"),
    "F1": ("discriminator/f1", ".3f"),
    "F1 of always replaced": ("always_replaced/f1", ".3f"),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """What all runs have in common."""

    output: Path
    data: Manifest
    source: str  # of the config
    assignments: tuple[tuple[str, str], ...]  # (key, text) for every run
    steps: int
    tokens: int  # of a run
    modes: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def trials(self) -> list["Trial"]:
        """Every mode with the first seed comes before any with the second: an early picture compares modes."""
        return [Trial(self, mode, seed) for seed in self.seeds for mode in self.modes]

    @property
    def setting(self) -> dict[str, Any]:
        """What runs must agree in to be compared: an edited config file makes it another study."""
        config = flags.read_config(self.source, [*self.assignments, ("steps", str(self.steps))]).config
        return {"data": self.data.fingerprint} | flat(configs.to_dict(configs.build(config)))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a study."""

    study: Study
    mode: str
    seed: int

    @property
    def workdir(self) -> Path:
        return self.study.output / f"{self.mode}-{self.seed}"

    def file(self, suffix: str) -> Path:
        """DIR/MODE-SEED.suffix."""
        return self.workdir.with_name(f"{self.workdir.name}.{suffix}")

    @property
    def assignments(self) -> list[tuple[str, str]]:
        values = (str((str(self.study.data.path),)), str(self.study.steps), str(self.seed), self.mode)
        return [*self.study.assignments, *zip(OWN, values, strict=True)]

    @property
    def command(self) -> list[str]:
        """What to start with python."""
        overrides = [f"--config.{key}={text}" for key, text in self.assignments]
        return ["train.py", f"--config={self.study.source}", *overrides, f"--workdir={self.workdir}"]


def main(argv: list[str]) -> None:
    study = plan(argv)
    failures = {}
    with StopRequest() as stop:
        for trial in study.trials:
            if read_record(trial) is not None:
                print(f"{trial.workdir}: finished before")
            elif failure := run(trial, stop):
                failures[trial.workdir.name] = failure
            else:
                draw(study, records_of(study)).savefig(study.output / PICTURE, dpi=150)
    records = records_of(study)
    draw(study, records).savefig(study.output / PICTURE, dpi=150)
    print(table(study, records))
    if failures:
        said = "; ".join(f"{name} ({how})" for name, how in failures.items())
        raise errors.Failed(f"{len(failures)} of {len(study.trials)} runs failed: {said}")


def plan(argv: list[str]) -> Study:
    """The study that a command line asks for, every run's config built once to see that it is right."""
    given = flags.split_config_flags(argv)
    args = parse(given.rest)
    for key, _ in given.assignments:
        configs.require(key not in OWN, f"--config.{key} is set by the study: say it with {OWN.get(key)}")
    data, source = read_manifest(args.data), given.source or CONFIG
    config = flags.read_config(source, given.assignments).config
    per_step = config.batch_size * data.length
    steps = args.tokens // per_step if per_step > 0 else 0
    what = f"batch_size {config.batch_size} x {data.length} tokens"
    configs.require(steps > 0, f"--tokens={args.tokens} does not make a step of {what}")
    assignments = (*given.assignments, *shorter_warmup(config, given.assignments, steps))
    tokens = steps * per_step
    study = Study(args.output, data, source, assignments, steps, tokens, args.modes, args.seeds)
    for trial in study.trials:
        configs.build(flags.read_config(source, trial.assignments).config)
        read_record(trial)
    make_directory(args.output)
    return study


def parse(argv: list[str]) -> argparse.Namespace:
    parser = flags.Arguments(prog="python -m benchmarks.embedding_sharing", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="a prepared directory")
    parser.add_argument("--output", required=True, type=Path, help="where runs, scores and the picture go")
    parser.add_argument("--tokens", default=1_000_000, type=flags.whole_number, help="of each run, rounded to steps")
    parser.add_argument("--seeds", default=(0, 1), type=seeds, help="comma-separated")
    parser.add_argument("--modes", default=tuple(MODES), type=modes, help="comma-separated, of " + ", ".join(MODES))
    return parser.parse_args(argv)


def seeds(text: str) -> tuple[int, ...]:
    """An argparse type: 0,1,2."""
    entries = text.split(",")
    if not all(entry.strip().isdecimal() for entry in entries):
        raise argparse.ArgumentTypeError(f"expects whole numbers as in 0,1,2, got {text!r}")
    return different(text, tuple(map(int, entries)))


def modes(text: str) -> tuple[str, ...]:
    """An argparse type: gdes,none."""
    names = tuple(entry.strip() for entry in text.split(","))
    for name in names:
        configs.require_choice("argument --modes", name, tuple(MODES))
    return different(text, names)


def different(text: str, entries: tuple) -> tuple:
    if len(set(entries)) < len(entries):
        raise argparse.ArgumentTypeError(f"names one twice: {text!r}")
    return entries


def shorter_warmup(config: Any, given: Sequence[tuple[str, str]], steps: int) -> list[tuple[str, str]]:
    """A warm-up of a tenth of the steps where the config's own is longer and was not asked for."""
    key, configured = "optimizer.warmup_steps", config.optimizer.warmup_steps
    if configured <= steps // 10 or key in dict(given):
        return []
    print(f"{steps} steps a run: a tenth of them, {steps // 10}, to warm up instead of the config's {configured}")
    return [(key, str(steps // 10))]


def make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--output={path} cannot be made: {error.strerror}") from error


def read_record(trial: Trial) -> dict[str, Any] | None:
    """What a finished run has left, None for another. Raises Refused for a run of a study with other settings."""
    file = trial.file("json")
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        left, now = record["setting"], json.loads(json.dumps(trial.study.setting))
    except (ValueError, TypeError, KeyError) as error:
        raise Refused(f"{file} is not what a finished run leaves: remove it, or choose another --output") from error
    other = [name for name in now if left.get(name) != now[name]]
    said = "; ".join(f"{name} was {left.get(name)!r}, is {now[name]!r}" for name in other)
    configs.require(not other, f"{file} is of another study: {said}; choose another --output")
    return record


def records_of(study: Study) -> list[dict[str, Any]]:
    """Of the finished runs, in the order of the study."""
    return [record for record in map(read_record, study.trials) if record is not None]


def run(trial: Trial, stop: StopRequest) -> str:
    """Trains to the end and leaves the record; returns how that failed, "" where it did not.

    Raises Stopped after a signal to this process or to the one that trains.
    """
    if stop.name:
        raise errors.Stopped(f"{stop.name} before {trial.workdir}: run the same command to go on")
    resumed = any((trial.workdir / "checkpoints").glob("*"))
    print(f"{trial.workdir}: {'goes on' if resumed else 'starts'}", flush=True)
    start = time.monotonic()
    code = train(trial.command, trial.file("log"), lambda: bool(stop.name))
    seconds = time.monotonic() - start
    if code == 0:
        record = record_of(trial, None if resumed else seconds)
        write_text(trial.file("json"), json.dumps(record, indent=1) + "\n")
        return ""
    if stop.name or code == errors.Stopped.exit_code:
        raise errors.Stopped(f"{stop.name or 'a signal'} in {trial.workdir}: run the same command to go on")
    return f"exit {code}: {last_line(trial.file('log'))}"


def train(command: list[str], log: Path, stopping: Callable[[], bool]) -> int:
    """Exit code of a Python program. Once `stopping()`, the program gets one SIGTERM, and is waited for.

    It is in a process group of its own: a Ctrl-C that it also got itself would be its second signal, which kills.
    """
    with (
        log.open("a") as output,
        subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):
        while True:
            try:
                return process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                if stopping():
                    process.terminate()
                    return process.wait()


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def record_of(trial: Trial, seconds: float | None) -> dict[str, Any]:
    """What is to be known about a finished run; `seconds` it took, None where it was not one stretch."""
    steps = trial.study.steps
    metrics = read_metrics(trial.workdir / "metrics.jsonl")
    last = {key: float(series.values[-1]) for key, series in metrics.items() if series.steps[-1] == steps}
    environment = json.loads((trial.workdir / "environment.json").read_text())
    return {
        "mode": trial.mode,
        "seed": trial.seed,
        "tokens": trial.study.tokens,
        "seconds": seconds,
        "held_out": {key.removeprefix("eval/"): value for key, value in last.items() if key.startswith("eval/")},
        "command": shlex.join(["python", *trial.command]),
        "device": environment["devices"],
        "versions": {"python": environment["python"], **environment["packages"], "commit": environment["git"]},
        "setting": trial.study.setting,
    }


def held_out(records: list[dict[str, Any]], mode: str, score: str) -> np.ndarray:
    """A score of every finished run of a mode; one that was not finite is not there."""
    return np.array([r["held_out"][score] for r in records if r["mode"] == mode and score in r["held_out"]])


def table(study: Study, records: list[dict[str, Any]]) -> str:
    """Held-out scores by mode, in Markdown."""
    lines = ["| mode | seeds | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for mode in study.modes:
        runs = [str(record["seed"]) for record in records if record["mode"] == mode]
        cells = [spread(held_out(records, mode, score), form) for score, form in COLUMNS.values()]
        if runs:
            lines.append(f"| {mode} | {', '.join(runs)} | " + " | ".join(cells) + " |")
    what = "the standard deviation" if len(study.seeds) > 2 else "half the range"
    return "\n".join([*lines, "", f"Held out after {study.tokens:,} tokens; mean ± {what} over the seeds."])


def spread(values: np.ndarray, form: str) -> str:
    """Mean ± half the range of two values, standard deviation of more."""
    if len(values) == 0:
        return "–"
    mean = f"{values.mean():{form}}"
    if len(values) == 1:
        return mean
    width = values.std(ddof=1) if len(values) > 2 else np.ptp(values) / 2
    return f"{mean} ± {width:{form}}"


def draw(study: Study, records: list[dict[str, Any]]) -> Figure:
    """Both losses against tokens: training smoothed, held out a marker at the end."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    finished = [(trial, trial.workdir / "metrics.jsonl") for trial in study.trials if read_record(trial) is not None]
    curves = [(trial, read_metrics(file)) for trial, file in finished if file.exists()]
    for axes, (key, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for trial, metrics in curves:
            draw_training(axes, trial, metrics[key])
        for mode in study.modes:
            draw_held_out(axes, study, mode, held_out(records, mode, key))
        show_the_later_part(axes)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(handles=legend_of(axes, study), loc="upper right", edgecolor="none", framealpha=0.9)
    return figure


def draw_training(axes: Axes, trial: Trial, series: Series) -> None:
    tokens = series.steps * (trial.study.tokens / trial.study.steps)
    style = STYLES[trial.study.seeds.index(trial.seed) % len(STYLES)]
    axes.plot(tokens, smoothed(series.values), color=MODES[trial.mode][0], linestyle=style, linewidth=1.3)


def draw_held_out(axes: Axes, study: Study, mode: str, values: np.ndarray) -> None:
    if len(values):
        colour, marker = MODES[mode]
        axes.plot(
            np.full(len(values), study.tokens),
            values,
            label=f"{mode}, held out {values.mean():.3f}",
            color=colour,
            marker=marker,
            markerfacecolor="none",
            linestyle="none",
        )


def show_the_later_part(axes: Axes) -> None:
    """Fits the loss axis to the curves after a tenth of the tokens, the fall before it would hide the modes; room for
    the legend above them."""
    if not axes.lines:
        return
    x, y = np.concatenate([line.get_xydata() for line in axes.lines]).T
    later = y[x > x.max() / 10]
    height = np.ptp(later) or 1.0
    axes.set_ylim(later.min() - 0.05 * height, later.max() + 0.45 * height)


def legend_of(axes: Axes, study: Study) -> list[Line2D]:
    """The modes with their held-out means, then the seeds' styles."""
    with_label = [line for line in axes.lines if not line.get_label().startswith("_")]
    styles = [STYLES[number % len(STYLES)] for number in range(len(study.seeds))]
    return with_label + [
        Line2D([], [], color="#777777", linestyle=style, label=f"training, seed {seed}")
        for seed, style in zip(study.seeds, styles, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
