"""Tables and JSON lines, read strictly: what is not as it should be is refused with its file and line.

Lines end at \\n or \\r\\n only; all other line separators of Unicode are part of a text. A byte order mark is dropped.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from deberta_jax.data.documents import json_object
from deberta_jax.errors import Refused, nearest

Value = TypeVar("Value")
csv.field_size_limit(2**31 - 1)  # not 131,072: a field may be a whole article


class Row(dict[str, str]):
    """The fields of a row by column; asking for a column that the table has not is refused with the nearest name."""

    def __init__(self, path: Path, columns: Sequence[str], fields: Sequence[str]):
        super().__init__(zip(columns, fields, strict=True))
        self.path = path

    def __missing__(self, column: str) -> str:
        raise Refused(f"{self.path} has no column {column!r}{nearest(column, self)}; it has {', '.join(self)}")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a text file, blank lines too.

    Raises Refused for a file that is not there, with the nearest name in its folder, and for what is not UTF-8.
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield number, text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{path}, line {number} is not UTF-8: {error.reason} at byte {error.start} of the line"
        ) from error
    except FileNotFoundError as error:
        near = nearest(path.name, [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise Refused(f"there is no file {path}{near}") from error
    except OSError as error:
        raise Refused(f"{path} cannot be read after line {number}: {error}") from error


def tsv_header(path: Path) -> list[str]:
    """The fields of the first line of a tab-separated file. Raises Refused where there is none."""
    for _, line in text_lines(path):
        return line.split("\t")
    raise Refused(f"{path} is empty")


def tsv_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """("FILE, line N", row) of a tab-separated file; quotes are characters like any other, as in GLUE's files.

    Without `columns` the first line names them. Blank lines at the end are left out. Raises Refused for a table without
    rows, for a row with more or fewer fields than columns, and as `text_lines` does.
    """
    return _rows(path, ((number, line.split("\t")) for number, line in _without_blank_end(path)), columns)


def csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """("FILE, line N", row) of a comma-separated file with a header, N being where the row begins.

    A field in double quotes may have commas, line ends and doubled quotes. Blank lines are left out. Raises Refused as
    `tsv_rows` does, and for quotes that do not close.
    """
    return _rows(path, _csv_records(path), None)


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", object) of a file with a JSON object on each line; blank lines are left out.

    Raises Refused for what is no JSON object, for a file without any, and as `text_lines` does.
    """
    empty = True
    for number, line in text_lines(path):
        if line.strip():
            empty = False
            yield f"{path}, line {number}", json_object(line, f"{path}, line {number}")
    if empty:
        raise Refused(f"{path} is empty")


def field(row: Mapping[str, Any], name: str, kind: type[Value], where: str) -> Value:
    """What the row, or a JSON object inside one, has under `name`.

    Raises Refused, beginning with `where`, when it is not there (with the nearest name) or not of that kind. True and
    False are no int.
    """
    if isinstance(row, Row):
        return row[name]
    if not isinstance(row, Mapping):
        raise Refused(f"{where}: {name!r} is looked for in what is no object but {type(row).__name__}")
    if name not in row:
        raise Refused(f"{where} has no field {name!r}{nearest(name, row)}; it has {', '.join(row) or 'none'}")
    value = row[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(f"{where}: field {name!r} is no {kind.__name__} but {type(value).__name__}")
    return value


def _rows(
    path: Path, records: Iterable[tuple[int, list[str]]], columns: Sequence[str] | None
) -> Iterator[tuple[str, Row]]:
    rows = 0
    for number, fields in records:
        if columns is None:
            columns = _checked_header(fields, path)
            continue
        if len(fields) != len(columns):
            raise Refused(f"{path}, line {number} has {len(fields)} fields instead of {len(columns)}")
        rows += 1
        yield f"{path}, line {number}", Row(path, columns, fields)
    if not rows:
        raise Refused(f"{path} is empty" if columns is None else f"{path} has a header but no rows")


def _checked_header(fields: list[str], path: Path) -> list[str]:
    for column in fields:
        if fields.count(column) > 1:
            raise Refused(f"{path} has two columns {column!r}")
    return fields


def _without_blank_end(path: Path) -> Iterator[tuple[int, str]]:
    blank = []
    for number, line in text_lines(path):
        blank.append((number, line))
        if line:
            yield from blank
            blank = []


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line where it begins, fields)"""
    first = 1
    reader = csv.reader((line + "\n" for _, line in text_lines(path)), strict=True)
    try:
        for fields in reader:
            if fields:
                yield first, fields
            first = reader.line_num + 1
    except csv.Error as error:
        raise Refused(f"{path}, line {first} is not CSV: {error}") from error
