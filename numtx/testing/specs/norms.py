"""What is known of LayerNorm and RMSNorm over the last axis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def _draw_x(d: Drawer) -> tuple[np.ndarray, int]:
    """x with no to two axes before the last; its rows have a mean of their own in some draws.

    At least three numbers a row: the norm of two is ±1 whatever they are, and its gradient nothing but eps.
    """
    batch, time, width = d.sizes(3, 1, 5)
    width = max(width, 3)
    before = d.choice(((), (batch,), (batch, time)))
    mean = d.choice((0.0, 2.0)) * d.scale
    return d.array((*before, width), mean=mean), width


def draw_layer_norm(d: Drawer) -> Case:
    """γ is never all ones and β never zero; an eps of 1e-3 shows where it stands."""
    x, width = _draw_x(d)
    inputs = {"x": x, "weight": d.near_one((width,)), "bias": d.optional(lambda: d.array((width,)))}
    return Case(inputs, {"eps": d.choice((1e-5, 1e-3))})


def draw_rms_norm(d: Drawer) -> Case:
    """As for layer normalisation, without β."""
    x, width = _draw_x(d)
    return Case({"x": x, "weight": d.near_one((width,))}, {"eps": d.choice((1e-6, 1e-3))})


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, eps: float = 1e-5) -> Any:
    """y = γ (x - μ) / √(σ² + eps) + β, with the variance divided by C."""
    y = np.empty(x.shape)
    for n in np.ndindex(x.shape[:-1]):
        row = [float(number) for number in x[n]]
        mean = math.fsum(row) / len(row)
        variance = math.fsum((number - mean) ** 2 for number in row) / len(row)
        for c, number in enumerate(row):
            y[(*n, c)] = weight[c] * (number - mean) / math.sqrt(variance + eps)
            if bias is not None:
                y[(*n, c)] += bias[c]
    return y


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float = 1e-6) -> Any:
    """y = γ x / √(mean(x²) + eps)."""
    y = np.empty(x.shape)
    for n in np.ndindex(x.shape[:-1]):
        row = [float(number) for number in x[n]]
        root = math.sqrt(math.fsum(number**2 for number in row) / len(row) + eps)
        for c, number in enumerate(row):
            y[(*n, c)] = weight[c] * number / root
    return y


SPECS = [
    Spec("layer_norm", ("x", "weight", "bias"), draw_layer_norm, layer_norm),
    Spec("rms_norm", ("x", "weight"), draw_rms_norm, rms_norm),
]
