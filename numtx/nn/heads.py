"""Heads: what turns the last hidden state into an answer."""

from numtx import functional as F
from numtx.nn.module import Module


class TiedLMHead(Module):
    """Scores for the next token from a borrowed embedding table: logits = x Eᵀ, (..., C) -> (..., V).

    The table E (V, C) belongs to whoever owns the embedding, which adds the two gradients. Press and Wolf (2017).

    Examples
    --------
    >>> import numpy as np
    >>> TiedLMHead()(np.ones((1, 2)), np.array([[1.0, 0.0], [2.0, 3.0]]))
    array([[1., 5.]])
    """

    def forward(self, x, weight):
        return F.linear(x, weight.T)

    def backward(self, dy, cache):
        """Return ((dx, dweight), {})."""
        dx, dweight, _ = F.linear_backward(dy, cache)
        return (dx, dweight.T), {}
