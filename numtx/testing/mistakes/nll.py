"""Classic mistakes of the negative log-likelihood."""

from __future__ import annotations

import numpy as np

from numtx.functional.softmax import log_softmax, log_softmax_backward
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes import cross_entropy
from numtx.testing.mistakes.cross_entropy import MISCOUNTED, masked


class Textbook(cross_entropy.Textbook):
    """Cross-entropy without its log-softmax, right as it stands. Each mistake overrides one step."""

    def forward(self, log_probs, target, weight=None, *, ignore_index=-100, reduction="mean"):  # type: ignore[override]
        return super().forward(log_probs, target, weight, ignore_index=ignore_index, reduction=reduction)

    def log_p(self, logits):
        return logits

    def dlogits(self, logits, onehot, wanted, counted):
        return -wanted


class _WithoutMinus(Textbook):
    def log_p(self, logits):
        return -logits

    def dlogits(self, logits, onehot, wanted, counted):
        return wanted


class _OfProbabilities(Textbook):
    """Minus the probability, as if the logarithm had not been taken."""

    def log_p(self, logits):
        return np.exp(np.minimum(logits, 80))

    def dlogits(self, logits, onehot, wanted, counted):
        return -wanted * self.log_p(logits)


class _LogSoftmaxAgain(Textbook):
    def log_p(self, logits):
        return log_softmax(logits)[0]

    def dlogits(self, logits, onehot, wanted, counted):
        return log_softmax_backward(-wanted, log_softmax(logits)[1])


class _ProbabilitiesGradient(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        return (np.exp(np.minimum(logits, 80)) - onehot) * wanted.sum(axis=-1, keepdims=True)


class _SumsGradient(cross_entropy.SumsGradient, Textbook):
    pass


class _IncomingIgnored(cross_entropy.IncomingIgnored, Textbook):
    pass


class _IgnoredGradient(Textbook):
    def dlogits(self, logits, onehot, wanted, counted):
        return -np.where(counted[..., None], wanted, onehot)


# Not normalised, since the loss does not ask. (B, T, V) = (2, 2, 4)
LOG_PROBS = np.array(
    [[[-1.2, -0.5, -2.0, -0.4], [-1.2, -0.3, -0.8, -3.1]], [[-0.3, -0.9, -2.6, -1.1], [-0.5, -1.7, -0.2, -0.8]]]
)


def _mistake(name: str, wrong: Textbook, why: str, hint: str) -> Mistake:
    """Forward and backward share the textbook's cache, so both are planted."""
    return Mistake(
        name=f"nll_loss {name}",
        of="nll_loss",
        why=why,
        hint=hint,
        witness=lambda: masked(log_probs=LOG_PROBS),
        forward=wrong.forward,
        backward=wrong.backward,
    )


def _miscounted(wrong: type[cross_entropy.Textbook]) -> Textbook:
    """The same step wrong in this loss."""
    return type(wrong.__name__, (wrong, Textbook), {})()


MISTAKES = [
    *(_mistake(name, _miscounted(wrong), why, hint) for name, wrong, why, hint in MISCOUNTED),
    _mistake(
        "without the minus",
        _WithoutMinus(),
        "A likelihood is to be large and a loss small; one of the two signs gets lost.",
        "Log-probabilities are not positive. What sign has the loss?",
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
