"""Tables on disk: CSV, JSON, JSON lines and plain text, read into columns."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numtx.text.corpus import TEXT_SUFFIXES

Columns = dict[str, list[Any]]
SAMPLES = ("line", "paragraph", "document")
_INTEGER, _NUMBER = re.compile(r"-?(0|[1-9]\d*)"), re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def read_csv(
    path: str | os.PathLike[str],
    *,
    delimiter: str | None = None,
    column_names: Sequence[str] | None = None,
    column_types: Mapping[str, Callable[[str], Any]] | None = None,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
) -> Columns:
    """Read a table of which each line is a row, cells in quotes where they hold line ends or delimiters.

    A column whose every cell is a whole number becomes int, one of numbers float, any other stays text. What would not
    be written that way again, as 007, is no number.

    Parameters
    ----------
    path : str or path
    delimiter : str, optional
        Default: a tab in a file called .tsv, else a comma.
    column_names : sequence of str, optional
        Of a file whose first line does not give them.
    column_types : dict, optional
        ``{"id": str}``: what to make of the cells of some columns instead.
    encoding, encoding_errors : str
        As for `bytes.decode`: "latin-1", say, or "replace" for bytes that are no text.

    Raises
    ------
    ValueError
        In one line, with its number in the file: cells missing or too many, no header, a name twice, no text.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "tweets.csv")
    ...     _ = path.write_text('text,label\\n"Well, well.",1\\nNo.,0\\n')
    ...     read_csv(path)
    {'text': ['Well, well.', 'No.'], 'label': [1, 0]}
    """
    path = Path(path)
    text = _decoded("read_csv", path, encoding, encoding_errors)
    if delimiter is None:
        delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"read_csv: expected a delimiter of one character, got {delimiter!r}")
    lines = _cells(path, text, delimiter)
    if column_names is None:
        if not lines:
            raise ValueError(f"read_csv: expected a header in '{path}', got an empty file")
        column_names = lines.pop(0)[1]
    names = _names("read_csv", path, column_names)
    for number, cells in lines:
        if len(cells) != len(names):
            raise ValueError(
                f"read_csv: expected {len(names)} cells ({', '.join(names)}) in line {number} of '{path}', "
                f"got {len(cells)}"
            )
    types = dict(column_types or {})
    if unknown := [name for name in types if name not in names]:
        raise ValueError(f"read_csv: expected columns {', '.join(names)} in '{path}', got a type for {unknown[0]}")
    columns = {name: [cells[place] for _, cells in lines] for place, name in enumerate(names)}
    return {
        name: _typed(path, name, cells, types[name]) if name in types else _guessed(cells)
        for name, cells in columns.items()
    }


def read_json_rows(
    path: str | os.PathLike[str],
    *,
    field: str | None = None,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
) -> Columns:
    """Read rows that are JSON objects: one a line, or all in one list, which may be a field of an object.

    Parameters
    ----------
    path : str or path
        A file called .json is read as a whole first; where it is no list, nor an object with `field`, line by line.
    field : str, optional
        Where in an object the list stands, as in ``{"data": [...]}``.
    encoding, encoding_errors : str
        As for `bytes.decode`.

    Raises
    ------
    ValueError
        In one line: no JSON (with the line), no objects, a row without a field that the first row has.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text('{"text": "a", "label": 0}\\n{"text": "b", "label": 1}\\n')
    ...     read_json_rows(path)
    {'text': ['a', 'b'], 'label': [0, 1]}
    """
    path = Path(path)
    text = _decoded("read_json_rows", path, encoding, encoding_errors)
    if field is not None:
        whole = _parsed(path, text, "")
        if not isinstance(whole, dict) or field not in whole:
            there = ", ".join(map(repr, whole)) if isinstance(whole, dict) else type(whole).__name__
            raise ValueError(f"read_json_rows: expected an object with {field!r} in '{path}', got {there}")
        rows = whole[field]
    elif text.lstrip()[:1] == "[":
        rows = _parsed(path, text, "")
    else:
        lines = enumerate(text.split("\n"), 1)
        rows = [_parsed(path, line, f"line {number} of ") for number, line in lines if line.strip()]
    if not isinstance(rows, list):
        raise ValueError(f"read_json_rows: expected a list of objects in '{path}', got {type(rows).__name__}")
    return columns_of_rows(f"read_json_rows: '{path}'", rows)


def read_text_rows(
    path: str | os.PathLike[str],
    *,
    sample_by: str = "line",
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
) -> Columns:
    """Read plain text into one column, ``text``.

    Parameters
    ----------
    path : str or path
    sample_by : {"line", "paragraph", "document"}
        What a row is: a line, empty ones too; what stands between empty lines; or all of it.
    encoding, encoding_errors : str
        As for `bytes.decode`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "poem.txt")
    ...     _ = path.write_text("one\\ntwo\\n\\nthree\\n")
    ...     read_text_rows(path)["text"], read_text_rows(path, sample_by="paragraph")["text"]
    (['one', 'two', '', 'three'], ['one\\ntwo', 'three'])
    """
    if sample_by not in SAMPLES:
        raise ValueError(f"read_text_rows: expected sample_by of {', '.join(SAMPLES)}, got {sample_by!r}")
    text = _decoded("read_text_rows", Path(path), encoding, encoding_errors)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if sample_by == "document":
        return {"text": [text] if text else []}
    if sample_by == "paragraph":
        return {"text": [part.strip("\n") for part in re.split(r"\n{2,}", text) if part.strip("\n")]}
    return {"text": text.removesuffix("\n").split("\n") if text else []}


def read_data(path: str | os.PathLike[str], **settings: Any) -> Columns:
    """Read a file of rows by its name's end: .csv .tsv, .json .jsonl .ndjson, .txt .text .md ...

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "lines.txt")
    ...     _ = path.write_text("one\\ntwo\\n")
    ...     read_data(path)
    {'text': ['one', 'two']}
    """
    reader = _READERS.get(Path(path).suffix.lower())
    if reader is None:
        called = " ".join(suffix for suffix in _READERS if suffix not in TEXT_SUFFIXES)
        raise ValueError(f"read_data: expected a file called {called} or text, got '{path}'")
    return reader(path, **settings)


_READERS: dict[str, Callable[..., Columns]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), read_csv),
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".jsonlines"), read_json_rows),
    **dict.fromkeys(TEXT_SUFFIXES, read_text_rows),
}


def columns_of_rows(owner: str, rows: Iterable[Any]) -> Columns:
    """Turn rows, dicts of the same keys, into columns; `owner` says in messages whose rows they are.

    Examples
    --------
    >>> columns_of_rows("rows", [{"text": "a"}, {"text": "b"}])
    {'text': ['a', 'b']}
    """
    columns: Columns = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{owner}: expected rows that are dicts, got {type(row).__name__} as row {number}")
        if not number:
            columns = {name: [] for name in _names(owner, None, list(row))}
        if row.keys() != columns.keys():
            lacking = [name for name in columns if name not in row]
            got = f"none of {', '.join(lacking)}" if lacking else f"{next(k for k in row if k not in columns)!r} too"
            raise ValueError(f"{owner}: expected the columns {', '.join(columns)} in row {number}, got {got}")
        for name, values in columns.items():
            values.append(row[name])
    return columns


def is_name(name: Any) -> bool:
    """Whether something may be the name of a column: text, of one line, as messages are.

    Examples
    --------
    >>> [is_name(name) for name in ("text", "two words", "two\\nlines", "", 1)]
    [True, True, False, False, False]
    """
    return isinstance(name, str) and name.splitlines() == [name]


def _names(owner: str, path: Path | None, names: Sequence[Any]) -> list[str]:
    where = "" if path is None else f" in '{path}'"
    for place, name in enumerate(names):
        if not is_name(name) or name in names[:place]:
            got = f"{name!r} twice" if name in names[:place] else repr(name)
            raise ValueError(f"{owner}: expected names of columns that are a line of text, each once{where}, got {got}")
    if not names:
        raise ValueError(f"{owner}: expected at least one column{where}, got none")
    return list(names)


def _cells(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The cells of every line that is not empty, with the number of the line they end in."""
    lines = []
    limit = csv.field_size_limit(sys.maxsize if sys.maxsize < 2**31 else 2**31 - 1)  # articles are longer than 128 KB
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                if cells:
                    lines.append((reader.line_num, cells))
        except csv.Error as error:
            raise ValueError(f"read_csv: expected CSV in line {reader.line_num} of '{path}', got: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return lines


def _guessed(cells: list[str]) -> list[Any]:
    if cells and all(_INTEGER.fullmatch(cell) and cell != "-0" for cell in cells):
        return [int(cell) for cell in cells] if max(map(len, cells)) < 20 else cells
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells):
        return [float(cell) for cell in cells]
    return cells


