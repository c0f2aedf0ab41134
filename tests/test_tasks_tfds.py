"""Reading tasks from sets that TensorFlow Datasets prepared: real ones, written in another process by its own code."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deberta_jax.tasks.examples import Answer, Question, Sentence, Text

SCRIPT = """
import dataclasses
import pickle
import sys
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from deberta_jax.errors import Refused
from deberta_jax.tasks.registry import TASKS
from deberta_jax.tasks.tfds import is_prepared, read_prepared

F = tfds.features
ROOT = sys.argv[1]
found = {}


def prepare(name, config, version, features, splits):
    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(features))

        def _split_generators(self, manager):
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    Made.name = name
    builder = Made(config=config, data_dir=ROOT, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_dir)


def say(key, source, task, split):
    try:
        found[key] = sorted(read_prepared(source, task, split), key=lambda each: each.id)
    except Refused as refusal:
        found[key] = str(refusal).replace(ROOT, "ROOT")


pair = {"sentence1": F.Text(), "sentence2": F.Text(), "idx": np.int32}
three = F.ClassLabel(names=["entailment", "neutral", "contradiction"])
languages = ("ar", "en", "zh")

mrpc = prepare("glue", "mrpc", "2.0.0", pair | {"label": F.ClassLabel(names=["not_equivalent", "equivalent"])}, {
    split: [{"sentence1": f"{split} \\u00e9\\u2028{i}", "sentence2": "b", "idx": 10 + i, "label": label}
            for i, label in enumerate(labels)]
    for split, labels in (("train", (1, 0)), ("validation", (0,)), ("test", (-1, -1)))
})
say("train", mrpc, TASKS["mrpc"], "train")
say("test", mrpc, TASKS["mrpc"], "test")
say("name", "tfds", TASKS["mrpc"], "validation")
say("split", mrpc, TASKS["mrpc"], "validatoin")
say("other", mrpc, TASKS["rte"], "train")
say("none", mrpc, TASKS["swag"], "train")
say("nowhere", ROOT + "/glue/mrpc", TASKS["mrpc"], "train")
found["is_prepared"] = [is_prepared(Path(mrpc)), is_prepared(Path(mrpc).parent)]
lost = dataclasses.replace(TASKS["mrpc"].prepared, splits={"train": "third"})
say("lost", mrpc, dataclasses.replace(TASKS["mrpc"], prepared=lost), "train")
config = dataclasses.replace(TASKS["mrpc"].prepared, name="glue/mprc")
say("config", "tfds", dataclasses.replace(TASKS["mrpc"], prepared=config), "train")
gone = dataclasses.replace(TASKS["mrpc"].prepared, name="gluey")
say("gone", "tfds", dataclasses.replace(TASKS["mrpc"], prepared=gone), "train")

stsb = prepare("glue", "stsb", "2.0.0", pair | {"label": np.float32}, {
    "validation": [{"sentence1": "a", "sentence2": "b", "idx": i, "label": label}
                   for i, label in enumerate((3.8, -1.0))],
})
say("stsb", stsb, TASKS["sts-b"], "validation")

short = {"sentence1": F.Text(), "idx": np.int32, "label": F.ClassLabel(names=["entailment", "not_entailment"])}
rte = prepare("glue", "rte", "2.0.0", short, {
    "train": [{"sentence1": "a", "idx": 0, "label": 1}],
})
say("short", rte, TASKS["rte"], "train")

wnli = prepare("glue", "wnli", "2.0.0", pair | {"label": F.ClassLabel(names=["not_entailment", "entailment"])}, {
    "train": [{"sentence1": b"bad \\xff", "sentence2": "b", "idx": 0, "label": 1}],
})
say("bytes", wnli, TASKS["wnli"], "train")

xnli = prepare("xnli", None, "1.1.0", {
    "premise": F.Translation(languages=languages),
    "hypothesis": F.TranslationVariableLanguages(languages=languages),
    "label": three,
}, {"validation": [
    {"premise": {each: f"p\\u00e9 {each}" for each in languages},
     "hypothesis": {each: f"h {each}" for each in languages}, "label": 2},
]})
say("xnli", xnli, TASKS["xnli"], "validation")

squad = prepare("squad", "v2.0", "3.0.0", {
    "id": F.Text(), "question": F.Text(), "context": F.Text(), "is_impossible": np.bool_,
    "answers": F.Sequence({"text": F.Text(), "answer_start": np.int32}),
}, {"validation": [
    {"id": "a", "question": "q", "context": "one two", "is_impossible": False,
     "answers": [{"text": "two", "answer_start": 4}]},
    {"id": "b", "question": "q", "context": "one two", "is_impossible": True, "answers": []},
]})
say("squad", squad, TASKS["squad-v2"], "validation")

