"""What is known of embedding: row i of a table for id i."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """More ids than rows in many draws, so that ids repeat; often there are rows that no id names."""
    batch, time, rows, width = d.sizes(4, 1, 5)
    shape = d.choice(((), (time,), (batch, time)))
    return Case({"ids": d.ids(shape, rows), "weight": d.array((rows, width))})


def definition(ids: np.ndarray, weight: np.ndarray) -> Any:
    """One number at a time: y_nc = Σ_v [ids_n = v] W_vc, the product with a one-hot matrix."""
    rows, width = weight.shape
    y = np.zeros((*np.shape(ids), width))
    for n in np.ndindex(np.shape(ids)):
        for v in range(rows):
            for c in range(width):
                y[(*n, c)] += weight[v, c] if ids[n] == v else 0.0
    return y


SPECS = [Spec("embedding", ("weight",), draw, definition)]
