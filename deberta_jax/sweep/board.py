"""The table that a sweep shows while it runs; where nobody looks, in a log, a line whenever a trial's state changes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deberta_jax.sweep.process import held, words_of
from deberta_jax.sweep.tail import last_line
from deberta_jax.sweep.trial import DONE, FAILED, RUNNING, STOPPED, Trial, read_record

WAITING = "waiting"
STYLES = {DONE: "green", FAILED: "red", STOPPED: "yellow", RUNNING: "bold", WAITING: "dim"}
PROGRESS = "loss"  # whose lines say how far a run is


class Board:
    """Shows the states of trials; `steps` are what each of them has to do, 0 where that is not known.

    A file or screen that cannot be read or written ends no trial: `fault` says so after the last look, "" without one.
    """

    def __init__(self, trials: Sequence[Trial], workdir: Path, steps: Sequence[int], metric: str, console: Console):
        self._trials, self._workdir, self._metric = trials, workdir, metric
        self._steps = dict(zip((trial.name for trial in trials), steps, strict=True))
        self._said: dict[str, str] = {}
        self.fault = ""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Board":
        if self._console.is_terminal:
            self._attempt(self._live.start)
        return self

    def __exit__(self, *_) -> None:
        self.show()
        if self._console.is_terminal:
            self._attempt(self._live.stop)

    def show(self) -> None:
        """Brings the table up to date, or says what has changed."""
        self.fault = ""
        self._attempt(self._show)

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self.fault = f"the table of trials could not be shown: {words_of(error)}"

    def _show(self) -> None:
        states = {trial.name: self._state(trial) for trial in self._trials}
        if self._console.is_terminal:
            self._live.update(self._table(states), refresh=True)
            return
        done = sum(state in (DONE, FAILED) for state in states.values())
        for name, state in states.items():
            if self._said.get(name, WAITING) != state:
                error = read_record(self._workdir / name).error
                said = f"[{done}/{len(states)}] {name}: {state}{error and ', ' + error}"
                self._console.print(said, markup=False, highlight=False, soft_wrap=True)
        self._said = states

    def _state(self, trial: Trial) -> str:
        record = read_record(self._workdir / trial.name)
        if record is None:
            return WAITING
        return WAITING if record.state == RUNNING and not held(self._workdir / trial.name) else record.state

    def _table(self, states: dict[str, str]) -> Table:
        table = Table(title=str(self._workdir), title_justify="left")
        table.add_column("trial", overflow="fold")
        table.add_column("state")
        for heading in ("step", PROGRESS, self._metric, "tokens/s"):
            table.add_column(heading, justify="right")
        for name, state in self._to_show(states):
            folder = self._workdir / name
            latest, scored = last_line(folder, PROGRESS), last_line(folder, self._metric)
            numbers = [_number(line, key) for line, key in ((latest, PROGRESS), (scored, self._metric))]
            of_all = f"/{self._steps[name]:,}" if self._steps[name] else ""
            step = f"{latest['step']:,}{of_all}" if latest else ""
            table.add_row(Text(name), f"[{STYLES[state]}]{state}", step, *numbers, _number(latest, "tokens_per_second"))
        return table

    def _to_show(self, states: dict[str, str]) -> list[tuple[str, str]]:
        """As many as fit on the screen: first those that run or went wrong, last those that wait."""
        order = (RUNNING, FAILED, STOPPED, DONE, WAITING)
        shown = sorted(states.items(), key=lambda entry: order.index(entry[1]))
        return shown[: max(self._console.height - 6, 1)]


def _number(line: dict, key: str) -> str:
    return f"{line[key]:.4g}" if key in line else ""
