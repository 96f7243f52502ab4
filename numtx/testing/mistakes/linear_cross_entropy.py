"""Classic mistakes of the loss over a large vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

ROWS = CLASSES = 2  # of a block


class Textbook:
    """Rows and classes in blocks of two, gradients in forward; right as it stands. Each mistake overrides one step."""

    def forward(
        self,
        x,
        weight,
        target,
        bias=None,
        *,
        ignore_index=-100,
        label_smoothing=0.0,
        reduction="mean",
        num_items=None,
        keep="all",
    ):
        rows, labels = x.reshape(-1, x.shape[-1]), np.asarray(target).reshape(-1)
        counted = labels != ignore_index
        divisor = 1 if reduction == "sum" else num_items or self.divisor(counted)
        loss = x.dtype.type(0)
        dx, dweight, dbias = np.zeros_like(rows), np.zeros_like(weight), np.zeros_like(weight[0])
        for start in range(0, len(rows), ROWS):
            at = slice(start, start + ROWS)
            z = rows[at] @ weight + self.bias(bias, weight)  # (R, V)
            real = counted[at]
            onehot = np.arange(z.shape[1]) == np.where(real, labels[at], 0)[:, None]
            wanted = onehot * (1 - label_smoothing) + label_smoothing / z.shape[1]
            log_total = self.log_total(z)[:, None]  # (R, 1)
            losses = (np.where(real[:, None], wanted * (log_total - z), 0)).sum(axis=1)
            share = self.share(divisor, real)
            loss += losses.sum() / share
            p = np.exp(np.minimum(z - log_total, 80))
            dz = self.dz(p, self.wanted(wanted, onehot), real) / share
            dx[at] = self.dx(dz, weight)
            dweight = self.add(dweight, rows[at].T @ dz)
            dbias = self.add(dbias, dz.sum(axis=0))
        gradients = [part.astype(x.dtype) for part in (dx.reshape(x.shape), dweight, dbias)]
        return x.dtype.type(loss), (*gradients, bias is not None, x.dtype.type(divisor))

    def divisor(self, counted):
        return max(1, int(counted.sum()))

    def share(self, divisor, real):
        return divisor

    def bias(self, bias, weight):
        return np.zeros_like(weight[0]) if bias is None else bias

    def log_total(self, z):
        """Log Σ_c exp(z_c), from the maxima and sums of blocks of classes."""
        parts = [z[:, start : start + CLASSES] for start in range(0, z.shape[1], CLASSES)]
        maxima = np.stack([part.max(axis=1) for part in parts])  # (K, R)
        sums = np.stack([np.exp(part - m[:, None]).sum(axis=1) for part, m in zip(parts, maxima, strict=True)])
        return self.joined(maxima, sums)

    def joined(self, maxima, sums):
        top = maxima.max(axis=0)
        return np.log((np.exp(maxima - top) * sums).sum(axis=0)) + top

    def wanted(self, wanted, onehot):
        return wanted

    def dz(self, p, wanted, real):
        return np.where(real[:, None], p - wanted, 0)

    def dx(self, dz, weight):
        return dz @ weight.T

    def add(self, total, part):
        return total + part

    def backward(self, dy, cache):
        dx, dweight, dbias, has_bias, divisor = cache
        dy = np.asarray(dy, dx.dtype)
        return self.scaled(dy, divisor, dx, dweight, dbias if has_bias else None)

    def scaled(self, dy, divisor, dx, dweight, dbias):
        return dy * dx, dy * dweight, None if dbias is None else dy * dbias


class _LastBlock(Textbook):
    def add(self, total, part):
        return part


class _MaximaForgotten(Textbook):
    def joined(self, maxima, sums):
        return np.log(sums.sum(axis=0)) + maxima.max(axis=0)


class _LastMaximum(Textbook):
    def joined(self, maxima, sums):
        return np.log((np.exp(np.minimum(maxima - maxima[-1], 80)) * sums).sum(axis=0)) + maxima[-1] * 0


class _OverPadding(Textbook):
    def divisor(self, counted):
        return counted.size


class _MeanOfMeans(Textbook):
    def share(self, divisor, real):
        return max(1, int(real.sum())) * (2 if divisor > 1 else 1)


class _BiasForgotten(Textbook):
    def bias(self, bias, weight):
        return np.zeros_like(weight[0])


class _LabelInEveryBlock(Textbook):
    def wanted(self, wanted, onehot):
        at_label = np.where(onehot, wanted, 0).max(axis=1, keepdims=True)
        place = np.arange(onehot.shape[1]) % CLASSES
        return wanted + at_label * ((place == onehot.argmax(axis=1)[:, None] % CLASSES) & ~onehot)


class _LabelForgotten(Textbook):
    def wanted(self, wanted, onehot):
        return np.zeros_like(wanted)


class _SmoothingForgotten(Textbook):
    def wanted(self, wanted, onehot):
        return onehot


class _IgnoredGradient(Textbook):
    def dz(self, p, wanted, real):
        return p - wanted


class _IncomingIgnored(Textbook):
    def scaled(self, dy, divisor, dx, dweight, dbias):
        return dx.copy(), dweight.copy(), None if dbias is None else dbias.copy()


class _WeightNotScaled(Textbook):
    def scaled(self, dy, divisor, dx, dweight, dbias):
        return dy * dx, dweight.copy(), None if dbias is None else dbias.copy()


class _MeanTwice(Textbook):
    def scaled(self, dy, divisor, dx, dweight, dbias):
        return super().scaled(dy / divisor, divisor, dx, dweight, dbias)


X = np.array([[[0.2, -0.5], [1.0, 0.4]], [[1.2, 0.3], [-0.8, 0.7]]])  # (B, T, C)
WEIGHT = np.array([[0.9, -1.1, 0.4, 1.6, -0.3], [0.5, 0.8, -0.7, 0.2, 1.3]])  # (C, V)


def _case(**changed: Any) -> Case:
    """One target of four is ignored; two blocks of rows, and three of classes."""
    inputs = {
        "x": X,
        "weight": WEIGHT,
        "target": np.array([[2, -100], [4, 3]]),
        "bias": np.array([0.3, -0.6, 0.1, 0.8, -0.2]),
    }
    return Case(inputs, {"ignore_index": -100, "label_smoothing": 0.0, "reduction": "mean", **changed})


def _smoothed() -> Case:
    return _case(label_smoothing=0.2)


def _mistake(name: str, wrong: Textbook, why: str, hint: str, witness: Any = _case) -> Mistake:
    """Forward and backward share the textbook's cache, so both are planted."""
    planted: dict[str, Any] = {"forward": wrong.forward, "backward": wrong.backward}
    return Mistake(
        name=f"linear_cross_entropy {name}", of="linear_cross_entropy", why=why, hint=hint, witness=witness, **planted
    )


