"""What is known of the losses: one term at a time, with the logarithms written out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.testing.drawer import Drawer
from numtx.testing.spec import Case, Spec

REDUCTIONS = ("mean", "mean", "sum", "none")


def draw_classes(d: Drawer, scores: str) -> Case:
    """For a loss over the classes of the last axis of `scores`: class weights, every reduction, ignored targets.

    Some targets are ignored in most draws, all of them now and then. At least two classes: with one there is nothing
    to learn, and the gradient is zero up to rounding.
    """
    batch, time, classes = d.sizes(3, 2, 5)
    shape = d.choice(((), (batch,), (batch, time)))
    ignore_index = d.choice((-100, -100, 0))
    target = d.ids(shape, classes)
    target = np.where(d.mask(shape, d.choice((1.0, 0.6, 0.6, 0.0))), target, ignore_index)
    inputs = {
        scores: d.array((*shape, classes)),
        "target": target,
        "weight": d.optional(lambda: d.uniform((classes,), 0.5, 2.0)),
    }
    return Case(inputs, {"ignore_index": ignore_index, "reduction": d.choice(REDUCTIONS)})


def draw_cross_entropy(d: Drawer) -> Case:
    """With smoothing in most draws."""
    return draw_classes(d, "logits").with_settings(label_smoothing=d.choice((0.0, 0.1, 0.5)))


def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """-Σ_c t_c w_c log p_c with t = (1 - ε) one-hot + ε / V; the mean is over the weights of the real targets."""
    classes = logits.shape[-1]
    loss = np.zeros(target.shape)
    total_weight = 0.0
    for n in np.ndindex(target.shape):
        label = int(target[n])
        if label == ignore_index:
            continue
        total_weight += 1.0 if weight is None else float(weight[label])
        z = [float(number) for number in logits[n]]
        for c in range(classes):
            share = label_smoothing / classes + (1 - label_smoothing if c == label else 0.0)
            log_p = z[c] - max(z) - math.log(math.fsum(math.exp(other - max(z)) for other in z))
            loss[n] -= share * (1.0 if weight is None else float(weight[c])) * log_p
    if reduction == "none":
        return loss
    total = math.fsum(loss.reshape(-1))
    if reduction == "sum":
        return total
    return total / total_weight if total_weight > 0 else 0.0


def draw_mse(d: Drawer) -> Case:
    """No to three axes, every reduction."""
    shape = d.sizes(d.integer(0, 3), 1, 4)
    return Case({"input": d.array(shape), "target": d.array(shape)}, {"reduction": d.choice(REDUCTIONS)})


def mse_loss(input: np.ndarray, target: np.ndarray, reduction: str = "mean") -> Any:
    """(input - target)² for each element; the mean is over all elements, not over the batch."""
    loss = np.empty(input.shape)
    for n in np.ndindex(input.shape):
        loss[n] = (float(input[n]) - float(target[n])) ** 2
    return reduced(loss, reduction)


def draw_binary(d: Drawer) -> Case:
    """Targets of 0 and 1, or between; weights that broadcast."""
    shape = d.sizes(d.integer(1, 3), 1, 4)
    target = d.uniform(shape) if d.boolean() else d.ids(shape, 2).astype(np.float64)
    inputs = {
        "input": d.array(shape),
        "target": target,
        "weight": d.optional(lambda: d.uniform(d.choice((shape, shape[-1:])), 0.5, 2.0)),
        "pos_weight": d.optional(lambda: d.uniform(shape[-1:], 0.5, 3.0)),
    }
    return Case(inputs, {"reduction": d.choice(REDUCTIONS)})


def binary_cross_entropy_with_logits(
    input: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    reduction: str = "mean",
) -> Any:
    """-w (p⁺ t log σ(x) + (1 - t) log(1 - σ(x))); the mean is over the number of elements, whatever the weights."""
    weight = np.broadcast_to(1.0 if weight is None else weight, input.shape)
    pos_weight = np.broadcast_to(1.0 if pos_weight is None else pos_weight, input.shape)
    loss = np.empty(input.shape)
    for n in np.ndindex(input.shape):
        x, t = float(input[n]), float(target[n])
        loss[n] = weight[n] * (pos_weight[n] * t * surprise(x) + (1 - t) * surprise(-x))
    return reduced(loss, reduction)


def surprise(x: float) -> float:
    """-log σ(x) = log(1 + exp(-x)), written so that exp cannot overflow."""
    return math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)) - x


def reduced(loss: np.ndarray, reduction: str) -> Any:
    """Each loss, their sum, or their mean over all elements."""
    if reduction == "none":
        return loss
    total = math.fsum(loss.reshape(-1))
    return total if reduction == "sum" else total / loss.size


SPECS = [
    Spec("cross_entropy", ("logits",), draw_cross_entropy, cross_entropy),
    Spec("mse_loss", ("input",), draw_mse, mse_loss),
    Spec(
        "binary_cross_entropy_with_logits",
        ("input",),
        draw_binary,
        binary_cross_entropy_with_logits,
    ),
]
