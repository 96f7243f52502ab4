"""From ids to what the first layer reads."""

import math

import numpy as np

from numtx import nn

POSITIONS = ("sinusoidal", "learned")


class TokenEmbedding(nn.Module):
    """ids (B, T) -> dropout(s E[ids] + position), (B, T, C). Vaswani et al. (2017), sections 3.4 and 3.5.

    Parameters
    ----------
    vocab_size, width, max_length : int
        Rows of the table E, its width C, and how many learned positions there are.
    positions : "sinusoidal" or "learned"
    scale : bool
        s = √C, and E is drawn from N(0, 1/C), so that the product is of the size of the sinusoids; else s = 1 and E is
        drawn from N(0, 1), as in PyTorch.
    dropout : float

    Examples
    --------
    >>> TokenEmbedding(5, 4, 8, rng=0)(np.array([[1, 2, 1]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        vocab_size,
        width,
        max_length,
        *,
        positions="sinusoidal",
        scale=True,
        dropout=0.0,
        rng=None,
        dtype=np.float32,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"TokenEmbedding: expected positions 'sinusoidal' or 'learned', got {positions!r}")
        rng = np.random.default_rng(rng)
        self.scale = math.sqrt(width) if scale else 1.0
        self.embedding = nn.Embedding(vocab_size, width, std=1 / self.scale, rng=rng, dtype=dtype)
        self.positions = (
            nn.SinusoidalPositions(width)
            if positions == "sinusoidal"
            else nn.LearnedPositions(max_length, width, std=1 / math.sqrt(width), rng=rng, dtype=dtype)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids, *, positions=None, rng=None):
        x, embedded = self.embedding.forward(ids)  # (B, T, C)
        x, placed = self.positions.forward(self.scale * x, positions=positions)
        y, drop = self.dropout.forward(x, rng=rng)
        return y, (embedded, placed, drop)

    def backward(self, dy, cache):
        """Return (None, grads): dE[ids] += s · dx, since x enters as s E[ids]."""
        embedded, placed, drop = cache
        dx, _ = self.dropout.backward(dy, drop)
        dx, g_positions = self.positions.backward(dx, placed)
        _, g_embedding = self.embedding.backward(self.scale * dx, embedded)
        return None, {"embedding": g_embedding} | ({"positions": g_positions} if g_positions else {})

    def extra_repr(self):
        return f"scale={self.scale:.4g}"
