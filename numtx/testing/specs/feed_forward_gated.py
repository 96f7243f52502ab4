"""What is known of the gated feed-forward network: three products, two of them of the same x."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx import nn
from numtx.testing.adapter import Draft, component_spec
from numtx.testing.drawer import Drawer
from numtx.testing.specs import nn_plain as plain
from numtx.testing.specs.gated import SPECS as UNITS
from numtx.testing.specs.nn_layers import rates

UNIT = {spec.name: spec.definition for spec in UNITS}


def draw(d: Drawer) -> Draft:
    width, hidden = d.sizes(2, 2, 4)
    rate, rng = rates(d)
    options = {
        "width": width,
        "hidden": hidden,
        "activation": d.choice(tuple(UNIT)),
        "dropout": rate,
        "bias": d.boolean(),
    }
    return Draft(options, {"x": d.array((*d.sizes(2, 1, 3), width))}, {"rng": rng})


def gated_feed_forward(p: plain.Parameters, x: np.ndarray, activation: str) -> np.ndarray:
    """(a(x W_gate + b_gate) · (x W_up + b_up)) W_down + b_down."""
    gate, up = (plain.affine(x, p[f"{name}.weight"], p.get(f"{name}.bias")) for name in ("gate", "up"))
    return plain.affine(UNIT[activation](gate, up), p["down.weight"], p.get("down.bias"))


def definition(p: plain.Parameters, options: Any, x: np.ndarray, rng: Any) -> np.ndarray:
    return gated_feed_forward(p, x, options["activation"])


SPECS = [
    component_spec(
        "GatedFeedForward",
        lambda dtype, **options: nn.GatedFeedForward(**options, rng=0, dtype=dtype),
        draw,
        definition,
        stochastic=True,
    )
]
