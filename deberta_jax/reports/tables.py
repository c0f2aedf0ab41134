"""The tables of a report, as text in cells."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from deberta_jax.reports.metric import reached
from deberta_jax.reports.numbers import NONE, decimals, duration, said, setting, signed
from deberta_jax.reports.runs import Run
from deberta_jax.reports.study import Study
from deberta_jax.reports.suite_table import environment_lines
from deberta_jax.reports.variations import Variation, comparable, difference, differing_keys, score, seed_of

SHOWN = 3  # quantities in a table
MOST_COLUMNS = 4  # of variations beside each other


class Table(NamedTuple):
    """Text in rows and columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = ()  # columns that are set to the right


def variations_table(study: Study) -> Table:
    """A line for each variation: mean ± standard deviation over the runs that are done, difference to the best."""
    (first, *others), (best, *worse) = _shown(study), study.variations
    compared = bool(worse) and comparable(study.variations)
    apart = [None, *(difference(each, best, first) if compared else None for each in worse)]
    columns = {
        "variation": [each.name for each in study.variations],
        first: _means(study, first),
        "runs": [_done(each) for each in study.variations],
    }
    if compared:
        digits = _digits(study, first)
        columns["to the best"] = [NONE if each is None else signed(each.value, digits) for each in apart]
    deviations = [None if each is None else each.deviations for each in apart]
    if any(each is not None for each in deviations):
        columns["in standard deviations"] = [NONE if each is None else signed(each, 1) for each in deviations]
    columns |= {key: _means(study, key) for key in others}
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), tuple(columns)[1:])


def runs_table(study: Study) -> Table:
    """A line for each run, in the order of the variations and of their seeds."""
    runs = [run for variation in study.variations for run in variation.runs]
    keys = _shown(study)
    measured = [reached(run, keys[0]) for run in runs]
    columns = {
        "run": [run.name for run in runs],
        "state": [run.ending.state for run in runs],
        "seed": [_or_dash(seed_of(run)) for run in runs],
        **{key: _values(runs, key, _digits(study, key)) for key in keys},
        "measured at step": [NONE if each is None else f"{each.step:,}" for each in measured],
        "of steps": [f"{run.config['steps']:,}" if run.config else NONE for run in runs],
        "time": [duration(run.ending.seconds) for run in runs],
    }
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), tuple(columns)[2:])


def failures_table(study: Study) -> Table | None:
    """A line for each run that failed or was stopped, with the last line of its error; None where none was."""
    rows = [
        (run.name, run.ending.state, _or_dash(run.ending.exit_code), _last_step(run), run.ending.error or NONE)
        for run in study.runs
        if run.ending.state in ("failed", "stopped")
    ]
    columns = ("run", "state", "exit code", "last step", "last line")
    return Table(columns, tuple(rows), columns[2:4]) if rows else None


def differences_table(study: Study) -> Table | None:
    """What differs in the configs: a column for each variation, or where these are many a line; None: nothing does."""
    keys = differing_keys(study.variations)
    if not keys:
        return None
    of_variations = {
        each.name: tuple(setting(each.settings[key]) if key in each.settings else NONE for key in keys)
        for each in study.variations
    }
    if len(of_variations) > max(MOST_COLUMNS, len(keys)):
        return Table(("variation", *keys), tuple((name, *cells) for name, cells in of_variations.items()))
    return Table(("key", *of_variations), tuple(zip(keys, *of_variations.values(), strict=True)))


def environments_table(study: Study) -> Table | None:
    """A line for each different environment with the number of its runs; None where no run has one."""
    found = Counter(line for run in study.runs if run.environment for line in environment_lines([run.environment]))
    rows = tuple((str(count), line) for line, count in found.items())
    return Table(("runs", "devices, versions, commit"), rows) if rows else None


def _shown(study: Study) -> list[str]:
    """The metric and what else was measured on held-out data, as far as a table has room."""
    others = [each.key for each in study.quantities if not each.training and each.key != study.metric.key]
    return [study.metric.key, *others[: SHOWN - 1]]


def _digits(study: Study, key: str) -> int:
    scores = [score(each, key) for each in study.variations]
    values = [found.value for run in study.runs if (found := reached(run, key)) is not None]
    return decimals(values, [each.deviation for each in scores if each.deviation is not None])


def _means(study: Study, key: str) -> list[str]:
    """ "4.206 ± 0.005" of each variation."""
    digits, scores = _digits(study, key), [score(each, key) for each in study.variations]
    spreads = ["" if each.deviation is None else f" ± {said(each.deviation, digits)}" for each in scores]
    return [said(each.mean, digits) + spread for each, spread in zip(scores, spreads, strict=True)]


def _done(variation: Variation) -> str:
    done, total = sum(run.ending.state == "done" for run in variation.runs), len(variation.runs)
    return str(total) if done == total else f"{done} of {total}"


def _values(runs: Sequence[Run], key: str, digits: int) -> list[str]:
    found = [reached(run, key) for run in runs]
    return [said(None if each is None else each.value, digits) for each in found]


def _or_dash(value: int | None) -> str:
    return NONE if value is None else str(value)


def _last_step(run: Run) -> str:
    return f"{run.metrics['step'].steps[-1]:,}" if run.metrics else NONE
