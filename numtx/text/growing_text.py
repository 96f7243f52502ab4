"""Text from ids that arrive piece by piece, as a model writes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from numtx.text.rows import checked_ids

if TYPE_CHECKING:
    from numtx.text.pretrained import PretrainedTokenizer


class GrowingText:
    """Decodes all ids so far and gives out what was added, unless it ends within a character.

    Parameters
    ----------
    tokenizer : PretrainedTokenizer
    skip_special_tokens : bool
    replaced : sequence of (str, str)
        What the clean-up puts for what, one after the other. An end that may become one of them waits for what follows.
    """

    def __init__(
        self, tokenizer: "PretrainedTokenizer", skip_special_tokens: bool, replaced: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids: list[int] = []
        self._start = 0
        self._shown = ""
        self._replacements = [GrowingReplacement(*pair) for pair in replaced]

    def decode(self, ids: Any, final: bool = False) -> str:
        new = self._added(checked_ids(type(self._tokenizer).__name__, np.asarray(ids).tolist()), final)
        for replacement in self._replacements:
            new = replacement.replace(new, final)
        return new

    def _added(self, ids: list[int], final: bool) -> str:
        self._ids += ids
        text = self._tokenizer._decode_ids(self._ids[self._start :], self._skip)
        if not final and (text.endswith("\ufffd") or not text.startswith(self._shown)):
            return ""
        new = text[len(self._shown) :]
        if len(self._ids) - self._start > 64:
            # Only the last ids can still change what they look like beside the next: decode no further back.
            self._start = len(self._ids) - 16
            text = self._tokenizer._decode_ids(self._ids[self._start :], self._skip)
        self._shown = text
        return new


class GrowingReplacement:
    """`str.replace` of a text that arrives piece by piece.

    Examples
    --------
    >>> points = GrowingReplacement(" .", ".")
    >>> [points.replace(piece) for piece in ("the end", " ", ".", " ")], points.replace("", final=True)
    (['the end', '', '.', ''], ' ')
    """

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def replace(self, text: str, final: bool = False) -> str:
        """Return what follows the text given out before, but for an end that may be the beginning of `old`."""
        *before, rest = (self._held + text).split(self._old)
        held = 0 if final else max(n for n in range(len(self._old)) if rest.endswith(self._old[:n]))
        rest, self._held = rest[: len(rest) - held], rest[len(rest) - held :]
        return self._new.join([*before, rest])
