"""Classic mistakes of softmax and log-softmax."""

from __future__ import annotations

import numpy as np

from numtx.functional.softmax import log_softmax, softmax, softmax_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _witness() -> Case:
    return Case({"x": np.array([[0.1, 0.7, -0.3], [1.0, -0.4, 0.2]])}, {"axis": -1})


def _far_apart() -> Case:
    return Case({"x": np.array([[0.0, 800.0], [1.0, -0.4]])}, {"axis": -1})


def _next_axis(x, axis=-1):
    return softmax(x, (axis + 1) % x.ndim)


def _divided_by_batch(dy, cache):
    return softmax_backward(dy, cache) / dy.shape[0]


def _diagonal(dy, cache):
    y, _ = cache
    return dy * (y * (1 - y))


def _without_sum(dy, cache):
    y, _ = cache
    return dy * y


def _mean_for_sum(dy, cache):
    y, axis = cache
    return y * (dy - (dy * y).mean(axis=axis, keepdims=True))


def _without_maximum(x, axis=-1):
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x)
        y = e / e.sum(axis=axis, keepdims=True)
    return y, (y, axis)


def _log_of_softmax(x, axis=-1):
    with np.errstate(divide="ignore"):
        y = np.log(softmax(x, axis)[0])
    return y, (y, axis)


def _log_whole_sum(dy, cache):
    y, _ = cache
    return dy - np.exp(y) * dy.sum()


def _log_without_probabilities(dy, cache):
    _, axis = cache
    return dy - dy.mean(axis=axis, keepdims=True)


def _log_with_softmax_backward(dy, cache):
    y, axis = cache
    return softmax_backward(dy, (np.exp(y), axis))


def _log_next_axis(x, axis=-1):
    return log_softmax(x, (axis + 1) % x.ndim)


MISTAKES = [
    Mistake(
        name="softmax over the wrong axis",
        of="softmax",
        why="The axis is given by number, and an axis was added since.",
        hint="Along which axis do the results sum to 1?",
        forward=_next_axis,
        witness=_witness,
    ),
    Mistake(
        name="softmax without subtracting the maximum",
        of="softmax",
        why="The formula of the textbook, typed as it stands: exp overflows at 710 in float64 and at 89 in float32.",
        hint="Try an input of 1000.",
        forward=_without_maximum,
        witness=_far_apart,
    ),
    Mistake(
        name="softmax backward divided by the batch",
        of="softmax",
        why="The mean over the batch belongs to the loss; it is easily taken a second time in the softmax.",
        hint="Compare at batch 1 and batch 2: the gradient of a row must not depend on how many rows there are.",
        backward=_divided_by_batch,
        witness=_witness,
    ),
    Mistake(
        name="softmax backward from the diagonal alone",
        of="softmax",
        why="y (1 - y) is the sigmoid's derivative; in a softmax every output depends on every input of its row.",
        hint="Add a constant to all inputs of a row: the result stays, so the gradient of a row must sum to zero.",
        backward=_diagonal,
        witness=_witness,
    ),
    Mistake(
        name="softmax backward without the row's sum",
        of="softmax",
        why="The denominator is taken for a constant.",
        hint="Add a constant to all inputs of a row: the result stays, so the gradient of a row must sum to zero.",
        backward=_without_sum,
        witness=_witness,
    ),
    Mistake(
        name="softmax backward with a mean for the row's sum",
        of="softmax",
        why="It looks like a norm's backward.",
        hint="Σ_j dy_j y_j is a mean of the dy already: the y_j are its weights.",
        backward=_mean_for_sum,
        witness=_witness,
    ),
    Mistake(
        name="log_softmax over the wrong axis",
        of="log_softmax",
        why="The axis is given by number, and an axis was added since.",
        hint="Along which axis do the exponentials of the results sum to 1?",
        forward=_log_next_axis,
        witness=_witness,
    ),
    Mistake(
        name="log_softmax as the logarithm of softmax",
        of="log_softmax",
        why="The same on paper; a probability that rounds to zero has the logarithm -∞.",
        hint="Try two inputs that are 800 apart.",
        forward=_log_of_softmax,
        witness=_far_apart,
    ),
    Mistake(
        name="log_softmax backward summed over the whole array",
        of="log_softmax",
        why="`dy.sum()` without its axis; with one row it is right.",
        hint="Compare one row with two rows.",
        backward=_log_whole_sum,
        witness=_witness,
    ),
    Mistake(
        name="log_softmax backward with a mean for the probabilities",
        of="log_softmax",
        why="dy minus its mean also sums to zero along the row, as it should.",
        hint="Which inputs does log Σ exp depend on most?",
        backward=_log_without_probabilities,
        witness=_witness,
    ),
    Mistake(
        name="log_softmax with the backward of softmax",
        of="log_softmax",
        why="The two are one line apart in many files.",
        hint="Differentiate x_i - log Σ_j exp(x_j).",
        backward=_log_with_softmax_backward,
        witness=_witness,
    ),
]
