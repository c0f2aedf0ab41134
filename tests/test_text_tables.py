import csv
import io
import math
import re

from deberta_jax.reports.metric import Metric
from deberta_jax.reports.runs import find
from deberta_jax.reports.study import study_of
from deberta_jax.reports.tables import Table, runs_table
from deberta_jax.reports.text_tables import csv_text, markdown, markdown_table, printable
from left_behind import curve, write_grid, write_run


def unescaped(cell):
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)  # as CommonMark: a backslash before punctuation


def test_a_table_in_markdown_says_what_the_table_says(tmp_path):
    table = runs_table(study_of(find([write_grid(tmp_path)]), None, "grid"))
    head, rule, *rows = markdown_table(table).splitlines()
    found = [tuple(map(unescaped, re.split(r"(?<!\\) ?\| ?", row)[1:-1])) for row in (head, *rows)]
    assert found == [table.columns, *table.rows]
    assert rule.count("---:") == len(table.numbers)


def test_no_name_is_taken_for_markdown():
    nasty = "a|b <i>*c*</i> [x](y) `z` \\ $e$ #h &amp;\nnext\x1b[31m"
    text = markdown_table(Table(("name",), ((nasty,),)))
    assert len(text.splitlines()) == 3
    assert re.findall(r"(?<!\\)[|<>*`$#&\[\]]", text.splitlines()[2]) == ["|", "|"]
    assert unescaped(text.splitlines()[2]) == f"| {printable(nasty)} |"


def test_the_markdown_has_every_section_that_has_something(tmp_path):
    text = markdown(study_of(find([write_grid(tmp_path / "grid")]), None, "grid"))
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# grid", "## Runs", "## What differs", "## Failed and stopped runs", "## Environments"]
    assert "    python -m sweep --x='<1 & 2>'" in text.splitlines()
    assert "12 runs: 9 done, 1 stopped, 1 failed, 1 not run." in text
    write_run(tmp_path / "one", curve(2.0))
    plain = markdown(study_of(find([tmp_path / "one"]), None, "one"))
    assert [line for line in plain.splitlines() if line.startswith("#")] == ["# one", "## Runs", "## Environments"]


def test_the_csv_has_a_line_for_each_run_with_all_its_digits(tmp_path):
    lines = curve(1 / 3)
    lines[-1] |= {"eval/perplexity": None}
    write_grid(tmp_path / "grid")
    write_run(tmp_path / "single" / "seed-4", lines, {"seed": 4, "batch_size": 1})
    study = study_of(find([tmp_path]), Metric("eval/loss", "min"), "")
    rows = list(csv.DictReader(io.StringIO(csv_text(study))))
    assert len(rows) == 13 and [row["run"] for row in rows] == [run.name for v in study.variations for run in v.runs]
    best = rows[0]
    assert best["run"] == "single/seed-4" and best["variation"] == "single" and best["seed"] == "4"
    assert float(best["eval/loss"]) == lines[-1]["eval/loss"] and best["step"] == "100"
    assert math.isnan(float(best["eval/perplexity"]))
    assert (best["config.batch_size"], best["config.model.note"], best["error"], best["exit_code"]) == ("1", "", "", "")
    failed = next(row for row in rows if row["state"] == "failed")
    assert failed["error"] == "ValueError: <script>alert('no')</script> & \"more\""
    assert (failed["eval/loss"], failed["step"], failed["seconds"], failed["exit_code"]) == ("", "", "61.5", "1")
    assert failed["config.model.note"] == "a<b>&c"
