"""What is known of linear: y = x W + b over the last axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """No to two axes before the last; equal sizes hide a transposed weight, distinct ones do not."""
    batch, time, width, out = d.sizes(4, 1, 5)
    before = d.choice(((), (batch,), (batch, time)))
    return Case(
        {
            "x": d.array((*before, width)),
            "weight": d.array((width, out)),
            "bias": d.optional(lambda: d.array((out,))),
        }
    )


def definition(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """One number at a time: y_nj = Σ_i x_ni W_ij + b_j."""
    width, out = weight.shape
    y = np.empty((*x.shape[:-1], out))
    for n in np.ndindex(x.shape[:-1]):
        for j in range(out):
            y[(*n, j)] = math.fsum(x[(*n, i)] * weight[i, j] for i in range(width))
            if bias is not None:
                y[(*n, j)] += bias[j]
    return y


SPECS = [Spec("linear", ("x", "weight", "bias"), draw, definition)]
