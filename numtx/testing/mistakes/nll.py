"""Classic mistakes of the negative log-likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.softmax import log_softmax, log_softmax_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


class Textbook:
    """The loss as a product with one-hot targets, right as it stands. Each mistake overrides one step."""

    def forward(self, log_probs, target, weight=None, *, ignore_index=-100, reduction="mean"):
        dtype = log_probs.dtype
        counted = self.counted(np.asarray(target), ignore_index)  # (...)
        label = np.where(target == ignore_index, 0, target)
        onehot = (np.arange(log_probs.shape[-1]) == label[..., None]).astype(dtype)  # (..., V)
        class_weight = self.class_weight(weight, log_probs)
        wanted = onehot * class_weight * counted[..., None].astype(dtype)
        log_p, cache = self.log_p(log_probs)
        loss = self.sign * (wanted * log_p).sum(axis=-1)
        divisor = np.ones((), dtype)
        if reduction == "mean":
            real = np.where(counted, class_weight[label], 0)
            divisor = np.asarray(self.divisor(real, counted), dtype)
            divisor = np.where(divisor == 0, np.ones((), dtype), divisor)
        y = loss if reduction == "none" else (loss / divisor).sum()
        return y, (log_probs, cache, onehot, wanted, counted, divisor)

    sign = -1

    def counted(self, target, ignore_index):
        return np.asarray(target != ignore_index)

    def class_weight(self, weight, log_probs):
        return np.ones(log_probs.shape[-1], log_probs.dtype) if weight is None else weight

    def log_p(self, log_probs):
        return log_probs, None

    def divisor(self, real, counted):
        return real.sum()

    def backward(self, dy, cache):
        log_probs, inner, onehot, wanted, counted, divisor = cache
        rows = np.broadcast_to(self.row(np.asarray(dy, log_probs.dtype), divisor), counted.shape)
        return self.dlog_probs(rows[..., None], log_probs, inner, onehot, wanted)

    def row(self, dy, divisor):
        """What each row's loss receives."""
        return dy / divisor

    def dlog_probs(self, dy, log_probs, inner, onehot, wanted):
        return self.sign * dy * wanted


class _WithoutMinus(Textbook):
    sign = 1


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
    def class_weight(self, weight, log_probs):
        return super().class_weight(None, log_probs)


class _IgnoredCounted(Textbook):
    def counted(self, target, ignore_index):
        return np.ones(target.shape, dtype=bool)


class _OfProbabilities(Textbook):
    """Minus the probability, as if the logarithm had not been taken."""

    def log_p(self, log_probs):
        return np.exp(np.minimum(log_probs, 80)), None

    def dlog_probs(self, dy, log_probs, inner, onehot, wanted):
        return super().dlog_probs(dy, log_probs, inner, onehot, wanted) * self.log_p(log_probs)[0]


class _LogSoftmaxAgain(Textbook):
    def log_p(self, log_probs):
        return log_softmax(log_probs)

    def dlog_probs(self, dy, log_probs, inner, onehot, wanted):
        return log_softmax_backward(super().dlog_probs(dy, log_probs, inner, onehot, wanted), inner)


class _ProbabilitiesGradient(Textbook):
    def dlog_probs(self, dy, log_probs, inner, onehot, wanted):
        return dy * (np.exp(np.minimum(log_probs, 80)) - onehot) * wanted.sum(axis=-1, keepdims=True)


class _SumsGradient(Textbook):
    def row(self, dy, divisor):
        return dy


class _IncomingIgnored(Textbook):
    def row(self, dy, divisor):
        return super().row(np.ones_like(dy), divisor)


class _IgnoredGradient(Textbook):
    def dlog_probs(self, dy, log_probs, inner, onehot, wanted):
        ignored = wanted.sum(axis=-1, keepdims=True) == 0
        return super().dlog_probs(dy, log_probs, inner, onehot, np.where(ignored, onehot, wanted))


