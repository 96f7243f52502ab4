"""Text from ids that arrive piece by piece, as a model writes them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from numtx.text.rows import checked_ids

if TYPE_CHECKING:
    from numtx.text.pretrained import PretrainedTokenizer


class GrowingText:
    """Decodes all ids so far and gives out what was added, unless it ends within a character."""

    def __init__(self, tokenizer: "PretrainedTokenizer", skip_special_tokens: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids: list[int] = []
        self._start = 0
        self._shown = ""

    def decode(self, ids: Any, final: bool = False) -> str:
        self._ids += checked_ids(type(self._tokenizer).__name__, np.asarray(ids).tolist())
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
