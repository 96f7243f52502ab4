"""What is known of the loss over a large vocabulary: every logit by itself, then cross-entropy one term at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.findings import Finding, holds
from numtx.testing.spec import Case, Pair, Spec
from numtx.testing.specs.losses import cross_entropy


def draw_linear_cross_entropy(d: Drawer) -> Case:
    """A weight in either memory order, ignored targets in most draws, all of them now and then; smoothing, a bias."""
    batch, time, classes = d.sizes(3, 2, 5)
    width = d.size(1, 5)
    shape = d.choice(((), (batch,), (batch, time)))
    ignore_index = d.choice((-100, -100, 0))
    target = np.where(d.mask(shape, d.choice((1.0, 0.6, 0.6, 0.0))), d.ids(shape, classes), ignore_index)
    inputs = {
        "x": d.array((*shape, width)),
        "weight": d.array((classes, width)).T if d.boolean() else d.array((width, classes)),
        "target": target,
        "bias": d.optional(lambda: d.array((classes,))),
    }
    reduction = d.choice(("mean", "sum"))
    settings = {
        "ignore_index": ignore_index,
        "label_smoothing": d.choice((0.0, 0.0, 0.1, 0.5)),
        "reduction": reduction,
        "num_items": d.choice((None, 7)) if reduction == "mean" else None,
    }
    return Case(inputs, settings)


def linear_cross_entropy(
    x: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    bias: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    num_items: int | None = None,
) -> Any:
    """z_c = Σ_i x_i W_ic + b_c, and the cross-entropy of z."""
    classes = weight.shape[1]
    logits = np.empty((*x.shape[:-1], classes))
    for n in np.ndindex(x.shape[:-1]):
        for c in range(classes):
            terms = [float(x[n][i]) * float(weight[i, c]) for i in range(len(weight))]
            logits[n][c] = math.fsum([*terms, 0.0 if bias is None else float(bias[c])])
    if num_items is not None:
        return cross_entropy(logits, target, None, ignore_index, label_smoothing, "sum") / num_items
    return cross_entropy(logits, target, None, ignore_index, label_smoothing, reduction)


def loss_alone(spec: Spec, case: Case, pair: Pair) -> Iterator[Finding]:
    """Without the gradients the loss is the same, to the last bit."""
    with_gradients, without = pair.forward(**case.keywords())[0], pair.forward(**case.keywords(), keep=None)[0]
    yield holds("loss alone", "y", bool(with_gradients == without), f"expected {with_gradients}, got {without}")


SPECS = [
    Spec(
        "linear_cross_entropy",
        ("x", "weight", "bias"),
        draw_linear_cross_entropy,
        linear_cross_entropy,
        checks=(loss_alone,),
    )
]
