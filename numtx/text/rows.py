"""What comes into a tokenizer's call: texts, pairs and batches of them, and ids."""

from typing import Any

import numpy as np


def rows_of(component: str, text: Any, pair: Any, words: bool) -> tuple[list[Any], bool]:
    """Return texts, or (text, pair) tuples, as a list, and whether they came as one."""
    batched = isinstance(text, (list, tuple)) and (not words or (bool(text) and isinstance(text[0], (list, tuple))))
    if not batched:
        _check_text(component, text, words)
        # As in Transformers, an empty second text of a single call counts as none.
        if pair is None or (not pair and isinstance(pair, (str, list, tuple))):
            return [text], False
        _check_text(component, pair, words)
        return [(text, pair)], False
    if not text:
        raise ValueError(f"{component}: expected at least one text, got an empty batch")
    if pair is not None:
        if not isinstance(pair, (list, tuple)) or len(pair) != len(text):
            got = len(pair) if isinstance(pair, (list, tuple)) else type(pair).__name__
            raise ValueError(f"{component}: expected {len(text)} second texts, one a text, got {got}")
        rows: list[Any] = list(zip(text, pair, strict=True))
    else:
        # With words, a tuple is a pair of lists of words, and a list is one text.
        pairs = (tuple,) if words else (tuple, list)
        rows = [tuple(row) if isinstance(row, pairs) and len(row) == 2 else row for row in text]
    for row in rows:
        for part in row if isinstance(row, tuple) else (row,):
            _check_text(component, part, words)
    return rows, True


def _check_text(component: str, text: Any, words: bool) -> None:
    if words:
        if not isinstance(text, (list, tuple)) or not all(isinstance(word, str) for word in text):
            raise ValueError(f"{component}: expected a list of words, got {type(text).__name__}")
    elif not isinstance(text, str):
        raise ValueError(f"{component}: expected a str, got {type(text).__name__}")
    for part in text if words else (text,):
        if any("\ud800" <= character <= "\udfff" for character in part):
            raise ValueError(f"{component}: expected text that UTF-8 can hold, got a lone surrogate in it")


def checked_ids(component: str, ids: Any) -> list[int]:
    listed = [ids] if isinstance(ids, (int, np.integer)) else list(ids)
    for index in listed:
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < 2**32:
            raise ValueError(f"{component}: expected ids of at least 0, got {index!r}")
    return [int(index) for index in listed]
