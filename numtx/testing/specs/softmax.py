"""What is known of softmax and log-softmax over any axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """One to three axes, and any of them as the axis, counted from the front or from the back."""
    shape = d.sizes(d.integer(1, 3), 1, 4)
    axis = d.integer(-len(shape), len(shape) - 1)
    return Case({"x": d.array(shape)}, {"axis": axis})


def along(x: np.ndarray, axis: int, formula: Callable[[list[float]], list[float]]) -> Any:
    """Apply a formula for one row of numbers to every row of x along `axis`."""
    rows = np.moveaxis(x, axis, -1)
    y = np.empty(rows.shape)
    for n in np.ndindex(rows.shape[:-1]):
        y[n] = formula([float(number) for number in rows[n]])
    return np.moveaxis(y, -1, axis)


def softmax_row(row: list[float]) -> list[float]:
    """y_i = exp(x_i) / Σ_j exp(x_j), the quotient taken as the exponential of a difference."""
    return [math.exp(number) for number in log_softmax_row(row)]


def log_softmax_row(row: list[float]) -> list[float]:
    """y_i = x_i - log Σ_j exp(x_j), with the largest x taken out of the sum."""
    top = max(row)
    return [one - top - math.log(math.fsum(math.exp(other - top) for other in row)) for one in row]


SPECS = [
    Spec("softmax", ("x",), draw, lambda x, axis=-1: along(x, axis, softmax_row)),
    Spec("log_softmax", ("x",), draw, lambda x, axis=-1: along(x, axis, log_softmax_row)),
]