# Not normalised, since the loss does not ask. (B, T, V) = (2, 2, 4)
LOG_PROBS = np.array(
    [[[-1.2, -0.5, -2.0, -0.4], [-1.2, -0.3, -0.8, -3.1]], [[-0.3, -0.9, -2.6, -1.1], [-0.5, -1.7, -0.2, -0.8]]]
)


def _case() -> Case:
    """One target of four is ignored, and the classes have weights."""
    inputs = {
        "log_probs": LOG_PROBS,
        "target": np.array([[2, -100], [0, 3]]),
        "weight": np.array([0.5, 2.0, 1.5, 0.8]),
    }
    return Case(inputs, {"ignore_index": -100, "reduction": "mean"})


def _mistake(name: str, wrong: Textbook, why: str, hint: str) -> Mistake:
    """Forward and backward share the textbook's cache, so both are planted."""
    planted: dict[str, Any] = {"forward": wrong.forward, "backward": wrong.backward}
    return Mistake(name=f"nll_loss {name}", of="nll_loss", why=why, hint=hint, witness=_case, **planted)


MISTAKES = [
    _mistake(
        "without the minus",
        _WithoutMinus(),
        "A likelihood is to be large and a loss small; one of the two signs gets lost.",
        "Log-probabilities are not positive. What sign has the loss?",
    ),
    _mistake(
        "averaged over padding",
        _OverPadding(),
        "loss.mean() counts the ignored targets, whose loss is zero.",
        "Add padding to a batch: may the loss change?",
    ),
    _mistake(
        "ignoring class weights in the mean's denominator",
        _OverCount(),
        "The weighted sum is divided by the number of targets. (A weighted mean divides by the sum of its weights.)",
        "Let all classes have weight 2: may the mean change?",
    ),
    _mistake(
        "divided by the batch alone",
        _OverBatch(),
        "len(log_probs) is the number of sequences, not of tokens.",
        "Give one sequence of two tokens, and two sequences of one.",
    ),
    _mistake(
        "as a mean of row means",
        _MeanOfMeans(),
        "Each sequence (or shard) is averaged, then the averages are: with unequal padding, that is another number.",
        "Does a token in a short sequence count as much as one in a long sequence?",
    ),
    _mistake(
        "without class weights",
        _WeightIgnored(),
        "The argument is accepted and not used.",
        "Let one class have weight 0.",
    ),
    _mistake(
        "counting ignored targets as class 0",
        _IgnoredCounted(),
        "-100 is replaced by a legal index for the look-up, and its loss is not taken out again.",
        "What does a target of -100 cost?",
    ),
    _mistake(
        "of probabilities",
        _OfProbabilities(),
        "The name says likelihood, and the function takes logarithms of it: no logarithm is taken inside.",
        "What is the loss of a fair coin?",
    ),
    _mistake(
        "with a log-softmax inside",
        _LogSoftmaxAgain(),
        "It is cross-entropy then; where the rows are normalised already it changes no value, only the gradient.",
        "Add 1 to a whole row: what does the loss do?",
    ),
    _mistake(
        "backward as p - onehot",
        _ProbabilitiesGradient(),
        "That is cross-entropy's gradient, of the logits; the log-softmax's own backward subtracts p a second time.",
        "Which entries of a row does the loss read, and which have a gradient?",
    ),
    _mistake(
        "backward not divided by the count",
        _SumsGradient(),
        "-onehot is remembered, and the mean in the forward is not.",
        "Give the same example twice: the mean stays, so what happens to each gradient?",
    ),
    _mistake(
        "backward ignoring dy",
        _IncomingIgnored(),
        "The loss is the end of the chain, so dy is always 1 there; until losses are added, scaled or accumulated.",
        "Double dy.",
    ),
    _mistake(
        "gradient at ignored targets",
        _IgnoredGradient(),
        "Their loss is set to zero in forward, and backward writes -1 at every label.",
        "Can an ignored position change the loss?",
    ),
]
