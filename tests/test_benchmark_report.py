"""What benchmarks leave behind."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import report

ROWS = [{"what": "a", "time": 0.012345, "count": 12345}, {"what": "b", "memory": 12345.4, "ratio": 1.0}]


def test_a_table_has_the_columns_of_all_rows_and_three_digits():
    assert report.table(ROWS).splitlines() == [
        "| what | time | count | memory | ratio |",
        "| --- | --- | --- | --- | --- |",
        "| a | 0.0123 | 12345 |  |  |",
        "| b |  |  | 12,345 | 1.00 |",
    ]


def test_a_file_holds_the_rows_and_what_they_were_measured_on(tmp_path):
    code = "import sys; from pathlib import Path; from benchmarks import report; report.write(Path(sys.argv[1]), [{}])"
    file = tmp_path / "results" / "a b.json"
    subprocess.run([sys.executable, "-c", code, str(file)], cwd=Path(__file__).parents[1], check=True)
    values = json.loads(file.read_text())
    assert values["rows"] == [{}]
    setting = values["setting"]
    assert setting["command"] == f"python -c '{code}' '{file}'"
    assert setting["device"].startswith("cpu, ") and setting["cores"] > 0
    assert setting["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"jax", "numpy", "sentencepiece"} <= setting["packages"].keys()
