import json
import re
from xml.etree import ElementTree

import pytest

from deberta_jax.reports.page import page
from deberta_jax.reports.runs import find
from deberta_jax.reports.study import notes, study_of
from deberta_jax.reports.tables import differences_table, failures_table, runs_table, variations_table
from left_behind import curve, write_grid, write_run

HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(find([write_grid(tmp_path_factory.mktemp("grid"))]), None, "<b>grid</b>")


@pytest.fixture(scope="module")
def root(study) -> ElementTree.Element:
    return ElementTree.fromstring(page(study))


def words(element) -> str:
    return "".join(element.itertext())


def rows_of(table) -> list[tuple[str, ...]]:
    return [
        tuple(words(cell) for cell in row if cell.tag in (HTML + "td", HTML + "th")) for row in table.iter(HTML + "tr")
    ]


def test_the_tables_are_the_studys_in_order(study, root):
    tables = [rows_of(table) for table in root.iter(HTML + "table")]
    wanted = [variations_table, runs_table, differences_table, failures_table]
    assert tables[:4] == [[table.columns, *table.rows] for table in (make(study) for make in wanted)]
    assert len(tables) == 5


def test_names_and_errors_stay_text(study, root):
    assert words(root.find(f".//{HTML}h1")) == words(root.find(f".//{HTML}title")) == "<b>grid</b>"
    assert words(root.find(f".//{HTML}pre")) == study.commands[0]
    assert not list(root.iter(HTML + "script")) and not list(root.iter(HTML + "b"))
    assert words(root).count("<script>alert('no')</script>") == 1


def test_nothing_has_to_be_fetched_or_run(study, root):
    text = page(study)
    assert not re.findall(r"(?:src|srcset|data|action|onload|onclick)=", text)
    assert "@import" not in text and "url(http" not in text
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag not in ("script", "link", "img", "iframe", "object", "image", "base")
        assert all(value.startswith("#") for key, value in element.items() if key.endswith("href"))


def test_ids_are_unique_and_the_page_is_the_same_each_time(study, root):
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) > 50
    assert page(study) == page(study)


def test_colours_lead_from_the_table_to_the_curves(study, root):
    (curves,) = (each for each in root.iter(SVG + "svg") if each.get("aria-label", "").startswith("curves"))
    drawn = set(re.findall(r"stroke: (#\w{6})", ElementTree.tostring(curves, encoding="unicode")))
    legend = root.find(f".//{HTML}ul[@class='legend']")
    named = {words(line): line.find(f"{HTML}svg/{HTML}line").get("stroke") for line in legend}
    assert list(named) == [each.name for each in study.variations]
    assert len(set(named.values())) == len(named) and set(named.values()) <= drawn
    own = [(each.name, named[each.name]) for each in study.variations]
    of_runs = [(run.name, named[each.name]) for each in study.variations for run in each.runs]
    for body, lines in zip(root.iter(HTML + "tbody"), (own, of_runs), strict=False):
        assert [(words(row[0]), row[0].find(f"{HTML}svg/{HTML}line").get("stroke")) for row in body] == lines


def test_the_best_is_marked_and_what_went_wrong_is_seen(root):
    (best,) = root.iterfind(f".//{HTML}tr[@class='best']")
    assert words(best[0]) == "optimizer.learning_rate=0.0001,model.note=a<b>&c"
    states = [words(cell) for cell in root.iter(HTML + "td") if cell.get("class") in ("failed", "stopped")]
    assert sorted(states) == ["failed", "failed", "stopped", "stopped"]


def test_what_a_reader_has_to_know_is_said(study, root):
    said = [words(each) for each in root.iter(HTML + "p")]
    assert said[0] == "12 runs: 9 done, 1 stopped, 1 failed, 1 not run."
    assert " ".join(notes(study)) in said


def test_a_heat_map_stands_where_there_is_a_grid(root, tmp_path):
    titles = [words(each) for each in root.iter(HTML + "h2")]
    assert titles == [
        *("Runs", "Curves", "optimizer.learning_rate and model.note", "What differs in the configs"),
        *("Failed and stopped runs", "Environments"),
    ]
    write_run(tmp_path / "one", curve(2.0))
    single = ElementTree.fromstring(page(study_of(find([tmp_path / "one"]), None, "one")))
    assert [words(each) for each in single.iter(HTML + "h2")] == ["Runs", "Curves", "Environments"]


def test_runs_without_any_number_make_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    error = "refused: \x1b[31mno such\x00 label"
    ended = {"state": "failed", "exit_code": 2, "error": error, "seconds": 1.5, "flags": []}
    (tmp_path / "a" / "trial.json").write_text(json.dumps(ended))
    text = page(study_of(find([tmp_path]), None, "failed"))
    root = ElementTree.fromstring(text)
    assert "refused:  [31mno such  label" in words(root)
    assert not [each for each in root.iter(SVG + "svg")]


def test_long_names_may_be_broken_between_their_parts(tmp_path):
    write_run(tmp_path / "a", curve(2.0), {"model.max_relative_positions": 1})
    write_run(tmp_path / "b", curve(2.0), {"model.max_relative_positions": 0.25})
    text = page(study_of(find([tmp_path]), None, ""))
    assert "model.<wbr/>max_<wbr/>relative_<wbr/>positions" in text
    assert "<td>0.25</td>" in text
