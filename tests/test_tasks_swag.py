"""Reading SWAG's tables."""

import csv
import os
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Choice
from deberta_jax.tasks.swag import TASKS, read_swag

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "layouts" / "swag"
HEADER = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_gives_four_options(tmp_path):
    rows = '0,v,1,A B,"A, a.",B,gold,"b, ""b"".",c.,d.,e.,2\n7,v,1,A B,A.,B,gen,b.,c.,d.,e.,0\n'
    assert read_swag(write(tmp_path, HEADER + rows)) == [
        Choice("0", (("A, a.", 'B b, "b".'), ("A, a.", "B c."), ("A, a.", "B d."), ("A, a.", "B e.")), 2),
        Choice("1", (("A.", "B b."), ("A.", "B c."), ("A.", "B d."), ("A.", "B e.")), 0),
    ]


def test_the_test_has_no_labels(tmp_path):
    path = write(tmp_path, HEADER.replace(",label", "") + "0,v,1,A B,A.,B,gold,b.,c.,d.,e.\n")
    assert [example.label for example in read_swag(path)] == [None]


@pytest.mark.parametrize("label", ["4", "-1", "", "one", "1.0"])
def test_other_labels_are_refused_with_their_line(tmp_path, label: str):
    path = write(
        tmp_path, HEADER + "0,v,1,A B,A.,B,gold,b.,c.,d.,e.,1\n0,v,1,A B,A.,B,gold,b.,c.,d.,e.," + label + "\n"
    )
    with pytest.raises(Refused) as refusal:
        read_swag(path)
    assert str(refusal.value).startswith(f"{path}, line 3")
    assert f"label {label!r} is none of 0, 1, 2, 3" in str(refusal.value)


@pytest.mark.parametrize("column", ["sent1", "sent2", "ending3"])
def test_a_missing_column_is_named(tmp_path, column: str):
    path = write(tmp_path, HEADER.replace(column, "other") + "0,v,1,A B,A.,B,gold,b.,c.,d.,e.,1\n")
    with pytest.raises(Refused, match=f"train.csv.*'{column}'"):
        read_swag(path)


def test_what_the_task_is():
    task = TASKS["swag"]
    assert task.kind == "multiple_choice" and task.read is read_swag
    assert task.files == {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}


@pytest.mark.parametrize(("split", "labels"), [("train", [0, 3, 1, 3]), ("validation", [2] * 4), ("test", [None] * 4)])
def test_published_rows(split: str, labels: list):
    path = DATA / TASKS["swag"].files[split]
    if not path.exists():
        pytest.skip(f"needs the published rows in {DATA}; DEBERTA_JAX_DATA names the folder above layouts")
    examples = read_swag(path)
    assert [example.label for example in examples] == labels
    with path.open(encoding="utf-8", newline="") as file:
        begun = [row["startphrase"] for row in csv.DictReader(file)]
    for example, beginning in zip(examples, begun, strict=True):
        assert len(set(example.options)) == 4
        assert all(" ".join(option).startswith(beginning + " ") for option in example.options)