conll = prepare("conll2003", "conll2003", "1.0.0", {
    "tokens": F.Sequence(F.Text()), "ner": F.Sequence(F.ClassLabel(names=["O", "B-PER", "I-PER"])),
}, {"dev": [{"tokens": ["Ann", "Lee", "is"], "ner": [1, 2, 0]}]})
say("conll", conll, TASKS["conll2003"], "validation")

multirc = prepare("super_glue", "multirc", "1.0.2", {
    "paragraph": F.Text(), "question": F.Text(), "answer": F.Text(),
    "idx": {"paragraph": np.int32, "question": np.int32, "answer": np.int32},
    "label": F.ClassLabel(names=["False", "True"]),
}, {"validation": [{"paragraph": "p", "question": "q", "answer": "a", "label": 1,
                    "idx": {"paragraph": 3, "question": 4, "answer": 5}}]})
say("multirc", multirc, TASKS["multirc"], "validation")

found["tensorflow"] = "tensorflow" in sys.modules
Path(ROOT, "found").write_bytes(pickle.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    """Of each case of the script: the examples, sorted by id, or the refusal."""
    root = tmp_path_factory.mktemp("sets")
    here = {"TFDS_DATA_DIR": str(root), "HOME": str(root), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)], capture_output=True, text=True, env=os.environ | here
    )
    assert done.returncode == 0, done.stderr
    return pickle.loads((root / "found").read_bytes())


def test_texts_are_str_and_labels_go_by_name(found):
    assert found["train"] == [
        Text("10", ("train é\u20280", "b"), "1"),
        Text("11", ("train é\u20281", "b"), "0"),
    ]


def test_hidden_labels_are_none(found):
    assert [text.label for text in found["test"]] == [None, None]
    assert found["stsb"] == [Text("0", ("a", "b"), pytest.approx(3.8)), Text("1", ("a", "b"), None)]


def test_a_set_that_was_built_is_found_by_its_name(found):
    assert found["name"] == [Text("10", ("validation é\u20280", "b"), "0")]


def test_rows_of_several_languages(found):
    languages = ("ar", "en", "zh")
    assert found["xnli"] == [
        Text(f"{each}-0", (f"pé {each}", f"h {each}"), "contradiction", group=each) for each in languages
    ]


def test_rows_with_lists_and_objects(found):
    assert found["squad"] == [
        Question("a", "q", "one two", (Answer("two", 4),), False),
        Question("b", "q", "one two", (), True),
    ]
    assert type(found["squad"][0].answers[0].start) is int
    assert found["conll"] == [Sentence("0", ("Ann", "Lee", "is"), ("B-PER", "I-PER", "O"))]
    assert found["multirc"] == [Text("3-4-5", ("p", "q a"), "true", group="3-4")]


def test_only_a_folder_with_the_info_is_a_prepared_set(found):
    assert found["is_prepared"] == [True, False]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "split",
            "data.dir=ROOT/glue/mrpc/2.0.0: glue/mrpc has no split 'validatoin', did you mean 'validation'?; it has "
            "train, validation, test",
        ),
        ("other", "data.dir=ROOT/glue/mrpc/2.0.0 holds glue/mrpc/2.0.0, and the task's set is glue/rte"),
        (
            "none",
            "data.dir=ROOT/glue/mrpc/2.0.0: no set of TensorFlow Datasets is this task (of RACE they are race-middle "
            "and race-high): name the folder of its files",
        ),
        (
            "nowhere",
            "data.dir=ROOT/glue/mrpc is no set prepared by TensorFlow Datasets: it has no dataset_info.json",
        ),
        ("short", "data.dir=ROOT/glue/rte/2.0.0, 'train', row 0 has no 'sentence2'"),
        ("bytes", "data.dir=ROOT/glue/wnli/2.0.0, 'train', row 0 is not UTF-8: invalid start byte at byte 4 of a text"),
    ],
)
def test_what_cannot_be_read_is_refused(found, case: str, message: str):
    assert found[case] == message


def test_the_librarys_own_complaints_are_passed_on_in_a_line(found):
    assert found["lost"].startswith("data.dir=ROOT/glue/mrpc/2.0.0: glue/mrpc: ")
    assert "third" in found["lost"]
    assert found["config"].startswith("data.dir=tfds: glue/mprc: ")
    assert "BuilderConfig" in found["config"]  # the set is known, though nothing else imported it
    assert found["gone"].startswith("data.dir=tfds: gluey: DatasetNotFoundError: Dataset gluey not found. Available")
    assert "\n" not in found["lost"] + found["config"] + found["gone"]


def test_tensorflow_is_not_imported(found):
    assert found["tensorflow"] is False
