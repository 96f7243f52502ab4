"""What is known of the update of low rank: y = s x A B."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """No to two axes before the last; ranks below and above the widths, and equal to them."""
    width, rank, out = d.sizes(3, 1, 5)
    before = d.sizes(d.integer(0, 2), 1, 3)
    inputs = {"x": d.array((*before, width)), "a": d.array((width, rank)), "b": d.array((rank, out))}
    return Case(inputs, {"scale": d.choice((0.25, 1.0, 3.0))})


def definition(x: np.ndarray, a: np.ndarray, b: np.ndarray, scale: float = 1.0) -> Any:
    """One number at a time: y_nj = s Σ_i Σ_k x_ni A_ik B_kj."""
    (width, rank), out = a.shape, b.shape[1]
    y = np.empty((*x.shape[:-1], out))
    for n in np.ndindex(x.shape[:-1]):
        for j in range(out):
            terms = [x[(*n, i)] * a[i, k] * b[k, j] for i in range(width) for k in range(rank)]
            y[(*n, j)] = scale * math.fsum(terms)
    return y


SPECS = [Spec("low_rank", ("x", "a", "b"), draw, definition)]
