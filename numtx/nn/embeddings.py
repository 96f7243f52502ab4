"""Embedding, and positions that are learned or sinusoidal."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, floating, sequence
from numtx.nn import init
from numtx.nn.module import Module


class Embedding(Module):
    """A table of `num_embeddings` rows: ids (...) -> (..., embedding_dim). Drawn from N(0, std²).

    The row `padding_idx`, if one is given, does not learn: its gradient is zero, as in PyTorch, whatever came for it.

    Examples
    --------
    >>> Embedding(10, 4, rng=0)(np.array([[1, 2, 1]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings, embedding_dim, *, padding_idx=None, std=1.0, rng=None, dtype=np.float32):
        count("Embedding", 1, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        _check_padding("Embedding", padding_idx, num_embeddings)
        self.weight = init.normal((num_embeddings, embedding_dim), std, rng, dtype)
        self.padding_idx = padding_idx

    def forward(self, ids):
        return F.embedding(ids, self.weight)

    def backward(self, dy, cache):
        if self.frozen:
            return None, {}
        return None, {"weight": _without(self.padding_idx, F.embedding_backward(dy, cache))}

    def extra_repr(self):
        text = "{}, {}".format(*self.weight.shape)
        return text + (f", padding_idx={self.padding_idx}" if self.padding_idx is not None else "")


class LearnedPositions(Module):
    """Add a learned row for each position: y = x + W[positions + offset], x (B, T, C).

    `positions` is (T,) or (B, T) and defaults to 0 .. T-1. The table has `num_positions + offset` rows: BART's and
    OPT's first two belong to no position. RoBERTa's positions start behind the padding id, and come from the model;
    its row `padding_idx`, where padding stands, has gradient zero, as in PyTorch.

    Examples
    --------
    >>> LearnedPositions(8, 4, rng=0)(np.zeros((2, 3, 4), np.float32)).shape
    (2, 3, 4)
    """

    def __init__(self, num_positions, width, *, offset=0, padding_idx=None, std=1.0, rng=None, dtype=np.float32):
        count("LearnedPositions", 1, num_positions=num_positions, width=width)
        count("LearnedPositions", 0, offset=offset)
        _check_padding("LearnedPositions", padding_idx, num_positions + offset)
        self.weight = init.normal((num_positions + offset, width), std, rng, dtype)
        self.offset, self.padding_idx = offset, padding_idx

    def forward(self, x, *, positions=None):
        sequence("LearnedPositions", self.weight.shape[1], x=x)
        floating("LearnedPositions", x=x, weight=self.weight)
        positions = _positions("LearnedPositions", x, positions)
        if positions.max() >= (context := len(self.weight) - self.offset):
            raise ValueError(
                f"LearnedPositions: expected positions under {context}, the context, got {positions.max()}"
            )
        rows, cache = F.embedding(positions + self.offset, self.weight)  # (T, C) or (B, T, C)
        return x + rows, (cache, positions.ndim)

    def backward(self, dy, cache):
        if self.frozen:
            return dy, {}
        cache, axes = cache
        drows = dy.sum(axis=0) if axes == 1 else dy  # one row served the whole batch
        return dy, {"weight": _without(self.padding_idx, F.embedding_backward(drows, cache))}

    def extra_repr(self):
        text = "{}, {}".format(*self.weight.shape)
        text += f", offset={self.offset}" if self.offset else ""
        return text + (f", padding_idx={self.padding_idx}" if self.padding_idx is not None else "")


class SinusoidalPositions(Module):
    """Add sines and cosines of the position: y = x + table[positions], x (B, T, C). Nothing is learned.

    Examples
    --------
    >>> SinusoidalPositions(4)(np.zeros((1, 2, 4), np.float32))[0, 0]
    array([0., 1., 0., 1.], dtype=float32)
    """

    def __init__(self, width, *, layout="interleaved", base=10000.0):
        F.sinusoidal_positions(0, width, layout=layout, base=base)  # refuses what it cannot do, here and not later
        self.width, self.layout, self.base = width, layout, base

    def forward(self, x, *, positions=None):
        sequence("SinusoidalPositions", self.width, x=x)
        positions = _positions("SinusoidalPositions", x, positions)
        first = int(positions.min())
        table = F.sinusoidal_positions(
            int(positions.max()) - first + 1,
            self.width,
            layout=self.layout,
            base=self.base,
            offset=first,
            dtype=x.dtype,
        )
        return x + table[positions - first], ()

    def backward(self, dy, cache):
        return dy, {}

    def extra_repr(self):
        return f"{self.width}, layout={self.layout!r}"


def _check_padding(component, padding_idx, rows):
    if padding_idx is None:
        return
    count(component, 0, padding_idx=padding_idx)
    if padding_idx >= rows:
        raise ValueError(f"{component}: expected padding_idx under {rows}, the rows of the table, got {padding_idx}")


def _without(row, dweight):
    """Set the gradient of a row to zero, in place: `dweight` is this step's own."""
    if row is not None:
        dweight[row] = 0
    return dweight


def _positions(component, x, positions):
    """Return whole numbers (T,) or (B, T) of at least 0 for x (B, T, C)."""
    positions = np.arange(x.shape[1]) if positions is None else np.asarray(positions)
    if positions.dtype.kind not in "iu" or positions.shape not in (x.shape[1:2], x.shape[:2]):
        raise ValueError(
            f"{component}: expected integer positions (T,) or (B, T) for x {x.shape}, "
            f"got {positions.dtype} {positions.shape}"
        )
    if not positions.size or positions.min() < 0:
        bad = positions.min() if positions.size else "none"
        raise ValueError(f"{component}: expected positions of at least 0, got {bad}")
    return positions
