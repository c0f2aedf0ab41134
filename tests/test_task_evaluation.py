"""What is written of predictions and scores, and by which names."""

import json
import math

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.examples import Prediction, Text
from deberta_jax.train.task_evaluation import Result, Split, check_names, write_results


def result(name: str, **scores: float) -> Result:
    return Result(Split(name, [Text("0", ("ka",), "no")], []), [Prediction("no", (1.0, 0.0))], scores)


@pytest.mark.parametrize(
    "names",
    [
        ("a/dev.tsv", "b/dev.tsv"),
        ("dev.tsv", "dev.jsonl"),
        ("test/middle", "validation", "dev/middle"),
        ("validation", "validation"),
    ],
)
def test_predictions_of_two_splits_are_two_files(names):
    with pytest.raises(Refused, match=f"^{names[0]}: there is another split or file '(dev|middle|validation)'"):
        check_names(names)


def test_other_names_may_be_alike():
    check_names(("validation_matched", "validation_mismatched", "a/dev.tsv", "a/dev2.tsv"))


def test_what_is_no_number_is_null_in_json(tmp_path):
    """Python's NaN is no JSON: other readers stop there."""
    said = {"task": "rte", "labels": ("no", "yes"), "step": 3, "score": math.nan}
    write_results(tmp_path, "custom", [result("dev.tsv", accuracy=0.5, loss=math.inf)], said)
    assert json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail) == {
        "task": "rte",
        "labels": ["no", "yes"],
        "step": 3,
        "score": None,
        "scores": {"dev.tsv": {"accuracy": 0.5, "loss": None}},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions-dev.jsonl", "scores.json"]
