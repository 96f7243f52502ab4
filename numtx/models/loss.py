"""What a language model is trained on: the cross-entropy of the next token, as a pair over the logits."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import count

IGNORE_INDEX = -100  # a label that costs nothing, in the whole library


def count_labels(labels=None, shift_labels=None) -> int:
    """Count the labels that are predicted: not -100, and of `labels`, which shift inside, not the first.

    Examples
    --------
    >>> count_labels(labels=np.array([[5, 6, -100]])), count_labels(shift_labels=np.array([[5, 6, -100]]))
    (1, 2)
    """
    predicted = np.asarray(labels)[..., 1:] if shift_labels is None else np.asarray(shift_labels)
    return int(np.count_nonzero(predicted != IGNORE_INDEX))


def next_token_loss(logits, labels=None, shift_labels=None, num_items=None):
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

    Examples
    --------
    >>> loss, cache = next_token_loss(np.zeros((1, 3, 4)), labels=np.array([[0, 1, 2]]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    if (labels is None) == (shift_labels is None):
        raise ValueError("next_token_loss: expected either labels or shift_labels in the batch")
    given = np.asarray(labels if shift_labels is None else shift_labels)
    if given.dtype.kind not in "iu" or given.shape != logits.shape[:-1]:
        raise ValueError(
            f"next_token_loss: expected integer labels {logits.shape[:-1]}, got {given.dtype} {given.shape}"
        )
    if num_items is None:
        num_items = max(1, count_labels(labels, shift_labels))
    if shift_labels is None:
        shift_labels = np.full(given.shape, IGNORE_INDEX)
        shift_labels[:, :-1] = given[:, 1:]
    count("next_token_loss", 1, num_items=num_items)
    total, cache = F.cross_entropy(logits, shift_labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / logits.dtype.type(num_items), (cache, num_items)


def next_token_loss_backward(dy, cache):
    """Return dlogits."""
    cache, num_items = cache
    return F.cross_entropy_backward(dy / num_items, cache)
