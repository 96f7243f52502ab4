"""When a row ends. A criterion takes ids (R, t), rows just grown by one token, and says of each whether it is done."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Criterion(Protocol):
    """Takes ids (R, t) and returns (R,) booleans: which rows end with their last token."""

    def __call__(self, ids: np.ndarray) -> np.ndarray: ...


class Stopping(list[Criterion]):
    """Several criteria, of which one is enough.

    Examples
    --------
    >>> Stopping([MaxLength(3), EndToken([0])])(np.array([[5, 0], [5, 6]]))
    array([ True, False])
    """

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        done = np.zeros(len(ids), bool)
        for criterion in self:
            done |= criterion(ids)
        return done


class MaxLength:
    """All rows end at `length` tokens, their prompt included.

    Examples
    --------
    >>> MaxLength(2)(np.array([[5, 6]]))
    array([ True])
    """

    def __init__(self, length: int):
        self.length = length

    def __call__(self, ids):
        return np.full(len(ids), ids.shape[1] >= self.length)


class EndToken:
    """A row ends with one of some tokens.

    Examples
    --------
    >>> EndToken([0, 7])(np.array([[5, 7], [7, 5]]))
    array([ True, False])
    """

    def __init__(self, end_ids: np.ndarray):
        self.end_ids = end_ids

    def __call__(self, ids):
        return np.isin(ids[:, -1], self.end_ids)


class MaxTime:
    """All rows end when `seconds` have gone by since this was made.

    Examples
    --------
    >>> MaxTime(3600.0)(np.array([[5, 6]]))
    array([False])
    """

    def __init__(self, seconds: float):
        self.until = time.monotonic() + seconds

    def __call__(self, ids):
        return np.full(len(ids), time.monotonic() > self.until)


class StopStrings:
    """A row ends with the token that completes a string, whatever else that token says before or after.

    The string may begin in the prompt. The text of a token depends on its neighbours (a space in front, a character in
    parts), so a row's last tokens are decoded together, behind a word that stays the same, with the newest and without.

    Examples
    --------
    >>> class Letters:
    ...     def decode(self, ids, **settings):
    ...         return "".join(chr(97 + i) for i in ids)
    >>> StopStrings("bc", Letters())(np.array([[0, 1, 2], [1, 2, 0]]))
    array([ True, False])
    """

    def __init__(self, strings: str | Sequence[str], tokenizer: Any):
        self.strings = [strings] if isinstance(strings, str) else list(strings)
        self.tokenizer = tokenizer
        # So many tokens hold the longest, if each says one byte of it at least.
        self.reach = max(len(string.encode()) for string in self.strings)
        self.word = list(tokenizer("abcdef", add_special_tokens=False)["input_ids"]) if callable(tokenizer) else []
        self.said = len(self._decoded(self.word)) if self.word else 0

    def __call__(self, ids):
        return np.array([self._completed(row[-self.reach :].tolist()) for row in ids])

    def _completed(self, tail):
        text = self._text(tail)
        known = len(self._text(tail[:-1]).rstrip("\N{REPLACEMENT CHARACTER}"))  # this much the newest did not say
        return any(text.find(string, max(known - len(string) + 1, 0)) >= 0 for string in self.strings)

    def _text(self, ids):
        return self._decoded(self.word + ids)[self.said :]

    def _decoded(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
