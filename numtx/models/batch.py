"""What a model asks of its batch at the door, in the model's own name, before anything is computed."""

import numpy as np

from numtx import functional as F
from numtx.functional.door import integers
from numtx.models.loss import IGNORE_INDEX


def split_batch(owner, batch, arguments):
    """Split a batch into the arguments of the call and its labels; entries that are None are not there.

    Returns
    -------
    inputs : dict
    labels : dict
        One entry, `labels` or `shift_labels`.

    Examples
    --------
    >>> split_batch("Model", {"input_ids": [[1]], "labels": [[2]], "attention_mask": None}, ("input_ids",))
    ({'input_ids': [[1]]}, {'labels': [[2]]})
    """
    inputs = {name: value for name, value in batch.items() if value is not None}
    labels = {name: inputs.pop(name) for name in ("labels", "shift_labels") if name in inputs}
    if len(labels) != 1 or "input_ids" not in inputs or set(inputs) - set(arguments):
        raise ValueError(
            f"{owner}: expected a batch of {', '.join(arguments)} and labels or shift_labels, "
            f"got {', '.join(sorted(batch))}"
        )
    return inputs, labels


def known_ids(owner, name, ids, vocab_size, *, context, old=0):
    """Require ids (B, T), not empty, of the vocabulary, and no more than `context` = (name, number) with the old ones.

    Examples
    --------
    >>> known_ids("Model", "input_ids", [[1, 2]], 3, context=("max_length", 8))
    array([[1, 2]])
    """
    ids, (setting, most) = np.asarray(ids), context
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"{owner}: expected {name} (B, T), not empty, got {ids.shape}")
    if old + ids.shape[1] > most:
        raise ValueError(f"{owner}: expected {name} of at most {setting} = {most} tokens, got {old + ids.shape[1]}")
    return integers(owner, name, ids, vocab_size)


def known_labels(owner, name, labels, shape, limit):
    """Require integer labels of a shape, each under `limit` or -100.

    Examples
    --------
    >>> known_labels("Model", "labels", [[1, -100]], (1, 2), 3)
    array([[   1, -100]])
    """
    labels = np.asarray(labels)
    if labels.shape != shape:
        raise ValueError(f"{owner}: expected {name} {shape}, got {labels.shape}")
    integers(owner, name, labels[labels != IGNORE_INDEX], limit)
    return labels


def padding(owner, name, attention_mask, shape):
    """Turn an attention mask (B, T), 1 for a token and 0 for padding, into one of four axes; None stays None.

    Examples
    --------
    >>> padding("Model", "attention_mask", [[1, 1, 0]], (1, 3))
    array([[[[ True,  True, False]]]])
    """
    if attention_mask is None:
        return None
    if np.shape(attention_mask) != shape:
        raise ValueError(f"{owner}: expected {name} (B, T) = {shape}, got {np.shape(attention_mask)}")
    return F.padding_mask(attention_mask)


def incoming(owner, field, doutputs, shape, dtype):
    """Return the gradient of a model's one output out of what its backward was given; absent means zero.

    Examples
    --------
    >>> incoming("Model", "logits", {}, (1, 2), np.float64)
    array([[0., 0.]])
    """
    given = doutputs if isinstance(doutputs, dict) else {"no dict but": doutputs}
    arrays = {name: np.asarray(array) for name, array in given.items()}
    gradient = arrays.get(field, np.zeros(shape, dtype)) if given is doutputs else None
    right = gradient is not None and (gradient.shape, gradient.dtype) == (shape, dtype)
    if not right or set(arrays) - {field}:
        got = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise ValueError(f'{owner}: expected a dict with the gradient of "{field}", {dtype} {shape}, got {got}')
    return gradient