def _typed(path: Path, name: str, cells: list[str], kind: Callable[[str], Any]) -> list[Any]:
    values = []
    for number, cell in enumerate(cells):
        try:
            values.append(kind(cell))
        except (ValueError, TypeError):
            expected = getattr(kind, "__name__", repr(kind))
            raise ValueError(
                f"read_csv: expected {expected} in column {name} of '{path}', got {cell[:40]!r} in row {number}"
            ) from None
    return values


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        got = "too many brackets" if isinstance(error, RecursionError) else error
        raise ValueError(f"read_json_rows: expected JSON in {where}'{path}', got: {got}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name}, which is no number of JSON")


def _decoded(component: str, path: Path, encoding: str, errors: str) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{component}: expected a file, got '{path}', which does not exist") from None
    except OSError as error:
        raise ValueError(f"{component}: expected a readable file, got '{path}': {error.strerror}") from None
    try:
        return data.decode(encoding, errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{component}: expected {encoding}, got byte 0x{data[error.start]:02x} at offset {error.start} of '{path}' "
            "(encoding='latin-1', say, reads another, encoding_errors='replace' what is no text)"
        ) from None
    except LookupError as error:
        raise ValueError(
            f"{component}: expected an encoding and encoding_errors that Python knows, got: {error}"
        ) from None
