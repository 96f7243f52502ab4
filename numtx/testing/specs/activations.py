"""What is known of the activations: scalar formulas, applied to one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec


def draw(d: Drawer) -> Case:
    """No to three axes, and in some draws numbers large enough to reach the flat parts.

    The first number stays where every slope is well above zero: far out 1 - tanh² is all rounding, and a case of
    nothing else would compare rounding with rounding.
    """
    shape = d.sizes(d.integer(0, 3), 1, 4)
    x = d.array(shape, scale=d.choice((1, 1, 4)) * d.scale)
    x[(0,) * x.ndim] = min(abs(x[(0,) * x.ndim]), 1.0)
    return Case({"x": x})


def _relu(x: float) -> float:
    return x if x > 0 else 0.0


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))  # the same function as 1 / (1 + e⁻ˣ), and never overflows


def _tanh(x: float) -> float:
    if abs(x) > 300:
        return math.copysign(1.0, x)
    return math.sinh(x) / math.cosh(x)


def _gelu(x: float) -> float:
    return x * math.erfc(-x / math.sqrt(2)) / 2  # Φ(x) by the complement: precise in the lower tail too


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def elementwise(formula: Callable[[float], float]) -> Callable[..., Any]:
    """A definition that applies `formula` to each number of x."""

    def definition(x: np.ndarray) -> Any:
        y = np.empty(x.shape)
        for n in np.ndindex(x.shape):
            y[n] = formula(float(x[n]))
        return y

    return definition


SPECS = [
    Spec("relu", ("x",), draw, elementwise(_relu)),
    Spec("sigmoid", ("x",), draw, elementwise(_sigmoid)),
    Spec("tanh", ("x",), draw, elementwise(_tanh)),
    Spec("silu", ("x",), draw, elementwise(lambda x: x * _sigmoid(x))),
    Spec("gelu", ("x",), draw, elementwise(_gelu)),
    Spec("gelu_tanh", ("x",), draw, elementwise(_gelu_tanh)),
]
