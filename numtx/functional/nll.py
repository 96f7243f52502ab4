"""The negative log-likelihood of models that end in log-probabilities."""

import numpy as np

from numtx.functional.door import floating
from numtx.functional.losses import check_classes


def nll_loss(log_probs, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood of integer targets, over the last axis.

        loss_n = -w_{y_n} log p_{n, y_n}

    Parameters
    ----------
    log_probs : (..., V) floating array, log p. (PyTorch has the classes on axis 1.)
        What `log_softmax` gives; that a row's probabilities sum to one is not checked.
    target : (...) integer array, y, each in [0, V) or `ignore_index`
    weight : (V,) array or None
        Class weights w, 1 if None.
    ignore_index : int
        Targets of this value cost nothing and count for nothing.
    reduction : "mean", "sum" or "none"
        "mean" divides by Σ_n w_{y_n} over the targets not ignored, and is 0 where all are (PyTorch: NaN).

    Returns
    -------
    loss : a scalar of the dtype of the log-probabilities, or (...) for "none"
    cache : the targets, their weights (0 where ignored), and what the sum is divided by

    Notes
    -----
    In nats. `cross_entropy` of logits is `nll_loss` of their `log_softmax`, in one step that holds one array less.

    Examples
    --------
    >>> loss, cache = nll_loss(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -100]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    dtype = floating("nll_loss", log_probs=log_probs, weight=weight)
    rows, target, shape = check_classes("nll_loss", "log_probs", log_probs, target, weight, ignore_index, reduction)
    counted = target != ignore_index
    label = np.where(counted, target, 0)
    real = counted.astype(dtype) if weight is None else np.where(counted, weight[label], np.zeros((), dtype))
    loss = -real * rows[np.arange(len(rows)), label]  # (N,)
    np.copyto(loss, 0, where=~counted)  # 0 · ∞ is not 0

    divisor = dtype.type(1)
    if reduction == "mean":
        divisor = real.sum() or dtype.type(1)
    cache = (label, real, divisor, log_probs.shape)
    return (loss.reshape(shape) if reduction == "none" else loss.sum() / divisor), cache


def nll_loss_backward(dy, cache):
    """Return dlog_probs.

    Derivation: the loss of a row reads one number, log p at the label, and is linear in it:

        dlog p_c = -dy w_y [c = y]

    All other entries are zero: that raising them lowers the label's share is said by the softmax's backward, not here.
    "mean" divides dy by the sum of the weights.

    Examples
    --------
    >>> loss, cache = nll_loss(np.log([[0.25, 0.75]]), np.array([0]))
    >>> nll_loss_backward(1.0, cache)
    array([[-1.,  0.]])
    """
    label, real, divisor, shape = cache
    dy = np.broadcast_to(np.asarray(dy, real.dtype) / divisor, shape[:-1]).reshape(-1)  # (N,)
    dlog_probs = np.zeros((len(label), shape[-1]), real.dtype)
    dlog_probs[np.arange(len(label)), label] = -dy * real
    return dlog_probs.reshape(shape)
