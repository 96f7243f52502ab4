"""What is known of dropout: without an rng it is the identity; with one, what survives is divided by 1 - p."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.statistics import dropout_statistics


def draw(d: Drawer) -> Case:
    """One to three axes; without a seed in some draws, where dropout must do nothing at any rate."""
    shape = d.sizes(d.integer(1, 3), 1, 5)
    return Case({"x": d.array(shape)}, {"p": d.choice((0.0, 0.1, 0.5, 0.8)), "rng": d.optional(d.seed)})


def definition(x: np.ndarray, p: float = 0.5, rng: None = None) -> Any:
    """Without randomness: y = x."""
    return np.array([float(number) for number in x.reshape(-1)]).reshape(x.shape)


def survivors(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Each element is either dropped or divided by 1 - p; nothing in between, whatever the draw."""
    if case.settings["rng"] is None:
        return
    y, _ = pair.forward(**case.keywords())
    full = case.inputs["x"] / (1 - case.settings["p"])
    right = (y == 0) | (np.abs(y - full) <= 1e-12 * np.abs(full))
    yield holds("dropped or scaled up", "y", bool(right.all()), "an element is neither 0 nor x / (1 - p)")


SPECS = [
    Spec(
        "dropout",
        ("x",),
        draw,
        definition,
        stochastic=True,
        unbiased=True,
        checks=(survivors, dropout_statistics()),
    )
]
