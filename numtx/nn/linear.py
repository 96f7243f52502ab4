"""Linear: y = x W + b, with its parameters."""

import math

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.nn import init
from numtx.nn.module import Module, gradients, told


class Linear(Module):
    """An affine map of the last axis: (..., in_features) -> (..., out_features).

    The weight is (in, out), the transpose of PyTorch's. It is drawn as there: evenly within ±1/√in.

    Examples
    --------
    >>> Linear(2, 3, rng=0)(np.ones((4, 5, 2), np.float32)).shape
    (4, 5, 3)
    """

    def __init__(self, in_features, out_features, bias=True, *, rng=None, dtype=np.float32):
        count("Linear", 1, in_features=in_features, out_features=out_features)
        rng = np.random.default_rng(rng)
        bound = 1 / math.sqrt(in_features)
        self.weight = init.uniform((in_features, out_features), bound, rng, dtype)
        self.bias = init.uniform((out_features,), bound, rng, dtype) if bias else None

    def forward(self, x, *, rng=None):
        """Return (y, cache). Nothing is random here; what may stand in its place, `LoRALinear`, drops out by `rng`."""
        return F.linear(x, self.weight, self.bias, **told(self.frozen))

    def backward(self, dy, cache):
        dx, dweight, dbias = F.linear_backward(dy, cache)
        return dx, gradients(weight=dweight, bias=dbias)

    def extra_repr(self):
        rows, columns = self.weight.shape
        return f"{rows} -> {columns}" + ("" if self.bias is not None else ", bias=False")
