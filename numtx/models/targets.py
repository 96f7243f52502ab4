"""What a model is asked for: how labels are shifted, and the loss of log-probabilities by them."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count
from numtx.models.loss import IGNORE_INDEX


def shift_left(labels):
    """Return what a decoder-only model is asked at each place, the token that follows: [l₁, l₂, ..., -100].

    Examples
    --------
    >>> shift_left(np.array([[5, 6, 7]]))
    array([[   6,    7, -100]])
    """
    labels = np.asarray(labels)
    shifted = np.full(labels.shape, IGNORE_INDEX)
    shifted[..., :-1] = labels[..., 1:]
    return shifted


def shift_right(labels, start, pad):
    """Return what a decoder reads to be asked for `labels` (B, T), the token before each: [start, l₀, l₁, ...].

    Where a label is -100 (nothing to predict) it reads `pad`. Sutskever et al. (2014) call the start token <EOS>.

    Examples
    --------
    >>> shift_right(np.array([[5, 6, 7], [8, -100, -100]]), start=1, pad=0)
    array([[1, 5, 6],
           [1, 8, 0]])
    """
    labels = np.asarray(labels)
    shifted = np.full(labels.shape, start)
    shifted[:, 1:] = np.where(labels[:, :-1] == IGNORE_INDEX, pad, labels[:, :-1])
    return shifted


def real_labels(labels) -> int:
    """Return how many labels are not -100.

    Examples
    --------
    >>> real_labels(np.array([3, -100]))
    1
    """
    return int(np.count_nonzero(np.asarray(labels) != IGNORE_INDEX))


def label_loss(log_probs, labels, num_items=None):
    """Return the summed negative log-likelihood of the labels, in nats, over `num_items`, and the cache.

        loss = -(1 / n) Σ log p[label]        over the labels that are not -100

    Parameters
    ----------
    log_probs : (..., V) array
    labels : (...) integer array
        What each place is asked for; -100 costs nothing.
    num_items : int or None, n
        The labels that are real if None. Those who split a batch pass the count of the whole, and add.

    Examples
    --------
    >>> label_loss(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -100]))[0].round(4)  # log 4
    np.float64(1.3863)
    """
    num_items = max(1, real_labels(labels)) if num_items is None else num_items
    count("label_loss", 1, num_items=num_items)
    total, cache = F.nll_loss(log_probs, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / log_probs.dtype.type(num_items), (cache, num_items)


def label_loss_backward(dy, cache):
    """Return dlog_probs: -dy / n at the labels, zero elsewhere.

    Examples
    --------
    >>> loss, cache = label_loss(np.log([[0.25, 0.75]]), np.array([0]))
    >>> label_loss_backward(1.0, cache)
    array([[-1.,  0.]])
    """
    cache, num_items = cache
    return F.nll_loss_backward(dy / num_items, cache)
