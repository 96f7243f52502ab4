"""Dropout, in the inverted form: what survives is scaled up, so that nothing changes at inference."""

import numpy as np

from numtx.functional.door import floating, rate


def dropout(x, p=0.5, rng=None):
    """Zero each element with probability p and divide the others by 1 - p.

    Parameters
    ----------
    x : floating array of any shape
    p : float in [0, 1)
    rng : np.random.Generator or None
        None means no dropout (PyTorch's `training=False`), and y is x itself.

    Returns
    -------
    y : array like x
    cache : which elements were kept, a byte each, and p; None where nothing was dropped

    Notes
    -----
    The draw is in float32 whatever the dtype of x, so that float32 and float64 see the same mask.
    Srivastava et al. (2014).

    Examples
    --------
    >>> dropout(np.ones(4), 0.5, np.random.default_rng(0))[0]
    array([2., 2., 2., 0.])
    """
    floating("dropout", x=x)
    rate("dropout", "p", p)
    if rng is None or p == 0:
        return x, None
    kept = rng.random(x.shape, dtype=np.float32) >= p
    y = x * kept
    y *= 1 / (1 - p)
    return y, (kept, p)


def dropout_backward(dy, cache):
    """Return dx: y is linear in x, so the gradient passes the same mask with the same scale.

    Examples
    --------
    >>> y, cache = dropout(np.ones(4), 0.5, np.random.default_rng(0))
    >>> dropout_backward(np.array([1.0, 2.0, 3.0, 4.0]), cache)
    array([2., 4., 6., 0.])
    """
    if cache is None:
        return dy
    kept, p = cache
    dx = dy * kept
    dx *= 1 / (1 - p)
    return dx
