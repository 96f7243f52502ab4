"""Biases by distance, to be added to attention's scores: ALiBi's slopes and T5's table."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.nn import init
from numtx.nn.module import Module


class ALiBi(Module):
    """Nearer keys score higher, in each head by another slope: `F.alibi`. Nothing is learned.

    Examples
    --------
    >>> ALiBi(2)(2)
    array([[-0.0625    ,  0.        , -0.0625    ],
           [-0.00390625,  0.        , -0.00390625]], dtype=float32)
    """

    def __init__(self, num_heads):
        count("ALiBi", 1, num_heads=num_heads)
        self.num_heads = num_heads

    def forward(self, tq, tk=None, *, dtype=np.float32):
        """Return the bias (H, Tq + Tk - 1) for the Tq newest of Tk tokens."""
        return F.alibi(self.num_heads, tq, tk, dtype), ()

    def backward(self, dy, cache):
        return None, {}

    def extra_repr(self):
        return f"{self.num_heads}"


class RelativePositionBias(Module):
    """T5's table of scores, one for each bucket of distances and each head: bias = W[bucket(key - query)].

    A stack computes it once and lends it to all its layers, whose gradients of it are summed before `backward`.

    Parameters
    ----------
    num_buckets, num_heads : int
    bidirectional : bool
        True in an encoder, False in a decoder, which sees no later keys.
    max_distance : int
        See `F.relative_position_bucket`.
    std : float
        The table is drawn from N(0, std²).

    Examples
    --------
    >>> RelativePositionBias(32, 2, bidirectional=True, rng=0)(3, 4).shape
    (2, 6)
    """

    def __init__(self, num_buckets, num_heads, *, bidirectional, max_distance=128, std=1.0, rng=None, dtype=np.float32):
        count("RelativePositionBias", 1, num_buckets=num_buckets, num_heads=num_heads)
        settings = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
        F.relative_position_bucket(np.zeros(1, int), **settings)  # refuses what it cannot do, here and not later
        self.weight = init.normal((num_buckets, num_heads), std, rng, dtype)
        self.bidirectional, self.max_distance = bidirectional, max_distance

    def forward(self, tq, tk=None):
        """Return the bias (H, Tq + Tk - 1) for the Tq newest of Tk tokens."""
        buckets = F.relative_position_bucket(
            F.relative_distances(tq, tk),
            bidirectional=self.bidirectional,
            num_buckets=len(self.weight),
            max_distance=self.max_distance,
        )  # (Tq + Tk - 1,)
        rows, cache = F.embedding(buckets, self.weight)  # (Tq + Tk - 1, H)
        return np.ascontiguousarray(rows.T), cache

    def backward(self, dy, cache):
        """Return (None, grads) for dy (H, Tq + Tk - 1), the sum over all layers that the bias was lent to."""
        return None, {} if self.frozen else {"weight": F.embedding_backward(dy.T, cache)}

    def extra_repr(self):
        return "{}, {}".format(*self.weight.shape) + f", bidirectional={self.bidirectional}"
