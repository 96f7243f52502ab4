"""Classic mistakes of the losses: mean squared error and binary cross-entropy; cross-entropy's have a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from numtx.functional.activations import sigmoid, sigmoid_backward
from numtx.functional.losses import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    mse_loss,
    mse_loss_backward,
)
from numtx.testing.mistake import Mistake
from numtx.testing.mistakes import cross_entropy
from numtx.testing.spec import Case

X = np.array([[0.5, -1.2, 2.0], [-0.3, 0.8, -1.5]])


def _mse() -> Case:
    return Case({"input": X, "target": np.array([[0.1, 0.4, 1.0], [-1.0, 0.3, 0.2]])}, {"reduction": "mean"})


def _binary(**changed: Any) -> Case:
    inputs = {
        "input": X,
        "target": np.array([[1.0, 0.0, 0.3], [0.0, 1.0, 1.0]]),
        "weight": np.array([[0.7, 1.3, 2.0], [0.5, 1.1, 0.9]]),
        "pos_weight": np.array([2.0, 0.5, 3.0]),
    }
    return Case({**inputs, **changed}, {"reduction": "mean"})


def _far() -> Case:
    return _binary(input=X * 400)


def _per_batch(input, reduction):
    """What turns a mean over all elements into a mean over the first axis."""
    return input.size / len(input) if reduction == "mean" and input.ndim else 1.0


def _mse_over_batch(input, target, reduction="mean"):
    y, cache = mse_loss(input, target, reduction)
    factor = _per_batch(input, reduction)
    return y * factor, (cache, factor)


def _mse_over_batch_backward(dy, cache):
    return mse_loss_backward(dy, cache[0]) * cache[1]


def _mse_half(input, target, reduction="mean"):
    y, cache = mse_loss(input, target, reduction)
    return y * 0.5, (cache, 0.5)


def _mse_keeping(input, target, reduction="mean"):
    y, cache = mse_loss(input, target, reduction)
    return y, (cache, input.size if reduction == "mean" else 1.0)


def _mse_undivided(dy, cache):
    return mse_loss_backward(dy, cache[0]) * cache[1]


def _mse_without_two(dy, cache):
    return mse_loss_backward(dy, cache) * 0.5


def _mse_sign(dy, cache):
    return -mse_loss_backward(dy, cache)


def _mse_of_sizes(input, target, reduction="mean"):
    difference = np.abs(input - target)
    y = difference if reduction == "none" else difference.sum() if reduction == "sum" else difference.mean()
    return y, (np.sign(input - target), input.size if reduction == "mean" else 1)


def _mse_of_sizes_backward(dy, cache):
    sign, count = cache
    return sign * (np.asarray(dy, sign.dtype) / count)


def _without_pos_weight(input, target, weight=None, pos_weight=None, reduction="mean"):
    return binary_cross_entropy_with_logits(input, target, weight, None, reduction)


def _without_weight(input, target, weight=None, pos_weight=None, reduction="mean"):
    return binary_cross_entropy_with_logits(input, target, None, pos_weight, reduction)


def _pos_weight_on_negatives(input, target, weight=None, pos_weight=None, reduction="mean"):
    return binary_cross_entropy_with_logits(-input, 1 - target, weight, pos_weight, reduction)


def _pos_weight_on_negatives_backward(dy, cache):
    return -binary_cross_entropy_with_logits_backward(dy, cache)


def _over_weights(input, target, weight=None, pos_weight=None, reduction="mean"):
    y, cache = binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
    factor = 1.0
    if reduction == "mean" and weight is not None:
        factor = input.size / float(np.broadcast_to(weight, input.shape).sum())
    return y * factor, (cache, factor)


def _over_batch(input, target, weight=None, pos_weight=None, reduction="mean"):
    y, cache = binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
    factor = _per_batch(input, reduction)
    return y * factor, (cache, factor)


def _scaled_backward(dy, cache):
    return binary_cross_entropy_with_logits_backward(dy, cache[0]) * cache[1]


def _sigmoid_twice(input, target, weight=None, pos_weight=None, reduction="mean"):
    probability, inner = sigmoid(input)
    y, cache = binary_cross_entropy_with_logits(probability, target, weight, pos_weight, reduction)
    return y, (cache, inner)


def _sigmoid_twice_backward(dy, cache):
    return sigmoid_backward(binary_cross_entropy_with_logits_backward(dy, cache[0]), cache[1])


def _naive_logarithms(input, target, weight=None, pos_weight=None, reduction="mean"):
    _, cache = binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
    probability = sigmoid(input)[0]
    positive = target if pos_weight is None else pos_weight * target
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = -(positive * np.log(probability) + (1 - target) * np.log(1 - probability))
    loss = loss if weight is None else weight * loss
    return (loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()), cache


def _keeping_everything(input, target, weight=None, pos_weight=None, reduction="mean"):
    y, cache = binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction)
    return y, (cache, input, target, weight, pos_weight, reduction)


def _backward_without_weights(dy, cache):
    _, input, target, _, _, reduction = cache
    return binary_cross_entropy_with_logits_backward(
        dy, binary_cross_entropy_with_logits(input, target, None, None, reduction)[1]
    )


def _backward_with_slope(dy, cache):
    probability = sigmoid(cache[1])[0]
    return binary_cross_entropy_with_logits_backward(dy, cache[0]) * (probability * (1 - probability))


MSE = [
    Mistake(
        name="mse backward without the factor 2",
        of="mse_loss",
        why="Textbooks write ½ (x - t)², whose derivative is x - t.",
        hint="Differentiate the loss as the forward computes it.",
        backward=_mse_without_two,
        witness=_mse,
    ),
    Mistake(
        name="mse with the factor 1/2",
        of="mse_loss",
        why="Textbooks write ½ (x - t)² to be rid of the 2.",
        hint="What is the loss of 3 against 1?",
        forward=_mse_half,
        backward=_mse_over_batch_backward,
        witness=_mse,
    ),
    Mistake(
        name="mse divided by the batch alone",
        of="mse_loss",
        why="len(input) is the number of rows, not of elements.",
        hint="Give one row of two numbers, and two rows of one.",
        forward=_mse_over_batch,
        backward=_mse_over_batch_backward,
        witness=_mse,
    ),
    Mistake(
        name="mse backward not divided by the number of elements",
        of="mse_loss",
        why="The derivative of the square is remembered, the mean is not.",
        hint="Give the same example twice: the mean stays, so what happens to each gradient?",
        forward=_mse_keeping,
        backward=_mse_undivided,
        witness=_mse,
    ),
    Mistake(
        name="mse backward with the sign of the target's gradient",
        of="mse_loss",
        why="(t - x)² is the same loss, and its inner derivative is forgotten.",
        hint="The input is too large: which way should it go?",
        backward=_mse_sign,
        witness=_mse,
    ),
    Mistake(
        name="mse as the mean of sizes",
        of="mse_loss",
        why="np.abs for the square: that is the L1 loss.",
        hint="What is the loss of 3 against 1?",
        forward=_mse_of_sizes,
        backward=_mse_of_sizes_backward,
        witness=_mse,
    ),
]

BINARY = [
    Mistake(
        name="binary cross-entropy ignoring pos_weight",
        of="binary_cross_entropy_with_logits",
        why="The argument is accepted and not used.",
        hint="Let pos_weight be 10.",
        forward=_without_pos_weight,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy ignoring weight",
        of="binary_cross_entropy_with_logits",
        why="The argument is accepted and not used.",
        hint="Let one weight be 0.",
        forward=_without_weight,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy with pos_weight on the negatives",
        of="binary_cross_entropy_with_logits",
        why="The two terms are exchanged.",
        hint="Which term stays when the target is 1?",
        forward=_pos_weight_on_negatives,
        backward=_pos_weight_on_negatives_backward,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy averaged over the weights",
        of="binary_cross_entropy_with_logits",
        why="Cross-entropy divides by the sum of its class weights; this one, in PyTorch, by the number of elements.",
        hint="Double all weights: does the mean double?",
        forward=_over_weights,
        backward=_scaled_backward,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy divided by the batch alone",
        of="binary_cross_entropy_with_logits",
        why="len(input) is the number of rows, not of elements.",
        hint="Give one row of two labels, and two rows of one.",
        forward=_over_batch,
        backward=_scaled_backward,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy of probabilities taken for logits",
        of="binary_cross_entropy_with_logits",
        why="The model ends with a sigmoid, and the loss has one inside.",
        hint="How low can the loss get when the model is certain and right?",
        forward=_sigmoid_twice,
        backward=_sigmoid_twice_backward,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy by the logarithm of the sigmoid",
        of="binary_cross_entropy_with_logits",
        why="The formula of the textbook, typed as it stands: a probability that rounds to 0 or 1 costs infinity.",
        hint="Try an input of 800.",
        forward=_naive_logarithms,
        witness=_far,
    ),
    Mistake(
        name="binary cross-entropy backward as plain sigmoid(x) - t",
        of="binary_cross_entropy_with_logits",
        why="That is the gradient without weights; they were added to the forward later.",
        hint="Differentiate the two terms one by one.",
        forward=_keeping_everything,
        backward=_backward_without_weights,
        witness=_binary,
    ),
    Mistake(
        name="binary cross-entropy backward with the sigmoid's slope again",
        of="binary_cross_entropy_with_logits",
        why="σ(x) - t is the gradient of the logit already; it is handed to the sigmoid's backward.",
        hint="Count the sigmoids in forward and in backward.",
        forward=_keeping_everything,
        backward=_backward_with_slope,
        witness=_binary,
    ),
]

MISTAKES = [*cross_entropy.MISTAKES, *MSE, *BINARY]
