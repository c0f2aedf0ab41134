"""A report as one HTML page: tables and pictures in the file itself, nothing to fetch, nothing to run."""

import functools
import re
from collections.abc import Iterator, Sequence
from html import escape

from deberta_jax.reports.comparison import Style, draw_comparison, style_of
from deberta_jax.reports.figures import svg_of
from deberta_jax.reports.heat_map import draw_heat_map, grid_of
from deberta_jax.reports.study import Study, counts, notes
from deberta_jax.reports.tables import (
    Table,
    differences_table,
    environments_table,
    failures_table,
    runs_table,
    variations_table,
)
from deberta_jax.reports.text_tables import printable

CSS = """
body { font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", Arial, sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 0.3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; }
p { margin: 0.4rem 0; max-width: 75ch; }
.note { color: #555; font-size: 0.9rem; }
pre { background: #f5f5f5; padding: 0.6rem 0.8rem; margin: 0.6rem 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: 0.85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { text-align: left; vertical-align: top; padding: 0.28rem 0.9rem 0.28rem 0; border-bottom: 1px solid #e3e3e3;
  overflow-wrap: break-word; max-width: 42em; }
th { font-weight: 600; border-bottom: 1.5px solid #888; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { white-space: normal; }
tr.best td { background: #eef4fb; }
.failed, .stopped { color: #a3280c; }
.swatch { width: 30px; height: 8px; margin-right: 0.5em; }
.legend { list-style: none; padding: 0; margin: 0.5rem 0; columns: 2; column-gap: 2rem; font-size: 0.9rem; }
.legend li { break-inside: avoid; overflow-wrap: anywhere; }
.figure svg { max-width: 100%; height: auto; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } .wide { overflow: visible; }
  h2, tr, .figure { break-inside: avoid; } h2 { break-after: avoid; } tr.best td { background: none; } }
"""
PART = re.compile(r"([,/_]|\.(?=[A-Za-z]))(?=\S)")  # what a name may be broken after
CURVES_NOTE = (
    "A line for each run; training smoothed. The first tenth of the longest run and far outliers may lie outside of a "
    "panel."
)


def page(study: Study) -> str:
    """The whole page, which is well-formed XML too."""
    title = _text(study.title)
    body = "\n".join([f"<h1>{title}</h1>", *_introduction(study), *_sections(study)])
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(printable(study.title))}</title>\n<style>{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _introduction(study: Study) -> Iterator[str]:
    yield f"<p>{_text(counts(study.runs))}.</p>"
    for command in study.commands:
        yield f"<pre>{_text(command)}</pre>"
    styles = [style_of(rank) for rank in range(len(study.variations))]
    swatches = [_swatch(style) for style in styles]
    yield _table(variations_table(study), swatches, best=len(styles) > 1)
    yield f'<p class="note">{_text(" ".join(notes(study)))}</p>'
    yield "<h2>Runs</h2>"
    of_runs = [swatch for swatch, each in zip(swatches, study.variations, strict=True) for _ in each.runs]
    yield _table(runs_table(study), of_runs)


def _sections(study: Study) -> Iterator[str]:
    if study.quantities:
        yield "<h2>Curves</h2>"
        yield _legend(study)
        draw = functools.partial(draw_comparison, study.variations, study.quantities)
        yield _figure(svg_of(draw, "curves", "curves of " + ", ".join(each.title for each in study.quantities)))
        yield f'<p class="note">{CURVES_NOTE}</p>'
    grid = grid_of(study.variations, study.metric.key)
    if grid is not None:
        yield f"<h2>{_text(grid.row_key)} and {_text(grid.column_key)}</h2>"
        draw = functools.partial(draw_heat_map, grid, study.metric)
        yield _figure(svg_of(draw, "grid", f"{study.metric.key} by {grid.row_key} and {grid.column_key}"))
    titled = {
        "What differs in the configs": differences_table(study),
        "Failed and stopped runs": failures_table(study),
        "Environments": environments_table(study),
    }
    for title, table in titled.items():
        if table is not None:
            yield f"<h2>{title}</h2>\n{_table(table)}"


def _table(table: Table, swatches: Sequence[str] = (), *, best: bool = False) -> str:
    """`table`, with a swatch at the start of each line if there are any, and the first line marked as the best."""
    head = "".join(_cell("th", name, _kind(table, name)) for name in table.columns)
    lines = []
    for number, row in enumerate(table.rows):
        swatch = swatches[number] if swatches else ""
        kinds = [_kind(table, name, text) for name, text in zip(table.columns, row, strict=True)]
        first, *others = (_cell("td", text, kind) for text, kind in zip(row, kinds, strict=True))
        marked = ' class="best"' if best and number == 0 else ""
        lines.append(f"<tr{marked}>{first.replace('>', '>' + swatch, 1)}{''.join(others)}</tr>\n")
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(lines)}</tbody></table></div>'


def _kind(table: Table, column: str, text: str = "") -> str:
    """The CSS class of a cell: of a state the state."""
    if column == "state":
        return text.replace(" ", "-")
    return "number" if column in table.numbers else ""


def _cell(tag: str, text: str, kind: str) -> str:
    classed = f' class="{kind}"' if kind else ""
    return f"<{tag}{classed}>{_text(text)}</{tag}>"


def _legend(study: Study) -> str:
    lines = [
        f"<li>{_swatch(style_of(rank))}{_text(variation.name)}</li>" for rank, variation in enumerate(study.variations)
    ]
    return f'<ul class="legend">\n{"".join(lines)}\n</ul>'


def _swatch(style: Style) -> str:
    dashes = f' stroke-dasharray="{style.dashes}"' if style.dashes else ""
    line = f'<line x1="0" y1="4" x2="30" y2="4" stroke="{style.colour}" stroke-width="2.5"{dashes}/>'
    return f'<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">{line}</svg>'


def _figure(svg: str) -> str:
    return f'<div class="figure">{svg}</div>'


def _text(text: str) -> str:
    """As it is; a long name may be broken between its parts."""
    return PART.sub(r"\1<wbr/>", escape(printable(text)))
