"""Text that a model writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np


def default_prompt(tokenizer: Any) -> str:
    """Return a line end, or the first character of a vocabulary that has none."""
    try:
        tokenizer.encode("\n")
    except ValueError:
        return tokenizer.decode([0])
    return "\n"


def own_prompt(text: str) -> str | None:
    """Return a prompt that fits a text: "The " where it has the word, else its first word, None if it has none.

    Examples
    --------
    >>> own_prompt("In the end. The End."), own_prompt("... Ende gut, alles gut"), own_prompt("?!")
    ('The ', 'Ende', None)
    """
    if "The " in text:
        return "The "
    word = re.search(r"\w+", text)
    return word[0][:20] if word else None


def written(model: Any, tokenizer: Any, prompt: str, tokens: int, **settings: Any) -> Iterator[str]:
    """Yield the text after a prompt piece by piece, each character whole; the settings are those of `model.stream`.

    Raises
    ------
    ValueError
        If the prompt is empty or holds a character that the tokenizer does not know.
    """
    if not prompt:
        raise ValueError("generate: expected a prompt of at least one character, got none")
    decoder = tokenizer.text_decoder()
    for ids in model.stream(np.array([tokenizer.encode(prompt)]), max_new_tokens=tokens, **settings):
        piece = decoder.decode(ids)
        if piece:
            yield piece
    rest = decoder.decode([], final=True)
    if rest:
        yield rest
