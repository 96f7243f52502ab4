"""Softmax and log-softmax over one axis.

The axis is moved to the end, and so many rows at a time are taken as fit the cache, which changes no number.
"""

import numpy as np

from numtx.functional.blocks import row_blocks, row_sums
from numtx.functional.door import floating


def softmax(x, axis=-1):
    """Turn scores into probabilities: y_i = exp(x_i) / Σ_j exp(x_j), along `axis`, any shape.

    The maximum is subtracted first, which changes nothing in y and keeps exp from overflowing. The cache holds y.

    Examples
    --------
    >>> softmax(np.array([0.0, 0.0]))[0]
    array([0.5, 0.5])
    """
    _check("softmax", x, axis)
    rows = np.moveaxis(x, axis, -1)
    y = np.empty(rows.shape, x.dtype)
    for x_, y_ in row_blocks(rows, y):
        np.subtract(x_, x_.max(axis=1, keepdims=True), out=y_)
        np.exp(y_, out=y_)
        y_ /= row_sums(y_)
    y = np.moveaxis(y, -1, axis)
    return y, (y, axis)


def softmax_backward(dy, cache):
    """Return dx.

    Derivation: ∂y_j/∂x_i = y_j ([i = j] - y_i), so

        dx_i = Σ_j dy_j y_j ([i = j] - y_i) = y_i (dy_i - Σ_j dy_j y_j)

    The sum is one number a row: adding a constant to dy changes nothing (the y_j sum to 1), which is why a gradient
    test with dy = 1 sees only zeros here. Nothing is divided by the batch.

    Examples
    --------
    >>> y, cache = softmax(np.array([0.0, 0.0]))
    >>> softmax_backward(np.array([1.0, 0.0]), cache)
    array([ 0.25, -0.25])
    """
    y, axis = cache
    y, dy = np.moveaxis(y, axis, -1), np.moveaxis(dy, axis, -1)
    dx = np.empty(y.shape, y.dtype)
    for dy_, y_, dx_ in row_blocks(dy, y, dx):
        np.multiply(dy_, y_, out=dx_)
        total = row_sums(dx_)
        np.subtract(dy_, total, out=dx_)
        dx_ *= y_
    return np.moveaxis(dx, -1, axis)


def log_softmax(x, axis=-1):
    """Logarithm of softmax, without ever forming a small probability: y_i = x_i - log Σ_j exp(x_j).

    The cache holds y, from which the probabilities are exp(y).

    Examples
    --------
    >>> log_softmax(np.array([0.0, 1000.0]))[0]
    array([-1000.,     0.])
    """
    _check("log_softmax", x, axis)
    rows = np.moveaxis(x, axis, -1)
    y = np.empty(rows.shape, x.dtype)
    for x_, y_, e in row_blocks(rows, y, scratch=1):
        np.subtract(x_, x_.max(axis=1, keepdims=True), out=y_)
        np.exp(y_, out=e)
        y_ -= np.log(row_sums(e))
    y = np.moveaxis(y, -1, axis)
    return y, (y, axis)


def log_softmax_backward(dy, cache):
    """Return dx.

    Derivation: ∂y_j/∂x_i = [i = j] - p_i with p = exp(y), so dx_i = dy_i - p_i Σ_j dy_j.

    Examples
    --------
    >>> y, cache = log_softmax(np.array([0.0, 0.0]))
    >>> log_softmax_backward(np.array([1.0, 0.0]), cache)
    array([ 0.5, -0.5])
    """
    y, axis = cache
    y, dy = np.moveaxis(y, axis, -1), np.moveaxis(dy, axis, -1)
    dx = np.empty(y.shape, y.dtype)
    for dy_, y_, dx_ in row_blocks(dy, y, dx):
        np.exp(y_, out=dx_)
        dx_ *= -row_sums(dy_)
        dx_ += dy_
    return np.moveaxis(dx, -1, axis)


def _check(op, x, axis):
    floating(op, x=x)
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"{op}: expected an axis of x that is not empty, got axis {axis} of shape {x.shape}")
