"""A loss in the units people compare."""

from __future__ import annotations

import math

import numpy as np

from numtx.text import ByteTokenizer, Tokenizer


def predicted_bytes(tokenizer: Tokenizer, text: str) -> int:
    """Return how many UTF-8 bytes of a text are predicted: all but those of its first token.

    Examples
    --------
    >>> from numtx.text import CharTokenizer
    >>> predicted_bytes(CharTokenizer("né"), "én"), predicted_bytes(ByteTokenizer(), "én")
    (1, 2)
    """
    first = 1 if isinstance(tokenizer, ByteTokenizer) else len(text[:1].encode())
    return len(text.encode()) - first


def loss_facts(loss: float, tokens: int, bytes_: int) -> list[tuple[str, str]]:
    """Return a mean loss over `tokens` predicted tokens, of `bytes_` UTF-8 bytes, in three units.

    Examples
    --------
    >>> for name, value in loss_facts(math.log(4), tokens=100, bytes_=200):
    ...     print(name, value)
    loss 1.3863 nats per token
    bits per byte 1.0000
    perplexity 4.000 per token
    """
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(np.float64(loss)))
    return [
        ("loss", f"{loss:.4f} nats per token"),
        ("bits per byte", f"{loss * tokens / math.log(2) / bytes_:.4f}"),
        ("perplexity", f"{perplexity:.3f} per token"),
    ]
