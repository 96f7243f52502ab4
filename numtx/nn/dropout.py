"""Dropout as a component: nothing to learn, one setting."""

from numtx import functional as F
from numtx.functional.door import rate
from numtx.nn.module import Module


class Dropout(Module):
    """Dropout with rate p; none without an rng.

    Examples
    --------
    >>> import numpy as np
    >>> Dropout(0.5).forward(np.ones(2), rng=None)[0]
    array([1., 1.])
    """

    def __init__(self, p=0.5):
        rate("Dropout", "p", p)
        self.p = p

    def forward(self, x, *, rng=None):
        return F.dropout(x, self.p, rng)

    def backward(self, dy, cache):
        return F.dropout_backward(dy, cache), {}

    def extra_repr(self):
        return f"p={self.p}"
