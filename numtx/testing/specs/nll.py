"""What is known of the negative log-likelihood: one look-up at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec
from numtx.testing.specs.losses import REDUCTIONS, reduced


def draw_nll(d: Drawer) -> Case:
    """Ignored targets in most draws, all of them now and then; class weights and every reduction.

    Rows whose probabilities do not sum to one: the loss does not ask, and one that normalises them shows nowhere else.
    """
    batch, time, classes = d.sizes(3, 2, 5)
    shape = d.choice(((), (batch,), (batch, time)))
    ignore_index = d.choice((-100, -100, 0))
    target = d.ids(shape, classes)
    target = np.where(d.mask(shape, d.choice((1.0, 0.6, 0.6, 0.0))), target, ignore_index)
    inputs = {
        "log_probs": d.array((*shape, classes)),
        "target": target,
        "weight": d.optional(lambda: d.uniform((classes,), 0.5, 2.0)),
    }
    return Case(inputs, {"ignore_index": ignore_index, "reduction": d.choice(REDUCTIONS)})


def nll_loss(
    log_probs: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """-w_y log p_y; the mean is over the weights of the real targets."""
    loss = np.zeros(target.shape)
    weights = []
    for n in np.ndindex(target.shape):
        label = int(target[n])
        if label != ignore_index:
            weights.append(1.0 if weight is None else float(weight[label]))
            loss[n] = -weights[-1] * float(log_probs[n][label])
    if reduction != "mean":
        return reduced(loss, reduction)
    return math.fsum(loss.reshape(-1)) / math.fsum(weights) if weights else 0.0


SPECS = [Spec("nll_loss", ("log_probs",), draw_nll, nll_loss)]
