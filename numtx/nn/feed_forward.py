"""The position-wise feed-forward network."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, rate
from numtx.nn.linear import Linear
from numtx.nn.module import Module

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


class FeedForward(Module):
    """Widen, bend, narrow: y = dropout(act(x W₁ + b₁)) W₂ + b₂, on (..., width).

    Vaswani et al. (2017), eq. 2, with any of the activations "relu", "gelu", "gelu_tanh" and "silu".

    Examples
    --------
    >>> FeedForward(4, 16, rng=0)(np.ones((2, 3, 4), np.float32)).shape
    (2, 3, 4)
    """

    def __init__(self, width, hidden, activation="gelu", dropout=0.0, bias=True, *, rng=None, dtype=np.float32):
        if activation not in ACTIVATIONS:
            raise ValueError(f"FeedForward: expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")
        count("FeedForward", 1, width=width, hidden=hidden)
        rate("FeedForward", "dropout", dropout)
        rng = np.random.default_rng(rng)
        self.up = Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.down = Linear(hidden, width, bias, rng=rng, dtype=dtype)
        self.activation, self.dropout = activation, dropout

    def forward(self, x, *, rng=None):
        h, up = self.up.forward(x)
        a, act = getattr(F, self.activation)(h)
        a, drop = F.dropout(a, self.dropout, rng)
        y, down = self.down.forward(a)
        return y, (up, act, drop, down)

    def backward(self, dy, cache):
        up, act, drop, down = cache
        da, g_down = self.down.backward(dy, down)
        da = F.dropout_backward(da, drop)
        dh = getattr(F, f"{self.activation}_backward")(da, act)
        dx, g_up = self.up.backward(dh, up)
        return dx, {"up": g_up, "down": g_down}

    def extra_repr(self):
        return self.activation + (f", dropout={self.dropout}" if self.dropout else "")
