"""Classic mistakes of cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numtx.functional.softmax import log_softmax, softmax, softmax_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


class Textbook:
    """Cross-entropy step by step, with a cache of its own; right as it stands. Each mistake overrides one step."""

    def forward(self, logits, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
        dtype = logits.dtype
        counted = self.counted(np.asarray(target), ignore_index)  # (...)
        label = np.where(target == ignore_index, 0, target)
        class_weight = self.class_weight(weight, logits)
        onehot = (np.arange(logits.shape[-1]) == label[..., None]).astype(dtype)  # (..., V)
        wanted = self.smoothed(onehot, label_smoothing) * class_weight * counted[..., None].astype(dtype)
        log_p = self.log_p(logits)
        loss = -(wanted * log_p).sum(axis=-1)
        divisor = np.ones((), dtype)
        if reduction == "mean":
            real = np.where(counted, class_weight[label], 0)
            divisor = np.asarray(self.divisor(real, counted), dtype)
            divisor = np.where(divisor == 0, np.ones((), dtype), divisor)
        y = loss if reduction == "none" else (loss / divisor).sum()
        return y, (logits, onehot, wanted, counted, divisor)

    def counted(self, target, ignore_index):
        return np.asarray(target != ignore_index)

    def class_weight(self, weight, logits):
        return np.ones(logits.shape[-1], logits.dtype) if weight is None else weight

    def smoothed(self, onehot, smoothing):
        return onehot * (1 - smoothing) + smoothing / onehot.shape[-1]

    def log_p(self, logits):
        return log_softmax(logits)[0]

    def divisor(self, real, counted):
        return real.sum()

    def backward(self, dy, cache):
        logits, onehot, wanted, counted, divisor = cache
        rows = self.rows(np.asarray(dy, logits.dtype), divisor, counted.shape)  # (...)
        return self.dlogits(logits, onehot, wanted, counted) * rows[..., None]

    def rows(self, dy, divisor, shape):
        """What each row's loss receives."""
        return np.broadcast_to(dy / divisor, shape)

    def dlogits(self, logits, onehot, wanted, counted):
        """The gradient of each row's own loss."""
        return softmax(logits)[0] * wanted.sum(axis=-1, keepdims=True) - wanted


class _OverPadding(Textbook):
    def divisor(self, real, counted):
        return counted.size


class _OverCount(Textbook):
    def divisor(self, real, counted):
        return counted.sum()


class _OverBatch(Textbook):
    def divisor(self, real, counted):
        return len(real) if real.ndim else real.sum()


class _MeanOfMeans(Textbook):
    def divisor(self, real, counted):
        if real.ndim < 2:
            return real.sum()
        row = real.sum(axis=-1, keepdims=True)
        return row * np.count_nonzero(row)


class _WeightIgnored(Textbook):
    def class_weight(self, weight, logits):
        return super().class_weight(None, logits)


class _IgnoredCounted(Textbook):
    def counted(self, target, ignore_index):
        return np.ones(target.shape, dtype=bool)


class _SmoothedOthers(Textbook):
    def smoothed(self, onehot, smoothing):
        others = max(onehot.shape[-1] - 1, 1)
        return onehot * (1 - smoothing) + (1 - onehot) * (smoothing / others)


class _SmoothedOnTop(Textbook):
    def smoothed(self, onehot, smoothing):
        return onehot + smoothing / onehot.shape[-1]


class _SmoothingIgnored(Textbook):
    def smoothed(self, onehot, smoothing):
        return onehot


class _SoftmaxTwice(Textbook):
    def log_p(self, logits):
        return log_softmax(softmax(logits)[0])[0]

    def dlogits(self, logits, onehot, wanted, counted):
        p, cache = softmax(logits)
        return softmax_backward(super().dlogits(p, onehot, wanted, counted), cache)


class _Bits(Textbook):
    def log_p(self, logits):
        return super().log_p(logits) * (1 / math.log(2))

    def dlogits(self, logits, onehot, wanted, counted):
        return super().dlogits(logits, onehot, wanted, counted) * (1 / math.log(2))


class _Padded(Textbook):
    def log_p(self, logits):
        return np.log(softmax(logits)[0] + 1e-9)


class SumsGradient(Textbook):
    def rows(self, dy, divisor, shape):
        return np.broadcast_to(dy, shape)


class IncomingIgnored(Textbook):
    def rows(self, dy, divisor, shape):
        return super().rows(np.ones_like(dy), divisor, shape)


