import csv
import os

import pytest

from chromium import look_at
from deberta_jax import errors
from deberta_jax.errors import Refused
from deberta_jax.tools import report
from left_behind import curve, write_grid, write_run

WIDTH = 1280


def test_a_report_is_three_files_below_the_one_workdir(tmp_path, capsys):
    folder = write_grid(tmp_path / "grid")
    report.main([str(folder)])
    written = {path.name: path.read_text() for path in (folder / "report").iterdir()}
    assert written.keys() == {"report.html", "report.md", "report.csv"}
    assert len(list(csv.reader(written["report.csv"].splitlines()))) == 1 + 12
    out = capsys.readouterr().out
    assert out.startswith("12 runs: 9 done, 1 stopped, 1 failed, 1 not run\n\n| variation |")
    assert out.endswith(f"\n{folder / 'report' / 'report.html'}\n")
    assert out.partition("\n\n")[2].partition("\n\n")[0] in written["report.md"]
    report.main([str(folder)])  # again: its own output is no run, and nothing has changed
    assert {path.name: path.read_text() for path in (folder / "report").iterdir()} == written


def test_the_metric_and_the_folder_can_be_given(tmp_path, capsys):
    for name in ("a", "b"):
        write_run(tmp_path / name, curve(2.0), {"batch_size": len(name)})
    report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--metric=eval/accuracy:max", f"--output={tmp_path}/x/y"])
    assert "| variation | eval/accuracy |" in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path / "x" / "y")) == ["report.csv", "report.html", "report.md"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["{0}/a", "{0}/b"], "several WORKDIRs: say in --output=DIR where the report goes"),
        (["{0}/a", "--metric=eval/lss:min"], "--metric: no run has 'eval/lss', did you mean 'eval/loss'"),
        (["{0}/a", "--metric=eval/loss"], "--metric=eval/loss: expects KEY:max or KEY:min"),
        (["{0}/a", "--metrics=eval/loss:min"], "unknown flag --metrics, did you mean '--metric'?"),
        (["{0}/aa"], "aa is no folder, did you mean 'a'?"),
        (["{0}"], "b/metrics.jsonl line 1 is no JSON object with a step"),
        (["gs://bucket/run"], "gs://bucket/run is a bucket"),
        (["{0}/a", "--output={0}/a/config.json"], "config.json cannot be written: File exists"),
        (["{0}/a", "--output={0}/a/config.json/x"], "x cannot be written: Not a directory"),
        ([], "WORKDIR"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, capsys, flags, said):
    write_run(tmp_path / "a", curve(2.0))
    write_run(tmp_path / "b", curve(2.0))
    (tmp_path / "b" / "metrics.jsonl").write_text("{}\n")
    if "{0}/b" in flags:
        write_run(tmp_path / "b", curve(2.0))
    before = sorted(tmp_path.rglob("*"))
    assert errors.run(report.main, [flag.format(tmp_path) for flag in flags]) == Refused.exit_code
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.browser
def test_a_browser_shows_the_page_and_asks_for_nothing_else(tmp_path):
    report.main([str(write_grid(tmp_path))])
    page = tmp_path / "report" / "report.html"
    (seen,) = look_at(page, width=WIDTH)
    assert seen.requests == (page.as_uri(),)
    assert seen.console == ()
    assert seen.width <= seen.window <= WIDTH
    for words in ("a<b>&c", 'say "no"', "<script>alert('no')</script> & \"more\"", "12 runs: 9 done"):
        assert words in seen.text
    assert seen.screenshot.startswith(b"\x89PNG")


@pytest.mark.browser
def test_the_browser_would_see_what_is_wrong_with_a_page(tmp_path):
    planted = {
        "": (False, False, False),
        '<img src="http://127.0.0.1:9/x.png"/>': (True, True, False),  # a failed request stands in the console too
        "<script>not_defined()</script>": (False, True, False),
        "<script>console.error('no')</script>": (False, True, False),
        f'<div style="width: {WIDTH + 1}px">wide</div>': (False, False, True),
    }
    report.main([str(write_run(tmp_path / "run", curve(2.0))), f"--output={tmp_path}"])
    text = (tmp_path / "report.html").read_text()
    pages = [tmp_path / f"{number}.html" for number in range(len(planted))]
    for page, mistake in zip(pages, planted, strict=True):
        page.write_text(text.replace("</body>", mistake + "</body>"))
    looks = look_at(*pages, width=WIDTH)
    found = [(len(seen.requests) > 1, bool(seen.console), seen.width > seen.window) for seen in looks]
    assert found == list(planted.values())
