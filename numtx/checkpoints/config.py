"""JSON files: settings, and logs of one object a line."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numtx.checkpoints.atomic import atomic_write


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file atomically: UTF-8, indented, keys in the order given.

    Raises
    ------
    ValueError
        If the content is not JSON's, NaN and infinities included.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(f"{folder}/config.json", {"width": 64})
    ...     read_json(f"{folder}/config.json", required=["width"])
    {'width': 64}
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"write_json: expected JSON content for '{path}', got: {error}") from None
    atomic_write(path, text + "\n")


def read_json(
    path: str | os.PathLike[str], *, required: Iterable[str] = (), version: int | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Parameters
    ----------
    path : str or path
    required : iterable of str
        Keys that must be there.
    version : int, optional
        What ``format_version`` must be.

    Raises
    ------
    ValueError
        In one line: the file is missing, is not whole JSON, is no object, lacks keys, or is of another version.
    """
    content = _parsed("read_json", _read_text("read_json", path), f"'{path}'")
    if version is not None and content.get("format_version") != version:
        got = content.get("format_version", "none")
        raise ValueError(f"read_json: expected format_version {version} in '{path}', got {got}")
    lacking = [key for key in required if key not in content]
    if lacking:
        raise ValueError(f"read_json: expected the keys {', '.join(lacking)} in '{path}', got a file without them")
    return content


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log of one JSON object a line.

    A last line without its line end is what a killed process was writing; it is left out. Any other line must be whole.

    Raises
    ------
    ValueError
        If the file is missing, or a line is not one whole object (with its number).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "log.jsonl").write_text('{"step": 1}\\n{"step": 2}\\n{"st')
    ...     read_json_lines(f"{folder}/log.jsonl")
    [{'step': 1}, {'step': 2}]
    """
    lines = _read_text("read_json_lines", path).split("\n")[:-1]
    return [
        _parsed("read_json_lines", line, f"line {number} of '{path}'")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _read_text(component: str, path: str | os.PathLike[str]) -> str:
    try:
        # Only "\n" ends a line of a log, so no translation of line ends.
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ValueError(f"{component}: expected the file '{path}', got nothing there") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{component}: expected UTF-8 in '{path}', got another byte at offset {error.start}") from None
    except OSError as error:
        raise ValueError(f"{component}: expected a readable file, got '{path}': {error.strerror}") from None


def _parsed(component: str, text: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{component}: expected whole JSON in {name}, got broken JSON{place}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{component}: expected a JSON object in {name}, got {type(content).__name__}")
    return content
