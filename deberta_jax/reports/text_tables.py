"""A report as text: tables in Markdown for people, one line for each run in CSV for programs."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from deberta_jax.reports.metric import reached
from deberta_jax.reports.runs import Run
from deberta_jax.reports.study import Study, counts, notes
from deberta_jax.reports.tables import (
    Table,
    differences_table,
    environments_table,
    failures_table,
    runs_table,
    variations_table,
)
from deberta_jax.reports.variations import differing_keys, seed_of

SPECIAL = re.compile(r"([\\`*<>&|\[\]$#])")


def markdown(study: Study) -> str:
    """The whole report but its pictures."""
    parts = [f"# {_plain(study.title)}", f"{counts(study.runs)}."]
    parts += [_code(command) for command in study.commands]
    parts += [markdown_table(variations_table(study)), " ".join(map(_plain, notes(study)))]
    sections = {
        "Runs": runs_table(study),
        "What differs": differences_table(study),
        "Failed and stopped runs": failures_table(study),
        "Environments": environments_table(study),
    }
    for title, table in sections.items():
        parts += [f"## {title}", markdown_table(table)] if table is not None else []
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """`table` with its numbers to the right."""
    rules = ["---:" if name in table.numbers else "---" for name in table.columns]
    lines = [map(_plain, table.columns), rules, *(map(_plain, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: str) -> str:
    """`text` so that Markdown shows it as it is."""
    return SPECIAL.sub(r"\\\1", printable(text))


def _code(text: str) -> str:
    return "    " + printable(text)


def printable(text: str) -> str:
    """`text` on one line, without the control characters that a log may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def csv_text(study: Study) -> str:
    """A line for each run, the best variation first: how it ended, what it reached, what sets it apart; all digits.

    A value that a run has not is empty, one that is no number "nan".
    """
    keys = [key for key in _measured(study.runs) if key != study.metric.key]
    settings = differing_keys(study.variations)
    header = ["run", "variation", "seed", "state", "exit_code", "seconds", "error", "step", study.metric.key]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, *keys, *(f"config.{key}" for key in settings)])
    writer.writerows(_lines(study, [study.metric.key, *keys], settings))
    return out.getvalue()


def _measured(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.metrics if key.startswith("eval/")))


def _lines(study: Study, keys: Sequence[str], settings: Sequence[str]) -> Iterator[list[Any]]:
    for variation in study.variations:
        set_to = [variation.settings.get(key) for key in settings]
        for run in variation.runs:
            found = [reached(run, key) for key in keys]
            step = found[0].step if found[0] else None
            values = [None if each is None else each.value for each in found]
            ending = run.ending
            said = [ending.state, ending.exit_code, ending.seconds, printable(ending.error)]
            yield [run.name, variation.name, seed_of(run), *said, step, *values, *set_to]
