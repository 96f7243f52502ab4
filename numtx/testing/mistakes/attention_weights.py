"""Classic mistakes in the attention weights that are shown."""

from __future__ import annotations

import numpy as np

from numtx.functional.attention import attention_weights
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes.attention_textbook import dropped, square


def _averaged(cache):
    p = attention_weights(cache)
    return np.broadcast_to(p.mean(axis=1, keepdims=True), p.shape).copy()


def _as_stored(cache):
    return attention_weights(cache).swapaxes(-1, -2)


def _after_dropout(cache):
    query, key, value, bias_shape, scale, causal, blocks, dropout, y = cache
    blocks = [(pt if kept is None else pt * kept / (1 - dropout), kept) for pt, kept in blocks]
    return attention_weights((query, key, value, bias_shape, scale, causal, blocks, dropout, y))


MISTAKES = [
    Mistake(
        name="attention weights averaged over the heads",
        of="attention_weights",
        why="It is what nn.MultiheadAttention gives unless told average_attn_weights=False.",
        hint="Do two heads look at the same keys?",
        forward=_averaged,
        witness=square,
    ),
    Mistake(
        name="attention weights with keys for queries",
        of="attention_weights",
        why="They are kept transposed, and where Tq = Tk nothing shows it.",
        hint="Which axis should sum to 1?",
        forward=_as_stored,
        witness=square,
    ),
    Mistake(
        name="attention weights after dropout",
        of="attention_weights",
        why="Dropped weights are what the values were multiplied by, and what nn.MultiheadAttention gives in training.",
        hint="What does a row sum to when dropout is on?",
        forward=_after_dropout,
        witness=dropped,
    ),
]
