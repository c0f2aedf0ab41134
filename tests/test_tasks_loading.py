"""What a run is trained on: a user's own files and a task's, their labels, and all that cannot be trained on."""

import dataclasses
import json
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks import scoring
from deberta_jax.tasks.examples import Answer, Choice, Prediction, Question, Sentence, Text
from deberta_jax.tasks.loading import Examples, check_scorable, is_known, load_examples, open_task, read_split
from deberta_jax.tasks.registry import TASKS
from task_builders import task_data

KINDS = {
    "classification": {
        "columns": {"id": "name", "segments": ("one", "two"), "label": "verdict"},
        "train": 'name,one,two,verdict\nx,ka,te,yes\ny,"ka, te",mo,no\nz,mo,ri,yes\n',
        "dev": "name,one,two,verdict\nv,ri,mo,no\n",
        "suffix": ".csv",
        "examples": [
            Text("x", ("ka", "te"), "yes"),
            Text("y", ("ka, te", "mo"), "no"),
            Text("z", ("mo", "ri"), "yes"),
        ],
        "validation": [Text("v", ("ri", "mo"), "no")],
        "labels": ("no", "yes"),
        "selection": ("accuracy",),
    },
    "regression": {
        "columns": {"segments": ("one",), "label": "score"},
        "train": 'one\tscore\nka "te"\t2.5\nmo\t-1\n',
        "dev": "one\tscore\nri\t0\n",
        "suffix": ".tsv",
        "examples": [Text("0", ('ka "te"',), 2.5), Text("1", ("mo",), -1.0)],
        "validation": [Text("0", ("ri",), 0.0)],
        "labels": ("score",),
        "selection": ("pearson", "spearman"),
    },
    "multiple_choice": {
        "columns": {"segments": ("stem",), "options": ("a", "b"), "label": "right"},
        "train": "stem\ta\tb\tright\nka\tte\tmo\tB\nka\tri\tmo\t0\n",
        "dev": "stem\ta\tb\tright\nka\tri\tte\tri\n",
        "suffix": ".tsv",
        "examples": [Choice("0", (("ka", "te"), ("ka", "mo")), 1), Choice("1", (("ka", "ri"), ("ka", "mo")), 0)],
        "validation": [Choice("0", (("ka", "ri"), ("ka", "te")), 0)],
        "labels": (),
        "selection": ("accuracy",),
    },
    "tagging": {
        "columns": {"words": "words", "tags": "tags"},
        "train": '{"words": ["Ka", "te"], "tags": ["B-X", "I-X"]}\n{"words": ["mo"], "tags": ["O"]}\n',
        "dev": '{"words": ["ri"], "tags": ["O"]}\n',
        "suffix": ".jsonl",
        "examples": [Sentence("0", ("Ka", "te"), ("B-X", "I-X")), Sentence("1", ("mo",), ("O",))],
        "validation": [Sentence("0", ("ri",), ("O",))],
        "labels": ("B-X", "I-X", "O"),
        "selection": ("f1",),
    },
    "span": {
        "columns": {"question": "q", "context": "c", "answers": "a"},
        "train": '{"q": "ka?", "c": "te mo te", "a": ["mo"]}\n{"q": "ri?", "c": "te", "a": "te"}\n',
        "dev": '{"q": "mo?", "c": "mo ri", "a": ["mo", "ri"]}\n',
        "suffix": ".jsonl",
        "examples": [
            Question("0", "ka?", "te mo te", (Answer("mo", 3),), False),
            Question("1", "ri?", "te", (Answer("te", 0),), False),
        ],
        "validation": [Question("0", "mo?", "mo ri", (Answer("mo", 0), Answer("ri", 3)), False)],
        "labels": (),
        "selection": ("f1",),
    },
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
LINES = [f"ka {number}\t{'no' if number % 3 else 'yes'}\n" for number in range(20)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def of_kind(kind: str, folder: Path, **changes):
    """Examples of a kind's small files in the folder."""
    case = KINDS[kind]
    train, dev = (write(folder / (name + case["suffix"]), case[name]).name for name in ("train", "dev"))
    settings = {"dir": str(folder), "train": train, "validation": (dev,), "columns": case["columns"]}
    return load_examples(task_data(**settings | changes), kind, seed=0)


def of_lines(folder: Path, *, train: list[str], dev: list[str], seed: int = 0, **changes) -> Examples:
    """Examples of a classification whose files have these lines below their header."""
    for name, lines in (("train.tsv", train), ("dev.tsv", dev)):
        write(folder / name, "".join(["text\tlabel\n", *lines]))
    columns = {"segments": ("text",), "label": "label"}
    data = task_data(**{"dir": str(folder), "train": "train.tsv", "columns": columns} | changes)
    return load_examples(data, "classification", seed)


def of_sst2(folder: Path, **changes) -> Examples:
    """Examples of a task of the registry, from files of its own layout."""
    write(folder / "train.tsv", "sentence\tlabel\nka\t1\nte\t0\n")
    write(folder / "dev.tsv", "sentence\tlabel\nmo\t0\n")
    write(folder / "test.tsv", "index\tsentence\n0\tri\n")
    data = dataclasses.replace(task_data(), task="sst-2", columns=None, dir=str(folder), train="train", validation=())
    return load_examples(dataclasses.replace(data, **changes), "classification", seed=0)


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(Refused) as refused:
        function(*arguments, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


@EVERY_KIND
def test_a_custom_task_of_each_kind_is_read_from_its_files(kind, tmp_path):
    found, case = of_kind(kind, tmp_path), KINDS[kind]
    assert found.train == case["examples"]
    assert found.validation == {"dev" + case["suffix"]: case["validation"]}
    assert (found.task.kind, found.task.labels, found.task.selection) == (kind, case["labels"], case["selection"])


def gold(example) -> object:
    if isinstance(example, Question):
        return example.answers[0].text if example.answers else ""
    return example.tags if isinstance(example, Sentence) else example.label


@EVERY_KIND
def test_a_custom_task_scores_what_selects_its_checkpoint(kind, tmp_path):
    found = of_kind(kind, tmp_path)
    right = [Prediction(gold(example)) for example in found.train]
    wrong = [Prediction(("O", "O")), right[1]] if kind == "tagging" else [right[1], right[0], *right[2:]]
    best, worse = (found.task.score(found.train, predictions) for predictions in (right, wrong))
    for metric in found.task.selection:
        assert best[metric] == pytest.approx(1) and worse[metric] < 0.9


def test_questions_without_answers_in_the_training_file_make_a_task_of_v2(tmp_path):
    assert of_kind("span", tmp_path).task.score is scoring.squad
    with_none = KINDS["span"]["train"] + '{"q": "te?", "c": "te", "a": []}\n'
    write(tmp_path / "more.jsonl", with_none)
    found = of_kind("span", tmp_path, train="more.jsonl")
    assert found.train[-1] == Question("2", "te?", "te", (), True)
    assert found.task.score is scoring.squad_v2


def test_a_question_without_an_answer_in_validation_alone_makes_one_too(tmp_path):
    case = KINDS["span"]
    (tmp_path / "more.jsonl").write_text('{"q": "ka?", "c": "te ri", "a": ""}\n')
    examples = of_kind("span", tmp_path, validation=("dev" + case["suffix"], "more.jsonl"))
    assert examples.task.score is scoring.squad_v2
    assert examples.task.score(examples.validation["more.jsonl"], [Prediction("")])["exact"] == 1.0


def test_what_cannot_be_scored_whole_is_refused():
    known, hidden = Question("a", "q", "te", (Answer("te", 0),), False), Question("b", "q", "te", (), None)
    impossible = Question("c", "q", "te", (), True)
    of_v1, of_v2 = (open_task(task_data(), "span", (), answerless) for answerless in (False, True))
    for task in (of_v1, of_v2):
        check_scorable(task, "dev", [known, known])
        check_scorable(task, "dev", [hidden, hidden])
        assert refusal(check_scorable, task, "dev", [known, hidden]) == (
            "dev: example b has no label, but others have: 1 of 2"
        )
    check_scorable(of_v2, "dev", [known, impossible])
    assert refusal(check_scorable, of_v1, "dev", [known, impossible]).startswith("dev: question c has no answer")


def test_the_folder_may_be_below_ones_home(tmp_path, monkeypatch):
    """Shells leave the ~ of --config.data.dir=~/x as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets" / "train.tsv", "sentence\tlabel\nri\t0\n")
    data = dataclasses.replace(task_data(), task="sst-2", columns=None, dir="~/sets")
    assert read_split(data, TASKS["sst-2"], "train") == [Text("0", ("ri",), "0")]
    data = dataclasses.replace(data, dir="elsewhere")
    assert read_split(data, TASKS["sst-2"], "~/sets/train.tsv") == [Text("0", ("ri",), "0")]


@pytest.mark.parametrize(
    ("tags", "selection"),
    [(("B-X", "I-X", "O"), "f1"), (("O",), "f1"), (("NOUN", "O"), "token_accuracy"), (("B-X", "X"), "token_accuracy")],
)
def test_tags_are_scored_as_entities_where_they_mark_entities(tmp_path, tags, selection):
    lines = [json.dumps({"words": ["ka", "te"], "tags": [tag, tag]}) + "\n" for tag in tags]
    write(tmp_path / "tags.jsonl", "".join(lines))
    found = of_kind("tagging", tmp_path, train="tags.jsonl", validation=("tags.jsonl",))
    assert found.task.labels == tags and found.task.selection == (selection,)
    right = [Prediction(example.tags) for example in found.train]
    assert found.task.score(found.train, right)[selection] == (0 if tags == ("O",) else 1)


def test_tagged_words_may_stand_in_columns_as_in_conll(tmp_path):
    write(tmp_path / "train.txt", "ka NN I-X\nte NN I-X\n\nmo VB O\n")
    write(tmp_path / "dev.conll", "ri NN B-X\n")
    found = of_kind("tagging", tmp_path, train="train.txt", validation=("dev.conll",))
    assert found.train == [Sentence("0", ("ka", "te"), ("B-X", "I-X")), Sentence("1", ("mo",), ("O",))]
    assert found.validation == {"dev.conll": [Sentence("0", ("ri",), ("B-X",))]}
    assert found.task.labels == ("B-X", "I-X", "O")
    assert "train.txt is none of .tsv, .csv, .jsonl" in refusal(of_kind, "span", tmp_path, train="train.txt")


@pytest.mark.parametrize(("answerless", "score"), [(False, scoring.squad), (True, scoring.squad_v2)])
def test_a_task_is_opened_for_evaluation_with_what_its_run_knows(answerless, score):
    assert open_task(task_data(), "span", (), answerless).score is score
    assert open_task(task_data(), "classification", ("b", "a"), answerless).labels == ("b", "a")


def test_a_task_of_the_registry_is_read_from_its_own_files(tmp_path):
    found = of_sst2(tmp_path)
    assert found.task is TASKS["sst-2"]
    assert found.train == [Text("0", ("ka",), "1"), Text("1", ("te",), "0")]
    assert found.validation == {"validation": [Text("0", ("mo",), "0")]}


def test_the_labels_are_those_of_the_training_file_unless_they_are_named(tmp_path):
    found = of_lines(tmp_path, train=["a\tno\n", "b\tyes\n", "c\tmaybe\n", "d\tno\n"], dev=["e\tyes\n"])
    assert found.task.labels == ("maybe", "no", "yes")
    named = ("yes", "perhaps", "no")
    found = of_lines(tmp_path, train=["a\tno\n", "b\tyes\n"], dev=["e\tperhaps\n"], labels=named)
    assert found.task.labels == named


def test_a_label_that_only_validation_has_is_refused_with_file_and_line(tmp_path):
    said = refusal(of_lines, tmp_path, train=["a\tno\n", "b\tyes\n"], dev=["c\tno\n", "d\tyess\n"])
    assert said == f"{tmp_path / 'dev.tsv'}, line 3: label 'yess' is none of no, yes, did you mean 'yes'?"


def test_a_classification_has_two_labels(tmp_path):
    said = refusal(of_lines, tmp_path, train=["ka\tyes\n", "te\tyes\n"], dev=["mo\tyes\n"])
    assert said == "train.tsv: all its labels are 'yes': is data.columns.label right?"


def test_a_label_that_is_not_among_those_named_is_refused_with_file_and_line(tmp_path):
    said = refusal(of_lines, tmp_path, train=["a\tno\n", "b\tyes\n"], dev=["c\tno\n"], labels=("no", "maybe"))
    assert said.startswith(f"{tmp_path / 'train.tsv'}, line 3: label 'yes' is none of no, maybe")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("txt\tlabel\nka\tno\n", "train.tsv has no column 'text', did you mean 'txt'?; it has txt, label"),
        ("", "train.tsv is empty"),
        ("text\tlabel\n", "train.tsv has a header but no rows"),
        ("text\tlabel\nka\tno\nte\n", "train.tsv, line 3 has 1 fields instead of 2"),
        ("text\tlabel\nka\tno\nte\t\n", "train.tsv, line 3 has no 'label', but"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_a_line_that_names_it(tmp_path, train, message):
    write(tmp_path / "train.tsv", train)
    columns = {"segments": ("text",), "label": "label"}
    data = task_data(dir=str(tmp_path), train="train.tsv", columns=columns)
    said = refusal(load_examples, data, "classification", 0)
    assert said.startswith(f"{tmp_path}/") and message in said


def test_a_file_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    said = refusal(of_sst2, tmp_path, train="tran.tsv")
    assert said == f"there is no file {tmp_path / 'tran.tsv'}, did you mean 'train.tsv'?"


def test_a_file_is_named_in_the_folder_or_by_its_whole_path(tmp_path):
    folder, elsewhere = tmp_path / "files", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    other = write(elsewhere / "other.tsv", "text\tlabel\nri\tyes\n")
    for name in ("other.tsv", str(other)):
        write(folder / "other.tsv", "text\tlabel\nmo\tno\n")
        found = of_lines(folder, train=LINES, dev=LINES, validation=(name,))
        expected = Text("0", ("ri",), "yes") if name == str(other) else Text("0", ("mo",), "no")
        assert found.validation == {name: [expected]}


def test_a_task_of_the_registry_may_be_trained_on_another_file(tmp_path):
    write(tmp_path / "more.tsv", "sentence\tlabel\nri\t0\n")
    assert of_sst2(tmp_path, train="more.tsv").train == [Text("0", ("ri",), "0")]
    assert of_sst2(tmp_path, validation=("more.tsv", "validation")).validation == {
        "more.tsv": [Text("0", ("ri",), "0")],
        "validation": [Text("0", ("mo",), "0")],
    }


def test_nothing_of_a_prepared_set_is_taken_for_a_file(tmp_path):
    write(tmp_path / "dataset_info.json", "{}")
    said = refusal(of_sst2, tmp_path, train="more.tsv")
    assert said == f"{tmp_path} is a prepared set: its splits are train, validation, test, not 'more.tsv'"
    outside = write(tmp_path / "more.tsv", "sentence\tlabel\nri\t0\n")
    data = dataclasses.replace(task_data(), task="sst-2", columns=None, dir=str(tmp_path))
    assert read_split(data, TASKS["sst-2"], str(outside)) == [Text("0", ("ri",), "0")]


@pytest.mark.parametrize("names", [("test",), ("validation", "test")])
def test_a_checkpoint_is_never_chosen_on_a_test(tmp_path, names):
    said = refusal(of_sst2, tmp_path, validation=names)
    assert said == "data.validation names 'test': a checkpoint is never chosen on a test"


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("xnli", "xnli.test.jsonl"),
        ("xnli", "below/xnli.test.tsv"),
        ("mnli", "test_matched.csv"),
        ("race-middle", "test/middle"),
        ("race-middle", "test_middle.jsonl"),
        ("sst-2", "my-test.tsv"),
        ("race-middle", "./test/middle"),
        ("race-middle", "dev/../test/middle/1.txt"),
        ("race-middle", "/elsewhere/RACE/test/middle"),
        ("race", "test/middle"),
        ("race", "test/high/1.txt"),
        ("race-high", "test"),
    ],
)
def test_a_test_has_many_names(tmp_path, name, test):
    task = TASKS[name]
    data = dataclasses.replace(task_data(), task=name, columns=None, dir=str(tmp_path), validation=(test,))
    assert f"names {test!r}: a checkpoint is never chosen on a test" in refusal(load_examples, data, task.kind, 0)


@pytest.mark.parametrize(
    ("name", "file"),
    [("race-middle", "dev/middle"), ("race", "dev/middle/1.txt"), ("xnli", "mine.jsonl"), ("mnli", "test/dev.tsv")],
)
def test_other_files_are_no_tests(tmp_path, name, file):
    """The folder of everything may be called test."""
    folder = tmp_path / "test"
    data = dataclasses.replace(task_data(), task=name, columns=None, dir=str(folder), validation=(str(folder / file),))
    said = refusal(load_examples, data, TASKS[name].kind, 0)
    assert "never chosen" not in said and "there is no file" in said


def test_neither_is_it_on_one_of_two_tests(tmp_path):
    header = "index\tsentence1\tsentence2\tgold_label\n"
    write(tmp_path / "train.tsv", f"{header}0\tka\tte\tneutral\n")
    data = dataclasses.replace(task_data(), task="mnli", columns=None, dir=str(tmp_path), train="train")
    data = dataclasses.replace(data, validation=("test_mismatched",))
    assert "names 'test_mismatched'" in refusal(load_examples, data, "classification", 0)


def test_what_has_no_label_is_neither_trained_nor_selected_on(tmp_path):
    why = "has no label: it can be predicted, not trained or selected on"
    assert refusal(of_sst2, tmp_path, train="test") == f"test: example 0 {why}"
    (tmp_path / "hidden.tsv").write_bytes((tmp_path / "test.tsv").read_bytes())
    said = refusal(of_sst2, tmp_path, validation=("validation", str(tmp_path / "hidden.tsv")))
    assert said == f"{tmp_path / 'hidden.tsv'}: example 0 {why}"


def test_a_test_is_not_validated_on_by_the_name_of_its_file_either(tmp_path):
    said = refusal(of_sst2, tmp_path, validation=(str(tmp_path / "test.tsv"),))
    assert said.endswith("a checkpoint is never chosen on a test")


@EVERY_KIND
def test_hidden_examples_of_each_kind_are_refused(kind, tmp_path):
    case, label = KINDS[kind], {"tagging": "tags", "span": "answers"}.get(kind, "label")
    write(tmp_path / ("hidden" + case["suffix"]), case["dev"].replace(case["columns"][label], "else"))
    said = refusal(of_kind, kind, tmp_path, validation=("hidden" + case["suffix"],))
    assert said.startswith(f"hidden{case['suffix']}: example ") and "has no label" in said
    said = refusal(of_kind, kind, tmp_path, columns=case["columns"] | {label: "nowhere"})
    assert said.startswith(f"train{case['suffix']}: example ") and "has no label (nothing in column 'nowhere')" in said


def test_whether_the_gold_of_an_example_is_there():
    known = [
        Text("", ("ka",), "no"),
        Text("", ("ka",), 0.0),
        Choice("", (("ka",), ("te",)), 0),
        Sentence("", (), ()),
        Question("", "", "", (), True),
        Question("", "", "ka", (Answer("ka", 0),), False),
    ]
    unknown = [
        Text("", ("ka",), None),
        Choice("", (("ka",), ("te",)), None),
        Sentence("", ("ka",), None),
        Question("", "", "ka", (), None),
    ]
    assert all(map(is_known, known)) and not any(map(is_known, unknown))


def test_a_custom_task_has_to_name_what_validates_it(tmp_path):
    said = refusal(of_lines, tmp_path, train=LINES, dev=LINES, validation=())
    assert said == "data.task 'custom' has nothing to validate on: name a file in data.validation"


def test_max_train_draws_so_many_examples_by_the_seed(tmp_path):
    drawn = [of_lines(tmp_path, train=LINES, dev=LINES, max_train=7, seed=seed).train for seed in (0, 1, 0)]
    everything = of_lines(tmp_path, train=LINES, dev=LINES).train
    for sample in drawn:
        assert len(sample) == len(set(sample)) == 7
        assert sample == [example for example in everything if example in sample]  # in the file's order
        assert sample != everything[:7] and sample != everything[-7:]
    assert drawn[0] == drawn[2] != drawn[1]
    assert [len(of_lines(tmp_path, train=LINES, dev=LINES, max_train=most).train) for most in (1, 19)] == [1, 19]


@pytest.mark.parametrize("most", [0, 20, 21, 1000])
def test_a_limit_that_is_none_changes_nothing(tmp_path, most):
    found = of_lines(tmp_path, train=LINES, dev=LINES, max_train=most)
    everything = of_lines(tmp_path, train=LINES, dev=LINES)
    assert (found.train, found.validation) == (everything.train, everything.validation)
    assert len(found.train) == 20


def test_labels_and_validation_do_not_depend_on_the_sample(tmp_path):
    train = [f"ka {number}\t{number % 2}\n" for number in range(20)] + ["te\trare\n"]
    found = [of_lines(tmp_path, train=train, dev=train, max_train=2, seed=seed) for seed in range(3)]
    assert all(each.task.labels == ("0", "1", "rare") for each in found)
    assert all(len(each.validation["dev.tsv"]) == 21 for each in found)


def test_an_unknown_task_is_refused_with_the_nearest():
    data = dataclasses.replace(task_data(), task="mrcp", columns=None)
    assert refusal(open_task, data, "classification", (), False).startswith("no task 'mrcp', did you mean 'mrpc'?")


@pytest.mark.parametrize(
    ("task", "kind", "really"),
    [("sts-b", "classification", "regression"), ("squad", "tagging", "span"), ("rte", "regression", "classification")],
)
def test_a_task_of_another_kind_is_refused(task, kind, really):
    data = dataclasses.replace(task_data(), task=task, columns=None)
    said = refusal(open_task, data, kind, (), False)
    assert said == f"data.task {task!r} is {really}, objective says {kind!r}"


def changed_everywhere(examples: list, change) -> list[list]:
    """The list with one of its examples changed, for each of them."""
    return [[*examples[:i], change(example), *examples[i + 1 :]] for i, example in enumerate(examples)]


CHANGES = {
    "classification": lambda text: text._replace(label=text.label + "!"),
    "regression": lambda text: text._replace(label=text.label + 1e-9),
    "multiple_choice": lambda choice: choice._replace(label=1 - choice.label),
    "tagging": lambda sentence: sentence._replace(words=(*sentence.words[:-1], "other")),
    "span": lambda question: question._replace(answers=(Answer("te", 1),)),
}


@EVERY_KIND
def test_the_fingerprint_is_another_when_any_example_is(kind, tmp_path):
    found = of_kind(kind, tmp_path)
    assert of_kind(kind, tmp_path).fingerprint == found.fingerprint
    others = [dataclasses.replace(found, train=train) for train in changed_everywhere(found.train, CHANGES[kind])]
    for name, examples in found.validation.items():
        for changed in changed_everywhere(examples, CHANGES[kind]):
            others.append(dataclasses.replace(found, validation={name: changed}))
    others.append(dataclasses.replace(found, train=found.train[::-1]))
    others.append(dataclasses.replace(found, train=found.train[:-1]))
    others.append(dataclasses.replace(found, validation={}))
    assert len({found.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_the_fingerprint_is_of_the_sample_and_not_of_the_folder(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    lines = {"train": LINES, "dev": LINES}
    assert of_lines(one, **lines).fingerprint == of_lines(other, **lines).fingerprint
    samples = {of_lines(one, **lines, max_train=7, seed=seed).fingerprint for seed in (0, 1)}
    assert len(samples) == 2 and of_lines(one, **lines).fingerprint not in samples


def test_texts_that_are_no_unicode_have_a_fingerprint_too():
    text = Text("0", ("a\ud800",), "no")
    task = open_task(task_data(), "classification", ("no",), False)
    assert len(Examples(task, [text], {}).fingerprint) == 64


def test_json_and_tables_of_the_same_examples_are_the_same(tmp_path):
    rows = [{"text": text, "label": label} for text, label in (line.strip().split("\t") for line in LINES)]
    write(tmp_path / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    by_table = of_lines(tmp_path, train=LINES, dev=LINES)
    columns = {"segments": ("text",), "label": "label"}
    data = task_data(dir=str(tmp_path), train="train.jsonl", columns=columns)
    assert load_examples(data, "classification", 0).train == by_table.train
