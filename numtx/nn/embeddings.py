"""Embedding, and positions that are learned or sinusoidal."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, floating, sequence
from numtx.nn import init
from numtx.nn.module import Module


class Embedding(Module):
    """A table of `num_embeddings` rows: ids (...) -> (..., embedding_dim). Drawn from N(0, std²).

    Examples
    --------
    >>> Embedding(10, 4, rng=0)(np.array([[1, 2, 1]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings, embedding_dim, *, std=1.0, rng=None, dtype=np.float32):
        count("Embedding", 1, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = init.normal((num_embeddings, embedding_dim), std, rng, dtype)

    def forward(self, ids):
        return F.embedding(ids, self.weight)

    def backward(self, dy, cache):
        return None, {"weight": F.embedding_backward(dy, cache)}

    def extra_repr(self):
        return "{}, {}".format(*self.weight.shape)


class LearnedPositions(Module):
    """Add a learned row for each position: y = x + W[positions], x (B, T, C).

    `positions` is (T,) or (B, T) and defaults to 0 .. T-1.

    Examples
    --------
    >>> LearnedPositions(8, 4, rng=0)(np.zeros((2, 3, 4), np.float32)).shape
    (2, 3, 4)
    """

    def __init__(self, num_positions, width, *, std=1.0, rng=None, dtype=np.float32):
        count("LearnedPositions", 1, num_positions=num_positions, width=width)
        self.weight = init.normal((num_positions, width), std, rng, dtype)

    def forward(self, x, *, positions=None):
        sequence("LearnedPositions", self.weight.shape[1], x=x)
        floating("LearnedPositions", x=x, weight=self.weight)
        positions = _positions("LearnedPositions", x, positions)
        if positions.max() >= len(self.weight):
            raise ValueError(
                f"LearnedPositions: expected positions under {len(self.weight)}, the context, got {positions.max()}"
            )
        rows, cache = F.embedding(positions, self.weight)  # (T, C) or (B, T, C)
        return x + rows, (cache, positions.ndim)

    def backward(self, dy, cache):
        cache, axes = cache
        drows = dy.sum(axis=0) if axes == 1 else dy  # one row served the whole batch
        return dy, {"weight": F.embedding_backward(drows, cache)}

    def extra_repr(self):
        return "{}, {}".format(*self.weight.shape)


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
