"""Pooling: one row for a sequence."""

import numpy as np

from numtx.functional import door


def pooling(x, *, how, mask=None):
    """Read one row from each sequence: that of its first or last real token, or the mean over the real ones.

        y_b = Σ_t w_bt x_bt        "mean": w = m / Σ_t m        "first", "last": w = 1 at that token and 0 elsewhere

    Parameters
    ----------
    x : (B, T, C) floating array
    how : "first", "last" or "mean"
    mask : (B, 1, 1, T) boolean array or None
        m, True for a token and False for padding, as `padding_mask` makes it; (1, 1, 1, T) for all rows alike. None
        means that all tokens are real.

    Returns
    -------
    y : (B, C) array. A sequence without a real token pools to zeros.
    cache : which tokens are real, and how many, or which was read

    Notes
    -----
    What stands at padding does not matter, NaN neither. BERT's pooler in Transformers reads x[:, 0] whatever the mask
    says, which is the same unless the padding stands on the left. GPT-2's and BART's classifiers read the last real
    token; the mean is that of Sentence-BERT. Devlin et al. (2019); Reimers and Gurevych (2019), section 3.

    Examples
    --------
    >>> x, mask = np.array([[[1.0], [2.0], [9.0]]]), np.array([[[[True, True, False]]]])
    >>> [pooling(x, how=how, mask=mask)[0].item() for how in ("first", "last", "mean")]
    [1.0, 2.0, 1.5]
    """
    real = _real(x, how, mask)  # (B, T)
    if how == "mean":
        kept = x if real.all() else np.where(real[:, :, None], x, np.zeros((), x.dtype))  # not x · m: 0 · NaN is NaN
        number = np.maximum(real.sum(axis=1, keepdims=True), 1).astype(x.dtype)  # (B, 1)
        return kept.sum(axis=1) / number, (how, real, number)  # (B, C)
    some = np.flatnonzero(real.any(axis=1))  # the sequences that have a token
    where = real.argmax(axis=1) if how == "first" else real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    y = np.zeros((x.shape[0], x.shape[2]), x.dtype)
    y[some] = x[some, where[some]]  # (B, C)
    return y, (how, real, (some, where[some]))


def pooling_backward(dy, cache):
    """Return dx.

    Derivation: y is linear in x, each row of x with the weight w_bt of its own, so

        dx_bt = w_bt dy_b

    Every real token gets its share of the mean's gradient, 1 / Σ_t m_bt; where one token was read, it gets all of it.
    Padding gets none.

    Examples
    --------
    >>> y, cache = pooling(np.ones((1, 3, 1)), how="mean", mask=np.array([[[[True, True, False]]]]))
    >>> pooling_backward(np.ones((1, 1)), cache)[0, :, 0]
    array([0.5, 0.5, 0. ])
    """
    how, real, read = cache
    if how == "mean":
        return np.where(real[:, :, None], (dy / read)[:, None, :], np.zeros((), dy.dtype))  # (B, T, C)
    some, where = read
    dx = np.zeros((*real.shape, dy.shape[1]), dy.dtype)  # (B, T, C)
    dx[some, where] = dy[some]
    return dx


def _real(x, how, mask):
    """Return which tokens are real, (B, T)."""
    if how not in ("first", "last", "mean"):
        raise ValueError(f"pooling: expected how 'first', 'last' or 'mean', got {how!r}")
    door.floating("pooling", x=x)
    if x.ndim != 3 or not x.size:
        raise ValueError(f"pooling: expected x (B, T, C), not empty, got {x.shape}")
    batch, length = x.shape[:2]
    if mask is None:
        return np.ones((batch, length), bool)
    door.mask("pooling", "mask", mask, (batch, 1, 1, length))
    return np.broadcast_to(mask, (batch, 1, 1, length))[:, 0, 0]
