"""What a tokenizer returns: lists or arrays by name, and the way from characters and words to tokens and back."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class CharSpan(NamedTuple):
    """Characters `start` up to and without `end` of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` up to and without `end` of an encoding."""

    start: int
    end: int


class BatchEncoding(dict[str, Any]):
    """A dict of ``input_ids``, ``attention_mask`` ..., whose entries are attributes too.

    Where the text was encoded by the ``tokenizers`` package, `encodings` holds its objects, one a row, and the methods
    below translate between characters, words and tokens. Their first argument is the row; with one argument left out
    row 0 is meant, as in Transformers.

    Examples
    --------
    >>> BatchEncoding({"input_ids": [[101, 102]]}).to_arrays().input_ids
    array([[101, 102]])
    """

    def __init__(self, data: Mapping[str, Any] | None = None, encodings: Sequence[Any] | None = None) -> None:
        super().__init__(data or {})
        self._encodings = None if encodings is None else list(encodings)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self:
            raise AttributeError(f"BatchEncoding has no entry {name!r}, only {', '.join(self)}")
        return self[name]

    @property
    def encodings(self) -> list[Any] | None:
        """One object of the ``tokenizers`` package a row, or None."""
        return self._encodings

    def _row(self, row: int) -> Any:
        if self._encodings is None:
            raise ValueError(
                "BatchEncoding: expected a tokenizer of the tokenizers package, got one that keeps no spans"
            )
        return self._encodings[row]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the number of the word that each token of a row belongs to; None for special tokens."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return 0 for tokens of the first text, 1 for those of the second, None for special tokens."""
        return self._row(batch_index).sequence_ids

    def char_to_token(self, batch_or_char: int, char: int | None = None, sequence_index: int = 0) -> int | None:
        """Return the token that a character lies in, or None (a space, say)."""
        row, place = _two(batch_or_char, char)
        return self._row(row).char_to_token(place, sequence_index)

    def token_to_chars(self, batch_or_token: int, token: int | None = None) -> CharSpan | None:
        """Return the characters of a token in its text, or None for a special token."""
        row, place = _two(batch_or_token, token)
        span = self._row(row).token_to_chars(place)
        return None if span is None else CharSpan(*span)

    def token_to_word(self, batch_or_token: int, token: int | None = None) -> int | None:
        """Return the number of the word that a token belongs to."""
        row, place = _two(batch_or_token, token)
        return self._row(row).token_to_word(place)

    def word_to_tokens(self, batch_or_word: int, word: int | None = None, sequence_index: int = 0) -> TokenSpan | None:
        """Return the tokens of a word, or None where it left none."""
        row, place = _two(batch_or_word, word)
        span = self._row(row).word_to_tokens(place, sequence_index)
        return None if span is None else TokenSpan(*span)

    def to_arrays(self) -> "BatchEncoding":
        """Return the same with every entry as an array, of int64 where the numbers are whole.

        Raises
        ------
        ValueError
            If rows differ in length; the message says how to make them alike.
        """
        return BatchEncoding({name: _as_array(name, value) for name, value in self.items()}, self._encodings)


def _two(first: int, second: int | None) -> tuple[int, int]:
    return (0, first) if second is None else (first, second)


def _as_array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    lengths = {len(row) for row in value if isinstance(row, (list, tuple, np.ndarray))}
    if len(lengths) > 1:
        raise ValueError(
            f"BatchEncoding: expected {name} of one length for an array, got rows of {min(lengths)} to {max(lengths)} "
            "tokens (padding=True makes them equal, truncation=True with max_length cuts them)"
        )
    array = np.asarray(value)
    # Numbers to be predicted may have a fraction; whatever is empty holds no ids.
    return array if array.dtype.kind == "f" and array.size else np.asarray(value, dtype=np.int64)
