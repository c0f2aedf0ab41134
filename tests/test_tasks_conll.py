"""Reading tagged words in columns."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.conll import TASKS, iob2, read_columns
from deberta_jax.tasks.examples import Sentence

DATA = Path(os.environ.get("DEBERTA_JAX_DATA", Path(__file__).parents[2] / "shared" / "data")) / "conll2003"


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "words.txt"
    path.write_bytes(text.encode(encoding))
    return path


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type) as conlleval's two rules for chunks see them, in IOB1 and in IOB2."""
    found, start = set(), 0
    last_prefix, last_type = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, type_ = tag.partition("-")
        ends = last_prefix != "O" and (prefix in ("O", "B") or type_ != last_type)
        begins = prefix == "B" or (prefix == "I" and (last_prefix == "O" or type_ != last_type))
        if ends:
            found.add((start, place, last_type))
        if begins:
            start = place
        last_prefix, last_type = prefix, type_
    return found


def is_iob2(tags: Sequence[str]) -> bool:
    return all(
        before[2:] == tag[2:] and before != "O"
        for before, tag in itertools.pairwise(("O", *tags))
        if tag.startswith("I-")
    )


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC I-LOC", "B-PER B-LOC I-LOC"),
        ("B-PER I-PER B-PER O", "B-PER I-PER B-PER O"),
        ("B-PER I-LOC", "B-PER B-LOC"),
        ("O O", "O O"),
        ("I-A-B I-A-B I-A", "B-A-B I-A-B B-A"),
        ("", ""),
    ],
)
def test_tags_become_iob2(tags: str, expected: str):
    assert iob2(tags.split()) == tuple(expected.split())


def test_every_short_sentence_keeps_its_entities():
    for length in range(1, 5):
        for tags in itertools.product(("O", "B-X", "I-X", "B-Y", "I-Y"), repeat=length):
            converted = iob2(tags)
            assert entities(converted) == entities(tags)
            assert is_iob2(converted)
            assert iob2(converted) == converted


def test_words_and_last_columns_are_read_and_documents_left_out(tmp_path):
    text = (
        "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n  \n-DOCSTART- -X- O O\nPeter NNP I-NP I-PER\n"
    )
    assert read_columns(write(tmp_path, text)) == [
        Sentence("0", ("EU", "rejects"), ("B-ORG", "O")),
        Sentence("1", ("Peter",), ("B-PER",)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a\tO\nb\tB-X\n",
        "a  O \r\nb  B-X\r\n",
        "\ufeffa O\nb B-X",
        "\n\na\t O\n b \tB-X\n\n\n",
        "-DOCSTART-\na O\nb B-X",
    ],
)
def test_separators_ends_of_lines_and_marks_do_not_matter(tmp_path, text: str):
    assert read_columns(write(tmp_path, text)) == [Sentence("0", ("a", "b"), ("O", "B-X"))]


def test_only_blanks_and_tabs_separate(tmp_path):
    words = ("a\u00a0b", "\u3000", "\u2028", "é")
    assert read_columns(write(tmp_path, "".join(f"{word} O\n" for word in words)))[0].words == words


def test_words_alone_have_no_tags(tmp_path):
    assert read_columns(write(tmp_path, "EU\nrejects\n\nPeter\n")) == [
        Sentence("0", ("EU", "rejects"), None),
        Sentence("1", ("Peter",), None),
    ]


@pytest.mark.parametrize("tag", ["E-PER", "S-PER", "L-PER", "PER", "B_PER", "B-", "I-", "o", "IPER", "-"])
def test_other_tags_are_refused_with_their_line(tmp_path, tag: str):
    path = write(tmp_path, f"a O\n\nb B-PER\nc {tag}\n")
    with pytest.raises(Refused) as refusal:
        read_columns(path)
    assert str(refusal.value) == f"{path}, line 4: tag {tag!r} is none of IOB1 and IOB2, which are O, B-TYPE and I-TYPE"


def test_types_that_the_task_does_not_have_are_refused_with_the_nearest(tmp_path):
    path = write(tmp_path, "a O\nb I-PERS\n")
    assert read_columns(path)[0].tags == ("O", "B-PERS")
    with pytest.raises(Refused, match="words.txt, line 2: label 'I-PERS' is none of O, .*, did you mean 'I-PER'"):
        TASKS["conll2003"].read(path)


@pytest.mark.parametrize(
    ("text", "line", "count"), [("a O\nb x O\n", 2, 3), ("a x O\n\nb\n", 3, 1), ("a\nb O\n", 2, 2)]
)
def test_other_numbers_of_columns_are_refused_with_their_line(tmp_path, text: str, line: int, count: int):
    path = write(tmp_path, text)
    with pytest.raises(Refused, match=f"line {line} has {count} columns, the first line has"):
        read_columns(path)


@pytest.mark.parametrize("text", ["", "\n\n", "-DOCSTART- -X- O O\n\n"])
def test_a_file_without_a_sentence_is_refused(tmp_path, text: str):
    with pytest.raises(Refused, match="words.txt has no sentence"):
        read_columns(write(tmp_path, text))


def test_bytes_that_are_no_unicode_are_refused_with_their_line(tmp_path):
    with pytest.raises(Refused, match="words.txt, line 2"):
        read_columns(write(tmp_path, "a O\né O\n", "latin-1"))


def test_tensorflow_datasets_gives_the_same_sentences():
    prepared = TASKS["conll2003"].prepared
    assert (prepared.name, prepared.splits["validation"]) == ("conll2003", "dev")
    row = {"tokens": ["EU", "x"], "pos": ["NNP", "X"], "chunks": ["B-NP", "O"], "ner": ["I-ORG", "I-ORG"]}
    assert prepared.example(row, 5) == [Sentence("5", ("EU", "x"), ("B-ORG", "I-ORG"))]
    assert prepared.example({name: [] for name in row}, 6) == []


def test_what_the_task_is():
    task = TASKS["conll2003"]
    assert task.kind == "tagging" and task.selection == ("f1",) and task.validation == ("validation",)
    assert task.labels == ("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
    assert task.files == {"train": "eng.train", "validation": "eng.testa", "test": "eng.testb"}


@pytest.mark.parametrize(
    ("split", "sentences", "tokens"), [("train", 14041, 203621), ("validation", 3250, 51362), ("test", 3453, 46435)]
)
def test_published_files_are_read_whole_with_every_entity(split: str, sentences: int, tokens: int):
    path = DATA / TASKS["conll2003"].files[split]
    if not path.exists():
        pytest.skip(f"needs the published data in {DATA}; DEBERTA_JAX_DATA names the folder above it")
    examples = TASKS["conll2003"].read(path)
    assert len(examples) == sentences
    assert sum(len(example.words) for example in examples) == tokens
    for example, tags in zip(examples, tags_of(path), strict=True):
        assert entities(example.tags) == entities(tags)
        assert is_iob2(example.tags)


def tags_of(path: Path) -> Iterator[list[str]]:
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line.split(" ") for line in block.splitlines()]
        if lines and lines[0][0] != "-DOCSTART-":
            yield [columns[3] for columns in lines]
