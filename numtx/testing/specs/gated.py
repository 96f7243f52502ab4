"""What is known of the gated linear units: the activation's own formula on one number, times the other number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec
from numtx.testing.specs.activations import SPECS as ACTIVATIONS


def draw(d: Drawer) -> Case:
    """No to three axes; in some draws gates large enough to be wide open or shut, the first one always in between."""
    shape = d.sizes(d.integer(0, 3), 1, 4)
    gate = d.array(shape, scale=d.choice((1, 1, 4)) * d.scale)
    first = (0,) * len(shape)
    gate[first] = min(abs(gate[first]), 1.0)
    return Case({"gate": gate, "up": d.array(shape)})


def gated(activation: str) -> Callable[..., Any]:
    """A definition that multiplies the activation's definition of one gate with one number."""
    formula = {spec.name: spec.definition for spec in ACTIVATIONS}[activation]

    def definition(gate: np.ndarray, up: np.ndarray) -> Any:
        y = np.empty(gate.shape)
        for n in np.ndindex(gate.shape):
            y[n] = float(formula(np.asarray(gate[n]))) * float(up[n])
        return y

    return definition


SPECS = [
    Spec("glu", ("gate", "up"), draw, gated("sigmoid")),
    Spec("geglu", ("gate", "up"), draw, gated("gelu")),
    Spec("geglu_tanh", ("gate", "up"), draw, gated("gelu_tanh")),
    Spec("swiglu", ("gate", "up"), draw, gated("silu")),
]
