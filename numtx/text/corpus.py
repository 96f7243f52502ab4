"""Where text comes from: the standard library's own prose, a file, a folder, standard input."""

import os
import sys
from pathlib import Path
from typing import TypeVar

import numpy as np

TextOrTokens = TypeVar("TextOrTokens", str, np.ndarray)

# What counts as text when a folder is read; a file that is named outright may be called anything.
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".tex", ".org")


def python_topics() -> str:
    """Return the help topics that every CPython ships: about 465 KB of English prose about Python.

    The values of ``pydoc_data.topics.topics`` in the order of their keys, joined by newlines. Other versions of Python
    carry other text.

    Examples
    --------
    >>> "assert" in python_topics()
    True
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("python_topics: expected CPython's pydoc_data.topics, got a Python without it") from None
    return "\n".join(topics[key] for key in sorted(topics))


def read_corpus(source: str | os.PathLike[str]) -> str:
    """Read UTF-8 text from a file, from all text files below a folder, or from standard input.

    Parameters
    ----------
    source : str or path
        A file of any name; a folder, whose files with a suffix of `TEXT_SUFFIXES` are read in the order of their paths
        and joined by newlines (hidden ones are left out); or ``"-"`` for standard input.

    Returns
    -------
    str
        The text as it stands, line ends included. Only a byte order mark in front is dropped.

    Raises
    ------
    ValueError
        If there is nothing at `source`, no text, or text that is not UTF-8 (with the offset of the first wrong byte).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "b.txt").write_text("world")
    ...     _ = pathlib.Path(folder, "a.md").write_text("hello")
    ...     read_corpus(folder)
    'hello\\nworld'
    """
    if os.fspath(source) == "-":
        text = _decoded(sys.stdin.buffer.read(), "standard input")
        name = "standard input"
    else:
        path = Path(source)
        name = f"'{path}'"
        text = "\n".join(_read_file(file) for file in _text_files(path)) if path.is_dir() else _read_file(path)
    if not text.strip("\n"):
        raise ValueError(f"read_corpus: expected text, got nothing in {name}")
    return text


def split_corpus(text: TextOrTokens, held_out: float = 0.1) -> tuple[TextOrTokens, TextOrTokens]:
    """Cut a text (or its tokens) into what is trained on and, from the end, what is kept apart to judge.

    Parameters
    ----------
    text : str or array of shape (N,)
    held_out : float
        The fraction kept apart, above 0 and below 1.

    Returns
    -------
    train, validation
        Together the whole text; validation is the last ``held_out`` of it.

    Raises
    ------
    ValueError
        If `held_out` is no such fraction, or if one of the two would be empty.

    Examples
    --------
    >>> split_corpus("0123456789", held_out=0.2)
    ('01234567', '89')
    """
    if not 0 < held_out < 1:
        raise ValueError(f"split_corpus: expected held_out between 0 and 1, got {held_out}")
    cut = round(len(text) * (1 - held_out))
    if not 0 < cut < len(text):
        raise ValueError(f"split_corpus: expected enough text to hold out {held_out:g} of it, got length {len(text)}")
    return text[:cut], text[cut:]


def _text_files(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if not hidden and path.suffix.lower() in TEXT_SUFFIXES and path.is_file():
            found.append(path)
    if not found:
        raise ValueError(f"read_corpus: expected text files ({' '.join(TEXT_SUFFIXES)}), got none in '{folder}'")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _read_file(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"read_corpus: expected a file, a folder or -, got '{path}', which does not exist") from None
    except OSError as error:
        raise ValueError(f"read_corpus: expected a readable file, got '{path}': {error.strerror}") from None
    return _decoded(data, f"'{path}'")


def _decoded(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"read_corpus: expected UTF-8, got byte 0x{data[error.start]:02x} at offset {error.start} of {name}"
        ) from None
    return text.removeprefix("\ufeff")
