"""Texts as predictions, and as references: one for each, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FEATURES = {"predictions": "string", "references": ["string"]}  # or a single text as reference


def text_list(name: str, what: str, texts: Sequence[Any]) -> list[str]:
    """Return texts.

    Raises
    ------
    ValueError
        If one is no text; the message says which.
    """
    for k, one in enumerate(texts):
        if not isinstance(one, str):
            raise ValueError(f"{name}: expected a text as {what} {k}, got {type(one).__name__}")
    return list(texts)


def texts_and_references(
    name: str, predictions: Sequence[Any], references: Sequence[Any]
) -> tuple[list[str], list[list[str]]]:
    """Return texts, and the list of references of each.

    Raises
    ------
    ValueError
        If one is no text, or a text has no reference.

    Examples
    --------
    >>> texts_and_references("rouge", ["a", "b"], ["c", ["d", "e"]])
    (['a', 'b'], [['c'], ['d', 'e']])
    """
    several = []
    for k, one in enumerate(references):
        if isinstance(one, str):
            several.append([one])
        elif isinstance(one, (list, tuple)) and all(isinstance(text, str) for text in one):
            if not one:
                raise ValueError(f"{name}: expected at least one text as reference {k}, got none")
            several.append(list(one))
        else:
            raise ValueError(f"{name}: expected a text or a list of texts as reference {k}, got {type(one).__name__}")
    return text_list(name, "prediction", predictions), several
