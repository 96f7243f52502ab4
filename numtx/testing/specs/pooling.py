"""What is known of pooling: sequence by sequence, the real tokens one after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def padding(d: Drawer, batch: int, length: int) -> np.ndarray | None:
    """Which tokens are real, (B, 1, 1, T): left or right padding, holes, a row of nothing; or one row for all; None."""
    kind = d.choice(("none", "sides", "holes", "one row"))
    if kind == "none":
        return None
    if kind == "holes":
        return d.mask((batch, 1, 1, length))
    real = np.ones((1 if kind == "one row" else batch, 1, 1, length), bool)
    for row in real:
        padded = d.integer(0, length - 1)
        row[..., slice(0, padded) if d.boolean() else slice(length - padded, length)] = False
    return real


def draw_pooling(d: Drawer) -> Case:
    """All three ways, and all kinds of padding."""
    batch, length, width = d.sizes(3, 1, 4)
    how = d.choice(("first", "last", "mean"))
    return Case({"x": d.array((batch, length, width))}, {"how": how, "mask": padding(d, batch, length)})


def pooling(x: np.ndarray, how: Any, mask: np.ndarray | None = None) -> np.ndarray:
    """List the real tokens of each sequence, then take the first, the last, or their mean."""
    y = np.zeros((x.shape[0], x.shape[2]))
    for b, tokens in enumerate(x.tolist()):
        seen = [True] * len(tokens) if mask is None else mask[b if len(mask) > 1 else 0, 0, 0].tolist()
        real = [token for token, is_real in zip(tokens, seen, strict=True) if is_real]
        if real and how == "mean":
            y[b] = [math.fsum(column) / len(real) for column in zip(*real, strict=True)]
        elif real:
            y[b] = real[0] if how == "first" else real[-1]
    return y


SPECS = [Spec("pooling", ("x",), draw_pooling, pooling)]
