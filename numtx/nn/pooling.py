"""Pooling: one row for a sequence, and the pooler, which puts a dense layer behind it."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, floating
from numtx.nn.linear import Linear
from numtx.nn.module import Module

POOLINGS = ("first", "last", "mean", None)
ACTIVATIONS = ("tanh", "relu", "gelu", "gelu_tanh", "silu")


class Pooling(Module):
    """One row for each sequence: (B, T, C) -> (B, C). Nothing is learned.

    Parameters
    ----------
    pooling : "first", "last", "mean" or None
        The row of the first real token, of the last one, or the mean over the real ones, y = Σ_t m_t x_t / Σ_t m_t with
        m_t = 1 for a token and 0 for padding. None hands x on as it is, pooled already or meant token by token.

    Notes
    -----
    `mask` is boolean (B, 1, 1, T), as `F.padding_mask` makes it; None means that all tokens are real. A sequence
    without a real token pools to zeros, and its gradient is zero. BERT's pooler in Transformers reads x[:, 0] whatever
    the mask says, which is the same unless the padding stands on the left. GPT-2's and BART's classifiers read the
    last real token; the mean is that of Sentence-BERT. Devlin et al. (2019); Reimers and Gurevych (2019), section 3.

    Examples
    --------
    >>> x = np.array([[[1.0], [2.0], [9.0]]])
    >>> mask = np.array([[[[True, True, False]]]])
    >>> [Pooling(how)(x, mask=mask).item() for how in ("first", "last", "mean")]
    [1.0, 2.0, 1.5]
    """

    def __init__(self, pooling="first"):
        if pooling not in POOLINGS:
            raise ValueError(f"Pooling: expected a pooling of first, last, mean or None, got {pooling!r}")
        self.pooling = pooling

    def forward(self, x, *, mask=None):
        if self.pooling is None:
            return x, None
        real = _real(x, mask)  # (B, T)
        if self.pooling == "mean":
            return _mean(x, real)
        some = np.flatnonzero(real.any(axis=1))  # the sequences that have a token
        where = real.argmax(axis=1) if self.pooling == "first" else real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
        y = np.zeros((x.shape[0], x.shape[2]), x.dtype)
        y[some] = x[some, where[some]]  # (B, C)
        return y, (real, some, where[some])

    def backward(self, dy, cache):
        """Return (dx, {}).

        Derivation: y_b = Σ_t w_bt x_bt, with w the mean's weights m_t / Σ m, or 1 at the token that was read and 0
        elsewhere. So dx_bt = w_bt dy_b: every real token gets its share of the mean's gradient, padding none.
        """
        if self.pooling is None:
            return dy, {}
        if self.pooling == "mean":
            real, number = cache
            return np.where(real[:, :, None], (dy / number)[:, None, :], 0), {}  # (B, T, C)
        real, some, where = cache
        dx = np.zeros((*real.shape, dy.shape[1]), dy.dtype)  # (B, T, C)
        dx[some, where] = dy[some]
        return dx, {}

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

    def forward(self, x, *, mask=None):
        hidden("Pooler", x, len(self.dense.weight), pooled=self.pooling.pooling is None)
        h, pooled = self.pooling.forward(x, mask=mask)  # (B, C)
        h, dense = self.dense.forward(h)
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


def _real(x, mask):
    """Return which tokens are real, (B, T), of x (B, T, C) and a mask (B, 1, 1, T) or None."""
    floating("Pooling", x=x)
    if x.ndim != 3 or not x.size:
        raise ValueError(f"Pooling: expected x (B, T, C), not empty, got {x.shape}")
    batch, length = x.shape[:2]
    if mask is None:
        return np.ones((batch, length), bool)
    if getattr(mask, "dtype", None) != np.bool_ or mask.shape not in ((batch, 1, 1, length), (1, 1, 1, length)):
        what = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"Pooling: expected a boolean mask {(batch, 1, 1, length)} for x {x.shape}, got {what}")
    return np.broadcast_to(mask[:, 0, 0, :], (batch, length))


def _mean(x, real):
    kept = x if real.all() else np.where(real[:, :, None], x, 0)  # not x · m: 0 · NaN would be NaN
    number = np.maximum(real.sum(axis=1, keepdims=True), 1).astype(x.dtype)  # (B, 1)
    return kept.sum(axis=1) / number, (real, number)  # (B, C)
