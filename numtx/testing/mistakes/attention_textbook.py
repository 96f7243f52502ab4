"""Attention written out step by step, so that a mistake is one step overridden; and the small cases that show it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.functional.masks import causal_mask, sliding_window_mask
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def transposed(array: Any) -> Any:
    """The last two axes exchanged."""
    return array.swapaxes(-1, -2)


class Textbook:
    """Attention step by step, with a cache of its own; right as it stands. Each mistake overrides one step."""

    axis = -1  # what the softmax sums over

    def forward(
        self, query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None
    ):
        scale = self.scale(query) if scale is None else scale
        kv_heads = key.shape[1]
        key, value = (self.shared(array, query.shape[1] // kv_heads) for array in (key, value))  # (B, H, Tk, D)
        scores = scale * self.products(query, key)  # (B, H, Tq, Tk)
        if bias is not None:
            scores = scores + self.bias(bias, scale, *scores.shape[2:])
        seen = np.broadcast_to(self.seen(mask, causal, window, *scores.shape[2:]), scores.shape)
        p = self.weights(scores, seen)
        kept = self.draw(rng, p.shape, dropout)
        z = self.drop(p, kept, dropout)
        return z @ value, (query, key, value, bias, scale, seen, p, z, kept, dropout, kv_heads)

    def shared(self, array, group):
        """Each key and value head as often as queries share it."""
        return np.repeat(array, group, axis=1)

    def scale(self, query):
        return 1 / math.sqrt(query.shape[-1])

    def products(self, query, key):
        return query @ transposed(key)

    def bias(self, bias, scale, tq, tk):
        if bias.ndim == 4:
            return bias
        return bias[:, np.arange(tk) - np.arange(tq)[:, None] + tq - 1]  # (H, Tq, Tk)

    def seen(self, mask, causal, window, tq, tk):
        seen = np.ones((1, 1, tq, tk), dtype=bool) if mask is None else mask
        if causal:
            seen = seen & causal_mask(tq, tk)
        if window is not None:
            seen = seen & sliding_window_mask(tq, tk, window=window, causal=causal)
        return seen

    def weights(self, scores, seen):
        return self.softmax(np.where(seen, scores, -np.inf))

    def softmax(self, scores):
        top = scores.max(axis=self.axis, keepdims=True)
        e = np.exp(scores - np.where(np.isfinite(top), top, 0))
        total = e.sum(axis=self.axis, keepdims=True)
        return e / np.where(total == 0, 1, total)

    def draw(self, rng, shape, rate):
        """What dropout keeps: the numbers of `rng` in the order of numtx's own, keys down and queries across."""
        if rng is None or rate == 0:
            return None
        return transposed(rng.random((*shape[:2], shape[3], shape[2]), dtype=np.float32)) >= rate

    def drop(self, p, kept, rate):
        return p if kept is None else p * kept * (1 / (1 - rate))

    def backward(self, dy, cache):
        query, key, value, bias, scale, seen, p, z, kept, dropout, kv_heads = cache
        dvalue = self.dvalue(dy, p, z)
        dp = self.undrop(dy @ transposed(value), kept, dropout)
        ds = self.dscores(dp, p, seen)
        dbias = None if bias is None else self.dbias(ds, bias, scale)
        dkey, dvalue = (self.over_group(d, kv_heads) for d in (self.dkey(ds, query, scale), dvalue))
        return self.dquery(ds, key, scale), dkey, dvalue, dbias

    def over_group(self, gradient, kv_heads):
        """What is shared gets the sum of the gradients of all that share it."""
        return gradient.reshape(len(gradient), kv_heads, -1, *gradient.shape[2:]).sum(axis=2)

    def dvalue(self, dy, p, z):
        return transposed(z) @ dy

    def undrop(self, dz, kept, rate):
        return self.drop(dz, kept, rate)

    def dscores(self, dp, p, seen):
        return p * (dp - (dp * p).sum(axis=self.axis, keepdims=True))

    def dquery(self, ds, key, scale):
        return scale * (ds @ key)

    def dkey(self, ds, query, scale):
        return scale * (transposed(ds) @ query)

    def dbias(self, ds, bias, scale):
        if bias.ndim == 4:
            return ds.sum(axis=tuple(axis for axis in range(4) if bias.shape[axis] == 1), keepdims=True)
        tq, tk = ds.shape[2:]
        dbias = np.zeros_like(bias)
        for i in range(tq):
            dbias[:, tq - 1 - i : tq - 1 - i + tk] += ds[:, :, i].sum(axis=0)
        return dbias


def sized(
    shape: tuple[int, int, int, int, int, int] = (2, 2, 3, 4, 3, 2),
    bias: Any = None,
    kv_heads: int | None = None,
    **settings: Any,
) -> Case:
    """Sizes (B, H, Tq, Tk, D, Dv), all settings at rest but those named; as many key and value heads as heads."""
    B, H, Tq, Tk, D, Dv = shape
    Hkv = H if kv_heads is None else kv_heads
    numbers = np.random.default_rng(11)
    inputs = {
        "query": numbers.standard_normal((B, H, Tq, D)),
        "key": numbers.standard_normal((B, Hkv, Tk, D)),
        "value": numbers.standard_normal((B, Hkv, Tk, Dv)),
        "bias": None if bias is None else numbers.standard_normal(bias),
    }
    rest = {"mask": None, "causal": False, "window": None, "scale": None, "dropout": 0.0, "rng": None}
    return Case(inputs, {**rest, **settings})


def square(**settings: Any) -> Case:
    """All axes alike, where every wrong transpose runs."""
    return sized((2, 2, 3, 3, 3, 3), **settings)


def padded() -> Case:
    """Two sequences of three and two real tokens."""
    mask = np.array([[True, True, True, False], [True, True, False, False]])[:, None, None]
    return sized(mask=mask)


def blind_row() -> Case:
    """The second query may see nothing."""
    mask = np.ones((1, 1, 3, 4), dtype=bool)
    mask[0, 0, 1] = False
    return sized(mask=mask)


def decoding() -> Case:
    """Two new queries over five keys."""
    return sized((1, 2, 2, 5, 3, 2), causal=True)


def grouped() -> Case:
    """Four heads, of which each two share a key and value head."""
    return sized((2, 4, 3, 4, 3, 2), kv_heads=2)


def dropped() -> Case:
    """Dropout on the weights."""
    return sized(dropout=0.4, rng=3)


def biased() -> Case:
    """A bias that is broadcast over the batch."""
    return sized(bias=(1, 2, 3, 4))


def by_distance() -> Case:
    """A bias by distance."""
    return sized(bias=(2, 6))


def mistake(name: str, wrong: Textbook, witness: Callable[[], Case], why: str, hint: str) -> Mistake:
    """A mistake of attention: forward and backward share the textbook's cache, so both are planted."""
    return Mistake(
        name=name,
        of="scaled_dot_product_attention",
        why=why,
        hint=hint,
        witness=witness,
        forward=wrong.forward,
        backward=wrong.backward,
    )
