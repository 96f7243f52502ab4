"""What is known of the negative log-likelihood: one look-up at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec
from numtx.testing.specs.losses import draw_classes, reduced


def draw_nll(d: Drawer) -> Case:
    """Rows whose probabilities do not sum to one: the loss does not ask, and one that normalises shows nowhere else."""
    return draw_classes(d, "log_probs")


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
