"""Compares runs: one HTML page with tables and curves, the tables in Markdown, the numbers in CSV.

    python -m deberta_jax.tools.report WORKDIR... [--metric=eval/accuracy:max] [--output=DIR]

A WORKDIR is a run of train.py, a sweep, a suite (tools/glue.py), or a folder with such in it, up to two levels below.
Runs whose configs differ in the seed only are one variation, with their mean and standard deviation; the best variation
comes first. Without --metric: what the sweep names, else held-out loss (mlm), F1 on replaced tokens (rtd), or the score
that chose the checkpoint (fine-tuning). DIR gets report.html, which needs no other file and no network, report.md and
report.csv; it is WORKDIR/report where there is one WORKDIR. Runs may still be going on.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from deberta_jax import errors, flags
from deberta_jax.data.prepared import write_text
from deberta_jax.errors import Refused
from deberta_jax.reports import metric
from deberta_jax.reports.page import page
from deberta_jax.reports.runs import find
from deberta_jax.reports.study import Study, counts, study_of
from deberta_jax.reports.tables import variations_table
from deberta_jax.reports.text_tables import csv_text, markdown, markdown_table


def main(argv: list[str]) -> None:
    """Writes the report that `argv` asks for, and prints its table of variations."""
    parser = flags.Arguments(prog="python -m deberta_jax.tools.report", description=__doc__)
    parser.add_argument(
        "workdirs", nargs="+", metavar="WORKDIR", type=flags.local_path, help="of runs, or folders of them"
    )
    parser.add_argument("--metric", help="KEY:max or KEY:min: a number of metrics.jsonl to compare runs by")
    parser.add_argument("--output", type=flags.local_path, help="folder to write to")
    args = parser.parse_args(argv)
    given = None if args.metric is None else metric.parsed(args.metric)
    if args.output is None and len(args.workdirs) > 1:
        raise Refused("several WORKDIRs: say in --output=DIR where the report goes")
    make(args.workdirs, given, args.output or args.workdirs[0] / "report")


def make(workdirs: Sequence[Path], given: metric.Metric | None, output: Path) -> Study:
    """Writes the report of `workdirs` into `output`, prints its table of variations, and returns what it is about.

    Raises Refused where there is nothing to compare by `given` (None: by what fits).
    """
    study = study_of(find(workdirs), given, ", ".join(map(str, workdirs)))
    write(output, {"report.html": page(study), "report.md": markdown(study), "report.csv": csv_text(study)})
    print(f"{counts(study.runs)}\n\n{markdown_table(variations_table(study))}\n\n{output / 'report.html'}")
    return study


def write(folder: Path, texts: dict[str, str]) -> None:
    """Writes files into a folder, which is made. Raises Refused where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise Refused(f"--output={folder} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(errors.run(main, sys.argv[1:]))
