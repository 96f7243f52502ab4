"""The text that a command is given: as it is, in a file, or on standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from numtx.cli.errors import UsageError


def given_text(said: str | None, what: str) -> str:
    """Return the text that is meant: that of a file of this name, of standard input for "-" or nothing, or itself.

    The line end that closes a file is not part of the text.

    Parameters
    ----------
    said : str or None
    what : str
        What it is called where it is refused.

    Raises
    ------
    ValueError
        If a file or standard input is not UTF-8, or standard input holds nothing.
    """
    if said is None and sys.stdin.isatty():
        raise UsageError(f"run: expected {what}: a text, a file, or - for standard input, got nothing")
    if said is None or said == "-":
        if not (data := sys.stdin.buffer.read()):
            raise UsageError(f"run: expected {what} on standard input, got nothing")
        return _decoded(data, "standard input")
    if _is_file(said):
        return _decoded(Path(said).read_bytes(), f"'{said}'")
    return said


def lines_of(text: str) -> list[str]:
    """Return the lines of a text that hold something.

    Examples
    --------
    >>> lines_of("one\\r\\n\\ntwo\\n")
    ['one', 'two']
    """
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _is_file(said: str) -> bool:
    try:
        return os.path.isfile(said)
    except ValueError:  # a text with a zero byte is no name
        return False


def _decoded(data: bytes, where: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"run: expected UTF-8 in {where}, got another byte at offset {error.start}") from None
    return text.removesuffix("\n").removesuffix("\r")