MISTAKES = [
    _mistake(
        "keeping the weight's gradient of the last block alone",
        _LastBlock(),
        "Each block of rows has a product of its own, and `=` stands where `+=` is due.",
        "Every row used the whole weight. Give the same rows twice.",
    ),
    _mistake(
        "adding up blocks with different maxima",
        _MaximaForgotten(),
        "Each block subtracts its own maximum before exp; sums taken on different scales are added.",
        "Add 5 to the logits of one block of classes alone.",
    ),
    _mistake(
        "leaving the maximum out of the log",
        _LastMaximum(),
        "log Σ exp(z - m) is log Σ exp(z) - m, and the m is not put back.",
        "Add 1 to all logits (through the bias): may the loss change?",
    ),
    _mistake(
        "averaged over padding",
        _OverPadding(),
        "The sum over the blocks is divided by the number of rows, ignored ones included.",
        "Add padding to a batch: may the loss change?",
    ),
    _mistake(
        "as a mean of block means",
        _MeanOfMeans(),
        "Each block of rows is averaged, then the averages are: with unequal padding, that is another number.",
        "Does a row count as much in a block of padding as in a full one?",
    ),
    _mistake(
        "without the bias in the logits",
        _BiasForgotten(),
        "The bias is taken, and its gradient returned, but the product alone makes the logits.",
        "Raise one class's bias by 10: which class is likely now?",
    ),
    _mistake(
        "subtracting the label in every block of classes",
        _LabelInEveryBlock(),
        "The label's place within its block is taken, and not asked whether the label is in this block at all.",
        "A row of dz sums to zero. Does it?",
    ),
    _mistake(
        "not subtracting the label",
        _LabelForgotten(),
        "The exponentials of the forward are turned into p at once, and the targets never come into the gradient.",
        "Can the gradient be the same whatever the label is?",
    ),
    _mistake(
        "with smoothing in the loss and not in the gradient",
        _SmoothingForgotten(),
        "The gradient p - onehot is remembered from the loss without smoothing.",
        "Where do the logits stop moving, if the target is not one-hot?",
        _smoothed,
    ),
    _mistake(
        "with a gradient at ignored targets",
        _IgnoredGradient(),
        "-100 is replaced by a legal class for the look-up; its loss is set to zero, and its p - onehot is not.",
        "Can an ignored row change the loss?",
    ),
    _mistake(
        "ignoring dy in backward",
        _IncomingIgnored(),
        "The gradients are there already, and are handed out as they are; right until the loss is scaled or divided.",
        "Double dy.",
    ),
    _mistake(
        "scaling dx alone in backward",
        _WeightNotScaled(),
        "dy is thought of as what flows on to the layers below; the weight's gradient is handed out as it was stored.",
        "Double dy: which gradients double?",
    ),
    _mistake(
        "dividing by the count twice",
        _MeanTwice(),
        "Forward stores the gradient of the mean, and backward divides once more, as it would have to for sums.",
        "Give every row twice: the mean stays, so what happens to dW?",
    ),
]
