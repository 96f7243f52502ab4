"""LayerNorm and RMSNorm, with their parameters. The maths stands in functional/norms.py."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count, positive
from numtx.nn import init
from numtx.nn.module import Module, gradients, told


class LayerNorm(Module):
    """Layer normalisation over the last axis, which has `width` numbers.

    Examples
    --------
    >>> LayerNorm(2, eps=0.0)(np.array([[1.0, 3.0]], np.float32))
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(self, width, eps=1e-5, bias=True, *, rng=None, dtype=np.float32):
        count("LayerNorm", 1, width=width)
        positive("LayerNorm", eps=eps)
        self.weight = init.ones(width, dtype)
        self.bias = init.zeros(width, dtype) if bias else None
        self.eps = eps

    def forward(self, x):
        return F.layer_norm(x, self.weight, self.bias, self.eps, **told(self.frozen))

    def backward(self, dy, cache):
        dx, dweight, dbias = F.layer_norm_backward(dy, cache)
        return dx, gradients(weight=dweight, bias=dbias)

    def extra_repr(self):
        return f"{len(self.weight)}, eps={self.eps}" + ("" if self.bias is not None else ", bias=False")


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis, which has `width` numbers.

    Examples
    --------
    >>> RMSNorm(2, eps=0.0)(np.array([[3.0, 3.0]], np.float32))
    array([[1., 1.]], dtype=float32)
    """

    def __init__(self, width, eps=1e-6, *, rng=None, dtype=np.float32):
        count("RMSNorm", 1, width=width)
        positive("RMSNorm", eps=eps)
        self.weight = init.ones(width, dtype)
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, self.weight, self.eps, **told(self.frozen))

    def backward(self, dy, cache):
        dx, dweight = F.rms_norm_backward(dy, cache)
        return dx, gradients(weight=dweight)

    def extra_repr(self):
        return f"{len(self.weight)}, eps={self.eps}"
