"""Pooling: one row for a sequence, and the pooler, which puts a dense layer behind it."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, floating
from numtx.nn.linear import Linear
from numtx.nn.module import Module

POOLINGS = ("first", "last", "mean", None)
ACTIVATIONS = ("tanh", "relu", "gelu", "gelu_tanh", "silu")


class Pooling(Module):
    """One row for each sequence: (B, T, C) -> (B, C), by `F.pooling`. Nothing is learned.

    Parameters
    ----------
    pooling : "first", "last", "mean" or None
        The row of the first real token, of the last one, or the mean over the real ones. None hands x on as it is,
        pooled already or meant token by token.

    Notes
    -----
    `mask` is boolean (B, 1, 1, T), as `F.padding_mask` makes it; None means that all tokens are real.

    Examples
    --------
    >>> Pooling("mean")(np.ones((2, 3, 4), np.float32), mask=np.ones((2, 1, 1, 3), bool)).shape
    (2, 4)
    """

    def __init__(self, pooling="first"):
        if pooling not in POOLINGS:
            raise ValueError(f"Pooling: expected a pooling of first, last, mean or None, got {pooling!r}")
        self.pooling = pooling

    def forward(self, x, *, mask=None, rng=None):
        """Return (y, cache). Nothing is random here; a `Pooler` in its place may have what drops out."""
        return (x, None) if self.pooling is None else F.pooling(x, how=self.pooling, mask=mask)

    def backward(self, dy, cache):
        return (dy if self.pooling is None else F.pooling_backward(dy, cache)), {}

    def extra_repr(self):
        return repr(self.pooling)


class Pooler(Module):
    """A dense layer over the pooled row: y = act(pool(x) W + b), (B, T, C) -> (B, C).

    With "tanh" over the first token it is BERT's pooler; with "relu" DistilBERT's `pre_classifier`; with "tanh" over
    the last token BART's. `pooling=None` takes x (B, C), or token by token. `mask` is as in `Pooling`.
    Devlin et al. (2019), section 3, and its code.

    Examples
    --------
    >>> Pooler(4, rng=0)(np.ones((2, 3, 4), np.float32)).shape
    (2, 4)
    """

    def __init__(self, width, activation="tanh", pooling="first", *, rng=None, dtype=np.float32):
        count("Pooler", 1, width=width)
        known_activation("Pooler", activation)
        self.pooling = Pooling(pooling)
        self.dense = Linear(width, width, rng=rng, dtype=dtype)
        self.activation = activation

    def forward(self, x, *, mask=None, rng=None):
        hidden("Pooler", x, len(self.dense.weight), pooled=self.pooling.pooling is None)
        h, pooled = self.pooling.forward(x, mask=mask)  # (B, C)
        h, dense = self.dense.forward(h, rng=rng)
        y, act = getattr(F, self.activation)(h)
        return y, (pooled, dense, act)

    def backward(self, dy, cache):
        pooled, dense, act = cache
        dh = getattr(F, f"{self.activation}_backward")(dy, act)
        dh, g_dense = self.dense.backward(dh, dense)
        dx, _ = self.pooling.backward(dh, pooled)
        return dx, {"dense": g_dense}

    def extra_repr(self):
        return self.activation


def known_activation(component, activation):
    """Require one of the activations that stand behind a head's dense layer."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{component}: expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")


def hidden(component, x, width, *, pooled):
    """Require the last hidden state (B, T, width), not empty; with `pooled` (B, width) too."""
    floating(component, x=x)
    if x.ndim not in ((2, 3) if pooled else (3,)) or x.shape[-1] != width or not x.size:
        form = f"x (B, {width}) or (B, T, {width})" if pooled else f"x (B, T, {width})"
        raise ValueError(f"{component}: expected {form}, not empty, got {x.shape}")