class _PlainGradient(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        return (softmax(logits)[0] - onehot) * counted[..., None]


class _IgnoredGradient(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        ignored = softmax(logits)[0] - onehot
        return np.where(counted[..., None], super().dlogits(logits, onehot, wanted, counted), ignored)


class _SoftmaxJacobianTwice(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        _, cache = softmax(logits)
        return softmax_backward(super().dlogits(logits, onehot, wanted, counted), cache)


class _TargetByValue(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        label = (logits * onehot).sum(axis=-1, keepdims=True)
        alike = (logits == label).astype(logits.dtype)
        share = wanted + (alike - onehot) * (wanted * onehot).sum(axis=-1, keepdims=True)
        return softmax(logits)[0] * wanted.sum(axis=-1, keepdims=True) - share


LOGITS = np.array(
    [[[0.2, -0.5, 1.0, 0.4], [1.2, 0.3, -0.8, 0.1]], [[-0.3, 0.9, 0.6, -1.1], [0.5, 0.7, -0.2, 0.8]]]
)  # (B, T, V)


def masked(**scores: np.ndarray) -> Case:
    """Scores (B, T, V) = (2, 2, 4) by name; one target of four is ignored, and the classes have weights."""
    inputs = {**scores, "target": np.array([[2, -100], [0, 3]]), "weight": np.array([0.5, 2.0, 1.5, 0.8])}
    return Case(inputs, {"ignore_index": -100, "reduction": "mean"})


def _case(logits: np.ndarray = LOGITS, label_smoothing: float = 0.0) -> Case:
    return masked(logits=logits).with_settings(label_smoothing=label_smoothing)


def _smoothed() -> Case:
    return _case(label_smoothing=0.2)


def _certain() -> Case:
    return _case(LOGITS * 20)


def _ties() -> Case:
    logits = LOGITS.copy()
    logits[0, 0, 0] = logits[0, 0, 2]
    return _case(logits)


def _mistake(name: str, wrong: Textbook, witness: Any, why: str, hint: str) -> Mistake:
    """Forward and backward share the textbook's cache, so both are planted."""
    return Mistake(
        name=name,
        of="cross_entropy",
        why=why,
        hint=hint,
        witness=witness,
        forward=wrong.forward,
        backward=wrong.backward,
    )


# Of every loss over classes: a name, the wrong version, why, a hint.
MISCOUNTED: list[tuple[str, type[Textbook], str, str]] = [
    (
        "averaged over padding",
        _OverPadding,
        "loss.mean() counts the ignored targets, whose loss is zero.",
        "Add padding to a batch: may the loss change?",
    ),
    (
        "ignoring class weights in the mean's denominator",
        _OverCount,
        "The weighted sum is divided by the number of targets. (A weighted mean divides by the sum of its weights.)",
        "Let all classes have weight 2: may the mean change?",
    ),
    (
        "divided by the batch alone",
        _OverBatch,
        "len(scores) is the number of sequences, not of tokens.",
        "Give one sequence of two tokens, and two sequences of one.",
    ),
    (
        "as a mean of row means",
        _MeanOfMeans,
        "Each sequence (or shard) is averaged, then the averages are: with unequal padding, that is another number.",
        "Does a token in a short sequence count as much as one in a long sequence?",
    ),
    (
        "without class weights",
        _WeightIgnored,
        "The argument is accepted and not used.",
        "Let one class have weight 0.",
    ),
    (
        "counting ignored targets as class 0",
        _IgnoredCounted,
        "-100 is replaced by a legal index for the look-up, and its loss is not taken out again.",
        "What does a target of -100 cost?",
    ),
]

MISTAKES = [
    *(_mistake(f"cross-entropy {name}", wrong(), _case, why, hint) for name, wrong, why, hint in MISCOUNTED),
    _mistake(
        "cross-entropy smoothing spread over V - 1 classes",
        _SmoothedOthers(),
        _smoothed,
        "ε goes to the other classes alone in some papers; the paper that named it, and PyTorch, spread it over all.",
        "What is the label's own share at V = 2 and ε = 0.2?",
    ),
    _mistake(
        "cross-entropy smoothing on top of the label",
        _SmoothedOnTop(),
        _smoothed,
        "The uniform part is added, and the label keeps its 1.",
        "What do the targets of a row sum to?",
    ),
    _mistake(
        "cross-entropy without label smoothing",
        _SmoothingIgnored(),
        _smoothed,
        "The argument is accepted and not used.",
        "Compare a smoothing of 0 and of 0.5.",
    ),
    _mistake(
        "cross-entropy of probabilities taken for logits",
        _SoftmaxTwice(),
        _case,
        "The model ends with a softmax, and the loss has one inside.",
        "How low can the loss get when the model is certain and right?",
    ),
    _mistake(
        "cross-entropy in bits",
        _Bits(),
        _case,
        "log2 for log.",
        "What is the loss of a fair coin?",
    ),
    _mistake(
        "cross-entropy with 1e-9 added to the probabilities",
        _Padded(),
        _certain,
        "It keeps log from zero; it also ends the loss at 20.7, where the model is most wrong.",
        "Try logits 40 apart, the wrong one on top.",
    ),
    _mistake(
        "cross-entropy backward not divided by the count",
        SumsGradient(),
        _case,
        "p - onehot is remembered, and the mean in the forward is not.",
        "Give the same example twice: the mean stays, so what happens to each gradient?",
    ),
    _mistake(
        "cross-entropy backward ignoring dy",
        IncomingIgnored(),
        _case,
        "The loss is the end of the chain, so dy is always 1 there; until losses are added, scaled or accumulated.",
        "Double dy.",
    ),
    _mistake(
        "cross-entropy backward as plain p - onehot",
        _PlainGradient(),
        _smoothed,
        "That is the gradient without class weights and smoothing; they were added to the forward later.",
        "Write the loss with targets t_c and differentiate again.",
    ),
    _mistake(
        "cross-entropy gradient at ignored targets",
        _IgnoredGradient(),
        _case,
        "Their loss is set to zero in forward, and backward is p - onehot everywhere.",
        "Can an ignored position change the loss?",
    ),
    _mistake(
        "cross-entropy backward with the softmax's Jacobian again",
        _SoftmaxJacobianTwice(),
        _case,
        "p - onehot is the gradient of the logits already; it is handed to the softmax's backward.",
        "Count the softmaxes in forward and in backward.",
    ),
    _mistake(
        "cross-entropy targets found by comparing logit values",
        _TargetByValue(),
        _ties,
        "The look-up is done by value, logits == logits[target]; two equal logits then both count as the target.",
        "Let two logits of a row be equal.",
    ),
]
