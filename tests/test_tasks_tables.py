"""Reading tables and JSON lines strictly."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deberta_jax.errors import Refused
from deberta_jax.tasks.tables import csv_rows, field, json_lines, text_lines, tsv_header, tsv_rows

ODD = 'a "b\u2028c\x85d\x0be\x0cf\x1cg\u2029h\ri,\xa0'  # unbalanced quotes, and all that str.splitlines splits at


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def plain(rows) -> list[dict[str, str]]:
    return [dict(row) for _, row in rows]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_end_at_line_feeds_only(tmp_path, bom: bytes, end: bytes):
    path = written(tmp_path, "a.txt", bom + end.join([ODD.encode(), b"", b"\xef\xbb\xbfx", b"last\r"]) + b"\r\n")
    assert list(text_lines(path)) == [(1, ODD), (2, ""), (3, "\ufeffx"), (4, "last\r")]


def test_a_last_line_needs_no_end(tmp_path):
    assert list(text_lines(written(tmp_path, "a.txt", "x\ny"))) == [(1, "x"), (2, "y")]
    assert list(text_lines(written(tmp_path, "b.txt", ""))) == []


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fields_of_a_tsv_are_what_lies_between_tabs(tmp_path, bom: str, end: str):
    path = written(tmp_path, "a.tsv", bom + end.join(["id\ttext", f"0\t{ODD}", '"\t "x" y ', "\t", ""]))
    assert tsv_header(path) == ["id", "text"]
    assert list(tsv_rows(path)) == [
        (f"{path}, line 2", {"id": "0", "text": ODD}),
        (f"{path}, line 3", {"id": '"', "text": ' "x" y '}),
        (f"{path}, line 4", {"id": "", "text": ""}),
    ]


def test_columns_may_be_given_for_a_tsv_without_a_header(tmp_path):
    path = written(tmp_path, "a.tsv", "x\ty\nz\tw\n")
    assert list(tsv_rows(path, ("one", "two"))) == [
        (f"{path}, line 1", {"one": "x", "two": "y"}),
        (f"{path}, line 2", {"one": "z", "two": "w"}),
    ]


def test_blank_lines_are_left_out_at_the_end_only(tmp_path):
    path = written(tmp_path, "a.tsv", "text\nx\n\ny\n\n\n")
    assert list(tsv_rows(path)) == [(f"{path}, line {n}", {"text": text}) for n, text in ((2, "x"), (3, ""), (4, "y"))]
    with pytest.raises(Refused, match=r"b\.tsv, line 3 has 1 fields instead of 2$"):
        list(tsv_rows(written(tmp_path, "b.tsv", "text\tlabel\nx\t1\n\ny\t2\n")))


def test_a_csv_is_read_as_it_was_written(tmp_path):
    rows = [{"id": "0", "text": ODD}, {"id": "1", "text": 'with, ""commas"" and\n\nlines'}, {"id": "", "text": ""}]
    file = io.StringIO()
    writer = csv.DictWriter(file, ["id", "text"], quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    path = written(tmp_path, "a.csv", "\ufeff" + file.getvalue() + "\r\n")
    assert plain(csv_rows(path)) == rows


def test_a_field_of_a_csv_may_be_a_whole_article(tmp_path):
    path = written(tmp_path, "a.csv", f'id,text\n0,"{"a, " * 100_000}"\n')
    ((_, row),) = csv_rows(path)
    assert row["text"] == "a, " * 100_000


def test_rows_of_a_csv_are_named_by_the_line_where_they_begin(tmp_path):
    path = written(tmp_path, "a.csv", 'id,text\n0,"one\ntwo\nthree"\n1,x\n\n2,y\n')
    assert [where for where, _ in csv_rows(path)] == [f"{path}, line {n}" for n in (2, 5, 7)]


def test_json_lines_are_objects(tmp_path):
    rows = [{"text": ODD, "n": 1}, {}, {"list": [1, {"a": None}]}]
    lines = [json.dumps(rows[0], ensure_ascii=False), "", *map(json.dumps, rows[1:]), " "]
    path = written(tmp_path, "a.jsonl", "\ufeff" + "\r\n".join(lines))
    assert list(json_lines(path)) == [
        (f"{path}, line {number}", row) for number, row in zip((1, 3, 4), rows, strict=True)
    ]


@pytest.mark.parametrize("read", [text_lines, tsv_rows, tsv_header, csv_rows, json_lines])
def test_missing_and_unreadable_files_are_refused(tmp_path, read: Callable):
    written(tmp_path, "train.tsv", "x")
    with pytest.raises(Refused, match=r"^there is no file .*trian\.tsv, did you mean 'train\.tsv'\?$"):
        list(read(tmp_path / "trian.tsv"))
    with pytest.raises(Refused, match=r"^there is no file .*nowhere.train\.tsv$"):
        list(read(tmp_path / "nowhere" / "train.tsv"))
    with pytest.raises(Refused, match=r"cannot be read after line 0: .*directory"):
        list(read(tmp_path))


@pytest.mark.parametrize("read", [text_lines, tsv_rows, csv_rows, json_lines])
def test_what_is_not_utf_8_is_refused_with_its_line(tmp_path, read: Callable):
    path = written(tmp_path, "a", b'{"text": "fine"}\n{"text": "bad \xff"}\n')
    with pytest.raises(Refused, match=r"a, line 2 is not UTF-8: invalid start byte at byte 14 of the line$"):
        list(read(path))


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (tsv_header, "", "a is empty"),
        (tsv_rows, "", "a is empty"),
        (csv_rows, "", "a is empty"),
        (json_lines, "", "a is empty"),
        (tsv_rows, "\n\n", "a is empty"),
        (csv_rows, "\n\n", "a is empty"),
        (json_lines, "\n \n", "a is empty"),
        (tsv_rows, "id\ttext\n", "a has a header but no rows"),
        (csv_rows, "id,text\n\n", "a has a header but no rows"),
        (tsv_rows, "id\ttext\n0\tx\n1\n", "a, line 3 has 1 fields instead of 2"),
        (tsv_rows, "id\ttext\n0\tx\ty\n", "a, line 2 has 3 fields instead of 2"),
        (csv_rows, 'id,text\n0,"x\ny"\n1\n', "a, line 4 has 1 fields instead of 2"),
        (csv_rows, "id,text\n0,x,y\n", "a, line 2 has 3 fields instead of 2"),
        (tsv_rows, "id\ttext\tid\n0\tx\t1\n", "a has two columns 'id'"),
        (csv_rows, "id,id\n0,x\n", "a has two columns 'id'"),
        (csv_rows, 'id,text\n0,x\n1,"never\nclosed\n', "a, line 3 is not CSV: unexpected end of data"),
        (csv_rows, 'id,text\n0,"x"y\n', "a, line 2 is not CSV: ',' expected after '\"'"),
        (json_lines, '{"a": 1}\n{"a": \n', "a, line 2 is not JSON: Expecting value: line 1 column 7 (char 6)"),
        (json_lines, '{"a": 1}\n["a"]\n', "a, line 2 is no JSON object"),
    ],
)
def test_broken_tables_are_refused(tmp_path, read: Callable, content: str, message: str):
    path = written(tmp_path, "a", content)
    with pytest.raises(Refused) as refusal:
        list(read(path))
    assert str(refusal.value) == f"{tmp_path}/{message}"


@pytest.mark.parametrize(("read", "separator"), [(tsv_rows, "\t"), (csv_rows, ",")])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path, read: Callable, separator: str):
    path = written(tmp_path, "a", f"sentence{separator}lable\nx{separator}1\n")
    ((where, row),) = read(path)
    message = r"a has no column 'label', did you mean 'lable'\?; it has sentence, lable$"
    with pytest.raises(Refused, match=message):
        row["label"]
    with pytest.raises(Refused, match=message):
        field(row, "label", str, where)
    assert "label" not in row and row.get("label") is None
    assert field(row, "lable", str, where) == "1"


def test_fields_of_json_are_of_their_kind():
    row = {"text": "x", "n": 3, "yes": True, "list": [1], "object": {"a": "b"}, "none": None}
    assert [field(row, "text", str, "here"), field(row, "n", int, "here"), field(row, "yes", bool, "here")] == [
        "x",
        3,
        True,
    ]
    assert field(field(row, "object", dict, "here"), "a", str, "here") == "b"
    for name, kind, message in [
        ("txet", str, r"^here has no field 'txet', did you mean 'text'\?; it has text, n, yes, list, object, none$"),
        ("text", int, "^here: field 'text' is no int but str$"),
        ("yes", int, "^here: field 'yes' is no int but bool$"),
        ("n", bool, "^here: field 'n' is no bool but int$"),
        ("list", dict, "^here: field 'list' is no dict but list$"),
        ("none", str, "^here: field 'none' is no str but NoneType$"),
    ]:
        with pytest.raises(Refused, match=message):
            field(row, name, kind, "here")
    with pytest.raises(Refused, match="^here has no field 'x'; it has none$"):
        field({}, "x", str, "here")
    with pytest.raises(Refused, match="^here: 'x' is looked for in what is no object but list$"):
        field([1], "x", str, "here")
