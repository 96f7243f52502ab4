"""The position-wise feed-forward network, plain and gated."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, rate
from numtx.nn.linear import Linear
from numtx.nn.module import Module

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "tanh")
GATED = ("swiglu", "geglu", "geglu_tanh", "glu")


class FeedForward(Module):
    """Widen, bend, narrow: y = dropout(act(x W₁ + b₁)) W₂ + b₂, on (..., width).

    Vaswani et al. (2017), eq. 2, with any of the activations "relu", "gelu", "gelu_tanh", "silu" and "tanh".

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
        h, up = self.up.forward(x, rng=rng)
        a, act = getattr(F, self.activation)(h)
        a, drop = F.dropout(a, self.dropout, rng)
        y, down = self.down.forward(a, rng=rng)
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


class GatedFeedForward(Module):
    """Widen twice, gate, narrow: y = dropout(a(x W_gate) · (x W_up)) W_down, on (..., width); biases where asked for.

    Shazeer (2020), eq. 6, with the names of Llama's three matrices; there W, V and W₂. (T5 1.1: wi_0, wi_1, wo; Meta's
    files: w1, w3, w2.) The activations are "swiglu" (Llama), "geglu", "geglu_tanh" (T5 1.1) and "glu". Three matrices
    instead of two: with a third less in hidden, as many parameters as a `FeedForward`.

    Examples
    --------
    >>> GatedFeedForward(4, 10, bias=False, rng=0)(np.ones((2, 3, 4), np.float32)).shape
    (2, 3, 4)
    """

    def __init__(self, width, hidden, activation="swiglu", dropout=0.0, bias=True, *, rng=None, dtype=np.float32):
        if activation not in GATED:
            raise ValueError(f"GatedFeedForward: expected an activation of {', '.join(GATED)}, got {activation!r}")
        count("GatedFeedForward", 1, width=width, hidden=hidden)
        rate("GatedFeedForward", "dropout", dropout)
        rng = np.random.default_rng(rng)
        self.gate = Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.up = Linear(width, hidden, bias, rng=rng, dtype=dtype)
        self.down = Linear(hidden, width, bias, rng=rng, dtype=dtype)
        self.activation, self.dropout = activation, dropout

    def forward(self, x, *, rng=None):
        g, gate = self.gate.forward(x, rng=rng)
        h, up = self.up.forward(x, rng=rng)
        a, act = getattr(F, self.activation)(g, h)
        a, drop = F.dropout(a, self.dropout, rng)
        y, down = self.down.forward(a, rng=rng)
        return y, (gate, up, act, drop, down)

    def backward(self, dy, cache):
        gate, up, act, drop, down = cache
        da, g_down = self.down.backward(dy, down)
        da = F.dropout_backward(da, drop)
        dg, dh = getattr(F, f"{self.activation}_backward")(da, act)
        dx_gate, g_gate = self.gate.backward(dg, gate)
        dx_up, g_up = self.up.backward(dh, up)
        return dx_gate + dx_up, {"gate": g_gate, "up": g_up, "down": g_down}  # x was used twice

    def extra_repr(self):
        return self.activation + (f", dropout={self.dropout}" if self.dropout else "")
