"""Classic mistakes of linear."""

from __future__ import annotations

import numpy as np

from numtx.functional.linear import linear, linear_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case


def _square() -> Case:
    numbers = np.random.default_rng(1)
    x, weight = numbers.standard_normal((2, 3, 3))
    return Case({"x": x, "weight": weight, "bias": np.array([0.3, -0.2, 0.5])})


def _sequences() -> Case:
    numbers = np.random.default_rng(2)
    x, weight = numbers.standard_normal((2, 3, 2)), numbers.standard_normal((2, 4))
    return Case({"x": x, "weight": weight, "bias": np.array([0.3, -0.2, 0.5, 0.1])})


def _weight_as_out_in(x, weight, bias=None):
    _, cache = linear(x, weight, bias)
    return linear(x, np.ascontiguousarray(weight.T), bias)[0], cache


def _no_bias(x, weight, bias=None):
    _, cache = linear(x, weight, bias)
    return linear(x, weight)[0], cache


def _dweight_transposed(dy, cache):
    dx, dweight, dbias = linear_backward(dy, cache)
    return dx, dweight.T, dbias


def _dx_through_weight(dy, cache):
    _, dweight, dbias = linear_backward(dy, cache)
    return dy @ cache[1], dweight, dbias


def _dbias_mean(dy, cache):
    dx, dweight, dbias = linear_backward(dy, cache)
    count = max(dy.reshape(-1, dy.shape[-1]).shape[0], 1)
    return dx, dweight, None if dbias is None else dbias / count


def _dweight_mean(dy, cache):
    dx, dweight, dbias = linear_backward(dy, cache)
    count = cache[0].shape[0] if cache[0].ndim > 1 else 1
    return dx, dweight / count, dbias


def _dweight_of_last_row(dy, cache):
    dx, _, dbias = linear_backward(dy, cache)
    x = cache[0]
    for row, one in zip(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), strict=True):
        dweight = np.outer(row, one)
    return dx, dweight, dbias


MISTAKES = [
    Mistake(
        name="linear weight read as (out, in)",
        of="linear",
        why="PyTorch stores the transpose. A square weight fits either way, so nothing complains.",
        hint="Write down which axis of the weight is summed over, and try a weight that is not square.",
        forward=_weight_as_out_in,
        witness=_square,
    ),
    Mistake(
        name="linear bias never added",
        of="linear",
        why="Biases start at zero, so a test on a fresh layer does not miss it.",
        hint="Give the bias numbers that are not zero.",
        forward=_no_bias,
        witness=_sequences,
    ),
    Mistake(
        name="linear dW as dy^T x",
        of="linear",
        why="It is the gradient of a weight stored as (out, in), copied from code with the other layout.",
        hint="dW_ij belongs to x_i and y_j: which index comes first?",
        backward=_dweight_transposed,
        witness=_square,
    ),
    Mistake(
        name="linear dx through W instead of W^T",
        of="linear",
        why="The forward is copied and x replaced by dy; with a square weight the shapes fit.",
        hint="Write dx_i as a sum over the outputs j, and see which axis of W is summed over.",
        backward=_dx_through_weight,
        witness=_square,
    ),
    Mistake(
        name="linear db averaged over the rows",
        of="linear",
        why="The mean over the batch belongs to the loss; it is easily taken a second time.",
        hint="The bias is added to every row: what does each of them contribute?",
        backward=_dbias_mean,
        witness=_sequences,
    ),
    Mistake(
        name="linear dW divided by the batch",
        of="linear",
        why="Textbook code for one example divides by the number of examples m; a mean loss has done so already.",
        hint="Compare the gradient of one example with that of the same example given twice, under the same dy.",
        backward=_dweight_mean,
        witness=_sequences,
    ),
    Mistake(
        name="linear dW of the last row alone",
        of="linear",
        why="A loop over time steps or examples assigns the gradient where it should add to it.",
        hint="Every row used the same weight: what happens to the gradients of the others?",
        backward=_dweight_of_last_row,
        witness=_sequences,
    ),
]
