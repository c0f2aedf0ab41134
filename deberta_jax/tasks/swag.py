"""SWAG: which of four endings follows."""

from pathlib import Path

from deberta_jax.tasks.examples import Choice, Example
from deberta_jax.tasks.glue import known_label
from deberta_jax.tasks.scoring import choices
from deberta_jax.tasks.tables import Row, csv_rows
from deberta_jax.tasks.task import Task

ENDINGS = ("ending0", "ending1", "ending2", "ending3")
NUMBERS = ("0", "1", "2", "3")


def read_swag(path: Path) -> list[Example]:
    """The questions of train.csv, val.csv or test.csv (which has no label); ids count rows from 0.

    An option is (first sentence, beginning of the second and an ending). Raises Refused, naming file and line, for
    missing columns and for a label that is none of 0 to 3.
    """
    return [_choice(str(number), row, where) for number, (where, row) in enumerate(csv_rows(path))]


def _choice(id: str, row: Row, where: str) -> Choice:
    options = tuple((row["sent1"], f"{row['sent2']} {row[ending]}") for ending in ENDINGS)
    label = int(known_label(row["label"], NUMBERS, where)) if "label" in row else None
    return Choice(id, options, label)


TASKS = {
    "swag": Task(
        kind="multiple_choice",
        labels=(),
        folder="SWAG",
        files={"train": "train.csv", "validation": "val.csv", "test": "test.csv"},
        read=read_swag,
        prepared=None,
        validation=("validation",),
        score=choices,
        selection=("accuracy",),
    )
}
