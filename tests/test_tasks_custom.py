"""Reading a user's own files by the names of their columns."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from deberta_jax.config import ColumnsConfig
from deberta_jax.errors import Refused
from deberta_jax.tasks.custom import labels_of, read_custom
from deberta_jax.tasks.examples import KINDS, Answer, Choice, Question, Sentence, Text

NONE = {"segments": (), "options": ()} | dict.fromkeys(
    ("id", "label", "words", "tags", "question", "context", "answers", "answer_start"), ""
)
ODD = "a\u2028b\x85c"
PAIRS = {"segments": ("two", "one"), "label": "class"}
CHOICES = {"segments": ("one",), "options": ("p", "q", "r"), "label": "class"}
TAGS = {"words": "tokens", "tags": "names"}
SPANS = {"question": "ask", "context": "page", "answers": "gold", "answer_start": "at"}
PAGE = "Paris is big. Is Paris old?"


def columns(**named: Any) -> ColumnsConfig:
    return ColumnsConfig(**(NONE | named))


def read(path: Path, kind: str, labels: tuple[str, ...] = (), **named: Any) -> list:
    return read_custom(path, kind, columns(**named), labels)


def written(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    """The rows as .tsv, .csv or .jsonl."""
    path = folder / f"own{ending}"
    file = io.StringIO()
    if ending == ".csv":
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif ending == ".tsv":
        file.write("\n".join("\t".join(map(str, line)) for line in [list(rows[0]), *(row.values() for row in rows)]))
    else:
        file.write("\n".join(json.dumps(row) for row in rows))
    path.write_bytes(file.getvalue().encode())
    return path


def json_refusal(
    folder: Path, kind: str, rows: list[dict[str, Any]], labels: tuple[str, ...] = (), **named: Any
) -> str:
    path = written(folder, ".jsonl", rows)
    with pytest.raises(Refused) as refusal:
        read(path, kind, labels, **named)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)
    return str(refusal.value).removeprefix(str(path)).lstrip(", ")


every_ending = pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl"])


@every_ending
def test_texts_have_the_columns_that_are_named(tmp_path, ending: str):
    rows = [{"n": "x7", "one": ODD, "class": "no", "two": 'b "'}, {"n": "x8", "one": "c", "class": "yes", "two": "d"}]
    path = written(tmp_path, ending, rows)
    assert read(path, "classification", **PAIRS, id="n") == [
        Text("x7", ('b "', ODD), "no"),
        Text("x8", ("d", "c"), "yes"),
    ]
    assert read(path, "classification", ("yes", "no"), segments=("one",), label="class") == [
        Text("0", (ODD,), "no"),
        Text("1", ("c",), "yes"),
    ]


def test_quotes_count_in_csv_only(tmp_path):
    for ending, separator, text in ((".csv", ",", "a, b"), (".tsv", "\t", '"a, b"')):
        path = tmp_path / f"own{ending}"
        path.write_text(f'one{separator}class\n"a, b"{separator}x\n')
        assert read(path, "classification", segments=("one",), label="class") == [Text("0", (text,), "x")]


@every_ending
def test_numbers_are_labels_of_regression(tmp_path, ending: str):
    rows = [{"one": "a", "two": "b", "class": 2}, {"one": "c", "two": "d", "class": -0.5}]
    assert read(written(tmp_path, ending, rows), "regression", **PAIRS) == [
        Text("0", ("b", "a"), 2.0),
        Text("1", ("d", "c"), -0.5),
    ]


@every_ending
@pytest.mark.parametrize("labels", [("2", "0"), ("C", "A"), ("hot", "cold")])
def test_the_right_option_is_told_by_number_letter_or_text(tmp_path, ending: str, labels: tuple[str, str]):
    texts = {"one": "It is", "p": "cold", "q": "warm", "r": "hot"}
    path = written(tmp_path, ending, [texts | {"class": label} for label in labels])
    options = (("It is", "cold"), ("It is", "warm"), ("It is", "hot"))
    assert read(path, "multiple_choice", **CHOICES) == [Choice("0", options, 2), Choice("1", options, 0)]


@every_ending
def test_options_need_no_segments(tmp_path, ending: str):
    path = written(tmp_path, ending, [{"p": "cold", "q": "hot", "class": "B"}])
    named = {"options": ("q", "p"), "label": "class"}
    assert read(path, "multiple_choice", **named) == [Choice("0", (("hot",), ("cold",)), 1)]


def test_options_beyond_the_alphabet_have_no_letters(tmp_path):
    row = {f"o{number}": f"x{number}" for number in range(30)}
    path = written(tmp_path, ".jsonl", [row | {"class": label} for label in ("Z", "x29", 28, "27")])
    choices = read(path, "multiple_choice", options=tuple(row), label="class")
    assert [choice.label for choice in choices] == [25, 29, 28, 27]


def test_a_number_of_json_is_never_the_text_of_an_option(tmp_path):
    row = {"one": "x", "p": "1", "q": "2", "r": "3"}
    path = written(tmp_path, ".jsonl", [row | {"class": 1}, row | {"class": "B"}, row | {"class": "3"}])
    assert [choice.label for choice in read(path, "multiple_choice", **CHOICES)] == [1, 1, 2]
    refused = json_refusal(tmp_path, "multiple_choice", [row | {"class": "2"}], **CHOICES)
    assert refused == "line 1: label '2' may mean each of the options 1, 2"


@every_ending
def test_words_and_tags(tmp_path, ending: str):
    words, tags = ("El\xa0Ni\u00f1o", "hits", "Per\u2028u"), ("B-X", "O", "B-LOC")
    row = {"tokens": list(words), "names": list(tags)}
    if ending != ".jsonl":
        row = {"tokens": "  ".join(words) + " ", "names": " ".join(tags)}
    path = written(tmp_path, ending, [row])
    assert read(path, "tagging", **TAGS) == [Sentence("0", words, tags)]
    assert read(path, "tagging", ("B-LOC", "B-X", "O"), **TAGS) == [Sentence("0", words, tags)]


def test_words_of_a_csv_may_stand_on_lines(tmp_path):
    path = written(tmp_path, ".csv", [{"tokens": "a b\nc\td", "names": "1 2\n3 4"}])
    assert read(path, "tagging", **TAGS) == [Sentence("0", ("a", "b", "c", "d"), ("1", "2", "3", "4"))]


@every_ending
def test_an_answer_of_a_table_is_one_text(tmp_path, ending: str):
    rows = [
        {"ask": "Where?", "page": PAGE, "gold": "Paris", "at": "17"},
        {"ask": "How?", "page": PAGE, "gold": "old", "at": ""},
        {"ask": "Who?", "page": PAGE, "gold": "", "at": ""},
    ]
    assert read(written(tmp_path, ending, rows), "span", **SPANS) == [
        Question("0", "Where?", PAGE, (Answer("Paris", 17),), False),
        Question("1", "How?", PAGE, (Answer("old", 23),), False),
        Question("2", "Who?", PAGE, (), True),
    ]


@pytest.mark.parametrize(
    ("gold", "at", "answers"),
    [
        (["Paris", "big"], [17, 9], [("Paris", 17), ("big", 9)]),
        (["big"], [None], [("big", 9)]),
        ("Paris", 0, [("Paris", 0)]),
        ([{"text": "Paris", "answer_start": 17}, {"text": "old"}], None, [("Paris", 17), ("old", 23)]),
        ({"text": ["Paris", "big"], "answer_start": [0, 9]}, None, [("Paris", 0), ("big", 9)]),
        ({"text": [], "answer_start": []}, None, []),
        ([], [], []),
        ("", None, []),
    ],
)
def test_every_form_of_answers_of_json(tmp_path, gold: Any, at: Any, answers: list):
    path = written(tmp_path, ".jsonl", [{"ask": "?", "page": PAGE, "gold": gold, "at": at}])
    (question,) = read(path, "span", **SPANS)
    assert question == Question("0", "?", PAGE, tuple(Answer(*each) for each in answers), not answers)


@pytest.mark.parametrize(
    ("text", "start", "found"),
    [
        ("Paris", 17, 17),
        ("Paris", 0, 0),
        ("Paris", 16, -1),
        ("Paris", -10, -1),
        ("Paris", None, -1),
        ("big", 4, 9),
        ("big", None, 9),
        ("big", -1, 9),
        ("old", -4, 23),
        ("?", 999, 26),
        ("is", 0, -1),
    ],
)
def test_a_wrong_start_gives_way_to_the_only_place_of_the_text(tmp_path, text: str, start: int | None, found: int):
    gold = [{"text": text, "answer_start": start}]
    path = written(tmp_path, ".jsonl", [{"ask": "?", "page": PAGE, "gold": gold}])
    (question,) = read(path, "span", question="ask", context="page", answers="gold")
    assert question.answers == (Answer(text, found),)
    assert found < 0 or PAGE[found:].startswith(text)


def test_overlapping_places_are_two(tmp_path):
    path = written(tmp_path, ".tsv", [{"ask": "?", "page": "nanana", "gold": "nana"}])
    (question,) = read(path, "span", question="ask", context="page", answers="gold")
    assert question.answers == (Answer("nana", -1),)


HIDDEN = [  # kind, a row without its label, columns, the example
    ("classification", {"one": "a", "two": "b"}, PAIRS, Text("0", ("b", "a"), None)),
    ("regression", {"one": "a", "two": "b"}, PAIRS, Text("0", ("b", "a"), None)),
    (
        "multiple_choice",
        {"one": "a", "p": "b", "q": "c", "r": "d"},
        CHOICES,
        Choice("0", (("a", "b"), ("a", "c"), ("a", "d")), None),
    ),
    ("tagging", {"tokens": ["a"]}, TAGS, Sentence("0", ("a",), None)),
    ("span", {"ask": "a", "page": "b"}, SPANS, Question("0", "a", "b", (), None)),
]


@pytest.mark.parametrize(("kind", "row", "named", "example"), HIDDEN)
def test_labels_are_hidden_where_a_file_has_no_such_column(tmp_path, kind: str, row: dict, named: dict, example: Any):
    label = {"tagging": "names", "span": "gold"}.get(kind, "class")
    assert read(written(tmp_path, ".jsonl", [row]), kind, **named) == [example]
    assert read(written(tmp_path, ".jsonl", [row | {label: None}]), kind, **named) == [example]
    row = {name: "a" if isinstance(value, list) else value for name, value in row.items()}
    assert read(written(tmp_path, ".tsv", [row]), kind, **named) == [example]
    if kind != "span":  # an empty answer is none
        assert read(written(tmp_path, ".csv", [row | {label: ""}]), kind, **named) == [example]


def test_every_kind_is_tested_without_labels():
    assert tuple(kind for kind, *_ in HIDDEN) == KINDS


def test_labels_that_are_hidden_in_part_are_refused(tmp_path):
    rows = [{"one": "a", "two": "b", "class": "x"}, {"one": "c", "two": "d", "class": ""}, {"one": "e", "two": "f"}]
    refused = json_refusal(tmp_path, "classification", rows, **PAIRS)
    assert refused == f"line 2 has no 'class', but {tmp_path}/own.jsonl, line 1 has"
    assert json_refusal(tmp_path, "regression", [rows[1], rows[2], rows[0] | {"class": 1}], **PAIRS).startswith(
        "line 1 has"
    )
    tagged = [{"tokens": ["a"], "names": ["O"]}, {"tokens": ["b"]}]
    assert json_refusal(tmp_path, "tagging", tagged, **TAGS).startswith("line 2 has no 'names', but")
    asked = [{"ask": "a", "page": "b"}, {"ask": "c", "page": "d", "gold": []}]
    assert json_refusal(tmp_path, "span", asked, **SPANS).startswith("line 1 has no 'gold', but")
    chosen = [{"one": "a", "p": "b", "q": "c", "r": "d", "class": label} for label in (0, None)]
    assert json_refusal(tmp_path, "multiple_choice", chosen, **CHOICES).startswith("line 2 has no 'class', but")


def test_json_labels_are_called_as_json_writes_them(tmp_path):
    rows = [{"one": "a", "two": "b", "class": value} for value in (True, False, 10, "true", "-1", -1)]
    path = written(tmp_path, ".jsonl", rows)
    assert [text.label for text in read(path, "classification", **PAIRS)] == ["true", "false", "10", "true", "-1", "-1"]


def test_json_ids_may_be_numbers(tmp_path):
    rows = [{"one": "a", "two": "b", "class": "x", "n": n} for n in (7, "8")]
    assert [text.id for text in read(written(tmp_path, ".jsonl", rows), "classification", **PAIRS, id="n")] == [
        "7",
        "8",
    ]
    refused = json_refusal(tmp_path, "classification", [*rows, rows[0] | {"n": "7"}], **PAIRS, id="n")
    assert refused == f"line 3: id '7' is that of {tmp_path}/own.jsonl, line 1 too"
    refused = json_refusal(tmp_path, "classification", [rows[0] | {"n": True}], **PAIRS, id="n")
    assert refused == "line 1: field 'n' is no str but bool"


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        ("classification", "segments"),
        ("classification", "label"),
        ("regression", "segments"),
        ("regression", "label"),
        ("multiple_choice", "options"),
        ("multiple_choice", "label"),
        ("tagging", "words"),
        ("tagging", "tags"),
        ("span", "question"),
        ("span", "context"),
        ("span", "answers"),
    ],
)
def test_columns_that_a_kind_needs_have_to_be_named(tmp_path, kind: str, missing: str):
    everything = PAIRS | CHOICES | TAGS | SPANS
    message = rf"^data\.columns\.{missing} names no column, and a task of kind '{kind}' needs one$"
    with pytest.raises(Refused, match=message):
        read(tmp_path / "own.tsv", kind, **(everything | {missing: NONE[missing]}))


def test_other_kinds_and_files_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"^kind 'clasification' is none of .*, did you mean 'classification'\?$"):
        read(tmp_path / "own.tsv", "clasification", **PAIRS)
    with pytest.raises(Refused, match=r"own\.json is none of \.tsv, \.csv, \.jsonl, did you mean '\.jsonl'\?$"):
        read(tmp_path / "own.json", "classification", **PAIRS)
    with pytest.raises(Refused, match="^there is no file "):
        read(tmp_path / "own.csv", "classification", **PAIRS)


@every_ending
def test_columns_that_are_not_there_are_refused_with_the_nearest(tmp_path, ending: str):
    path = written(tmp_path, ending, [{"one": "a", "tow": "b", "class": "x"}])
    what = "line 1 has no field" if ending == ".jsonl" else "has no column"
    with pytest.raises(Refused, match=rf"own\{ending}.*{what} 'two', did you mean 'tow'\?; it has one, tow, class$"):
        read(path, "classification", **PAIRS)
    with pytest.raises(Refused, match=rf"{what} 'on', did you mean 'one'\?"):
        read(path, "classification", segments=("one",), label="class", id="on")
    row = {"ask": "a", "page": "b", "gold": "b"}
    with pytest.raises(Refused, match=rf"{what} 'at'"):
        read(written(tmp_path, ending, [row]), "span", **SPANS)


PAIR = {"one": "a", "two": "b"}
OPTIONS = {"one": "a", "p": "b", "q": "c", "r": "b"}
ASKED = {"ask": "a", "page": PAGE}


@pytest.mark.parametrize(
    ("kind", "row", "named", "message"),
    [
        ("classification", PAIR | {"two": 3}, PAIRS, "line 1: field 'two' is no str but int"),
        ("classification", PAIR | {"class": 1.5}, PAIRS, "line 1: label 1.5 is neither text nor an integer"),
        ("classification", PAIR | {"class": ["x"]}, PAIRS, "line 1: label ['x'] is neither text nor an integer"),
        ("regression", PAIR | {"class": "high"}, PAIRS, "line 1: label 'high' is no finite number"),
        ("regression", PAIR | {"class": "nan"}, PAIRS, "line 1: label 'nan' is no finite number"),
        ("regression", PAIR | {"class": "-inf"}, PAIRS, "line 1: label '-inf' is no finite number"),
        ("regression", PAIR | {"class": 10**400}, PAIRS, f"line 1: label {10**400} is no finite number"),
        ("regression", PAIR | {"class": True}, PAIRS, "line 1: label True is no finite number"),
        ("regression", PAIR | {"class": [1]}, PAIRS, "line 1: label [1] is no finite number"),
        *[
            (
                "multiple_choice",
                OPTIONS | {"class": label},
                CHOICES,
                f"line 1: label {label!r} is neither the number (from 0) nor the letter nor the text of one of the 3 "
                "options",
            )
            for label in (3, -1, "3", "-1", "D", "a", "x", True, [0], 1.0)
        ],
        ("multiple_choice", OPTIONS | {"class": "b"}, CHOICES, "line 1: label 'b' may mean each of the options 0, 2"),
        ("tagging", {"tokens": ["a", "b"], "names": ["O"]}, TAGS, "line 1 has 2 words and 1 tags"),
        ("tagging", {"tokens": ["a", "b"], "names": []}, TAGS, "line 1 has 2 words and 0 tags"),
        ("tagging", {"tokens": ["a"], "names": ["O", "O"]}, TAGS, "line 1 has 1 words and 2 tags"),
        ("tagging", {"tokens": [], "names": []}, TAGS, "line 1 has no words"),
        ("tagging", {"tokens": "a b", "names": "O O"}, TAGS, "line 1: field 'tokens' is no list but str"),
        ("tagging", {"tokens": ["a", ""]}, TAGS, "line 1: field 'tokens' holds '', which is no text"),
        ("tagging", {"tokens": ["a"], "names": [0]}, TAGS, "line 1: field 'names' holds 0, which is no text"),
        ("span", ASKED | {"gold": ["London"], "at": [0]}, SPANS, "line 1: answer 'London' is not in the context"),
        ("span", ASKED | {"gold": ["paris"], "at": [0]}, SPANS, "line 1: answer 'paris' is not in the context"),
        ("span", ASKED | {"gold": "Paris", "at": "0.0"}, SPANS, "line 1: start '0.0' of an answer is no integer"),
        ("span", ASKED | {"gold": "Paris", "at": False}, SPANS, "line 1: start False of an answer is no integer"),
        ("span", ASKED | {"gold": ["Paris"], "at": 0}, SPANS, "line 1: field 'at' is no list but int"),
        ("span", ASKED | {"gold": ["Paris"], "at": []}, SPANS, "line 1 has 1 answers and 0 starts of answers"),
        ("span", ASKED | {"gold": {"text": ["Paris"], "answer_start": []}}, SPANS,
         "line 1 has 1 answers and 0 starts of answers"),
        ("span", ASKED | {"gold": {"text": "Paris", "answer_start": 0}}, SPANS,
         "line 1: field 'text' is no list but str"),
        ("span", ASKED | {"gold": {"text": ["Paris"]}}, SPANS, "line 1 has no field 'answer_start'; it has text"),
        ("span", ASKED | {"gold": [{"txt": "Paris"}]}, SPANS,
         "line 1 has no field 'text', did you mean 'txt'?; it has txt"),
        ("span", ASKED | {"gold": [{"text": "Paris"}, "big"]}, SPANS,
         "line 1: 'text' is looked for in what is no object but str"),
        ("span", ASKED | {"gold": ["Paris", ""], "at": [0, 0]}, SPANS,
         "line 1: field 'gold' holds '', which is no text"),
        ("span", ASKED | {"gold": 3}, SPANS, "line 1: answers are int, and no text, list or object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line(tmp_path, kind: str, row: dict, named: dict, message: str):
    assert json_refusal(tmp_path, kind, [row], **named) == message


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a", "b"]', "[ 'a' ]"])
def test_lists_in_cells_of_tables_are_refused(tmp_path, cell: str):
    """As tables of pandas hold them; blanks would make words of their brackets and quotes."""
    path = tmp_path / "a.tsv"
    for row in (f"{cell}\tO O", f"a b\t{cell}"):
        path.write_text(f"tokens\tnames\n{row}\n")
        with pytest.raises(Refused, match=r"line 2: '(tokens|names)' is a list in brackets"):
            read_custom(path, "tagging", columns(**TAGS), ())
    path.write_text("tokens\tnames\n[ a ' ]\tO O O O\n")
    assert read_custom(path, "tagging", columns(**TAGS), ())[0].words == ("[", "a", "'", "]")


def test_a_label_with_blanks_around_it_is_no_class_of_its_own(tmp_path):
    for label in ("positive ", " positive", " ", "positive\u00a0"):
        refused = json_refusal(tmp_path, "classification", [PAIR | {"class": label}], (), **PAIRS)
        assert refused == f"line 1: label {label!r} has blanks around it"
    refused = json_refusal(tmp_path, "tagging", [{"tokens": ["a"], "names": ["O "]}], (), **TAGS)
    assert refused == "line 1: tag 'O ' has blanks around it"


def test_labels_outside_the_labels_are_refused(tmp_path):
    refused = json_refusal(tmp_path, "classification", [PAIR | {"class": "postive"}], ("negative", "positive"), **PAIRS)
    assert refused == "line 1: label 'postive' is none of negative, positive, did you mean 'positive'?"
    refused = json_refusal(tmp_path, "tagging", [{"tokens": ["a"], "names": ["B-LOK"]}], ("O", "B-LOC"), **TAGS)
    assert refused == "line 1: tag 'B-LOK' is none of O, B-LOC, did you mean 'B-LOC'?"


def test_the_labels_of_examples_are_sorted():
    texts = [Text(str(n), ("a",), label) for n, label in enumerate(["b", None, "a", "b", "10", "9"])]
    assert labels_of(texts, "classification") == ("10", "9", "a", "b")
    assert labels_of([Text("0", ("a",), 2.5)], "regression") == ("score",)
    sentences = [Sentence("0", ("a", "b"), ("O", "B-X")), Sentence("1", ("a",), None), Sentence("2", ("a",), ("I-X",))]
    assert labels_of(sentences, "tagging") == ("B-X", "I-X", "O")
    assert labels_of([Choice("0", (("a",), ("b",)), 1)], "multiple_choice") == ()
    assert labels_of([Question("0", "a", "b", (), True)], "span") == ()
