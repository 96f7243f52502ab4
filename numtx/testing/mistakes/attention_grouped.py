"""Classic mistakes of attention with fewer key and value heads than query heads."""

from __future__ import annotations

import numpy as np

from numtx.testing.mistakes.attention_textbook import Textbook, grouped, mistake


class _Tiled(Textbook):
    def shared(self, array, group):
        return np.tile(array, (1, group, 1, 1))

    def over_group(self, gradient, kv_heads):
        return gradient.reshape(len(gradient), -1, kv_heads, *gradient.shape[2:]).sum(axis=1)


class _FirstOfGroup(Textbook):
    def over_group(self, gradient, kv_heads):
        return gradient[:, :: gradient.shape[1] // kv_heads].copy()


class _GroupMean(Textbook):
    def over_group(self, gradient, kv_heads):
        return super().over_group(gradient, kv_heads) * (kv_heads / gradient.shape[1])


MISTAKES = [
    mistake(
        "attention grouped heads tiled instead of repeated",
        _Tiled(),
        grouped,
        "np.tile gives as many heads as np.repeat, in the order 0 1 0 1 for 0 0 1 1.",
        "Of four heads and two key heads: which key head does the second query head read?",
    ),
    mistake(
        "attention dK and dV of a group not summed",
        _FirstOfGroup(),
        grouped,
        "The repeated keys have one gradient a head; one of them has the right shape and is handed on.",
        "How many heads read a key that is shared?",
    ),
    mistake(
        "attention dK and dV of a group averaged",
        _GroupMean(),
        grouped,
        "A mean looks natural, as grouped key heads are made by averaging those of a trained model.",
        "Each head that reads a key adds to the loss: what does each contribute to the key's gradient?",
    ),
]
