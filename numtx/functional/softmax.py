"""Softmax and log-softmax over one axis."""

import numpy as np

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
    y = x - x.max(axis=axis, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
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
    dx = dy * y
    dx -= y * dx.sum(axis=axis, keepdims=True)
    return dx


def log_softmax(x, axis=-1):
    """Logarithm of softmax, without ever forming a small probability: y_i = x_i - log Σ_j exp(x_j).

    The cache holds y, from which the probabilities are exp(y).

    Examples
    --------
    >>> log_softmax(np.array([0.0, 1000.0]))[0]
    array([-1000.,     0.])
    """
    _check("log_softmax", x, axis)
    y = x - x.max(axis=axis, keepdims=True)
    y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
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
    dx = np.exp(y)
    dx *= -dy.sum(axis=axis, keepdims=True)
    dx += dy
    return dx


def _check(op, x, axis):
    floating(op, x=x)
    if not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ValueError(f"{op}: expected an axis of x that is not empty, got axis {axis} of shape {x.shape}")
