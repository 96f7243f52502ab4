"""What a model is trained on: which label each place is asked for, and the mean loss of scores or log-probabilities."""

import numpy as np

from numtx import functional as F
from numtx import nn
from numtx.functional.door import count

IGNORE_INDEX = -100  # a label that costs nothing, in the whole library


def shift_left(labels):
    """Return what a decoder-only model is asked at each place, the token that follows: [l₁, l₂, ..., -100].

    Examples
    --------
    >>> shift_left(np.array([[5, 6, 7]]))
    array([[   6,    7, -100]])
    """
    labels = _integers("shift_left", labels)
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
    labels = _integers("shift_right", labels)
    shifted = np.full(labels.shape, start)
    shifted[:, 1:] = np.where(labels[:, :-1] == IGNORE_INDEX, pad, labels[:, :-1])
    return shifted


def count_labels(labels=None, shift_labels=None) -> int:
    """Count the labels that are predicted: not -100, and of `labels`, which shift inside, not the first.

    Examples
    --------
    >>> count_labels(labels=np.array([[5, 6, -100]])), count_labels(shift_labels=np.array([[5, 6, -100]]))
    (1, 2)
    """
    predicted = np.asarray(labels)[..., 1:] if shift_labels is None else np.asarray(shift_labels)
    return int(np.count_nonzero(predicted != IGNORE_INDEX))


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
    num_items = _items("label_loss", labels, num_items)
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


def next_token_loss(logits, labels=None, shift_labels=None, num_items=None, label_smoothing=0.0):
    """Return the summed cross-entropy in nats over `num_items`, and the cache.

    Parameters
    ----------
    logits : (B, T, V) array
    labels : (B, T) integer array or None
        The tokens themselves, -100 where there is nothing to predict: position t is asked for labels[t + 1].
    shift_labels : (B, T) integer array or None
        Shifted already: position t is asked for shift_labels[t]. One of the two must be given.
    num_items : int or None
        The labels that are real (not -100) if None.
    label_smoothing : float in [0, 1], ε
        Each label's one-hot target becomes (1 - ε) of it and ε / V of every class.

    Examples
    --------
    >>> loss, cache = next_token_loss(np.zeros((1, 3, 4)), labels=np.array([[0, 1, 2]]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    shift_labels, num_items = _targets(logits.shape[:-1], labels, shift_labels, num_items)
    total, cache = F.cross_entropy(
        logits, shift_labels, ignore_index=IGNORE_INDEX, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / logits.dtype.type(num_items), (cache, num_items)


def next_token_loss_backward(dy, cache):
    """Return dlogits."""
    cache, num_items = cache
    return F.cross_entropy_backward(dy / num_items, cache)


def linear_next_token_loss(
    x, weight, labels=None, shift_labels=None, num_items=None, keep="all", label_smoothing=0.0, frozen=()
):
    """Return the `next_token_loss` of the logits x W, which are never held all at once, and the cache.

    Parameters
    ----------
    x : (B, T, C) array
    weight : (C, V) array, W
    labels, shift_labels, num_items, label_smoothing
        As in `next_token_loss`.
    keep : "all" or None
        None for the loss alone, without its backward.
    frozen : names
        ("weight",) where nobody wants dweight.

    Examples
    --------
    >>> loss, cache = linear_next_token_loss(np.zeros((1, 3, 2)), np.zeros((2, 4)), labels=np.array([[0, 1, 2]]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    shift_labels, num_items = _targets(x.shape[:-1], labels, shift_labels, num_items)
    return F.linear_cross_entropy(
        x,
        weight,
        shift_labels,
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        reduction="mean",
        num_items=num_items,
        keep=keep,
        **nn.told(frozen),
    )


def linear_next_token_loss_backward(dy, cache):
    """Return (dx, dweight), dweight None where it was frozen; at dy = 1 the cache's own arrays."""
    dx, dweight, _ = F.linear_cross_entropy_backward(dy, cache)
    return dx, dweight


def _targets(shape, labels, shift_labels, num_items):
    """Return the shifted labels of that shape, and what their losses' sum is divided by."""
    if (labels is None) == (shift_labels is None):
        raise ValueError("next_token_loss: expected either labels or shift_labels in the batch")
    given = np.asarray(labels if shift_labels is None else shift_labels)
    if given.dtype.kind not in "iu" or given.shape != shape:
        raise ValueError(f"next_token_loss: expected integer labels {shape}, got {given.dtype} {given.shape}")
    asked = shift_left(given) if shift_labels is None else given
    return asked, _items("next_token_loss", asked, num_items)


def _items(op, labels, num_items):
    """Return what the sum over the shifted labels is divided by."""
    num_items = max(1, count_labels(shift_labels=labels)) if num_items is None else num_items
    count(op, 1, num_items=num_items)
    return num_items


def _integers(op, labels):
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected integer labels, got {labels.dtype}")
    return labels
