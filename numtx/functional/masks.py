"""Masks: who may attend to whom. Boolean, True = may attend, four axes that broadcast to (B, H, Tq, Tk)."""

import numpy as np

from numtx.functional.door import count


def causal_mask(tq, tk=None):
    """Let each query see the keys up to its own: (1, 1, Tq, Tk), aligned bottom-right.

    With Tq < Tk the queries are the newest ones, as in decoding with a cache: the last query sees all keys.

    Examples
    --------
    >>> causal_mask(2, 3)[0, 0].astype(int)
    array([[1, 1, 0],
           [1, 1, 1]])
    """
    tk = tq if tk is None else tk
    count("causal_mask", 1, tq=tq, tk=tk)
    return np.tri(tq, tk, tk - tq, dtype=bool)[None, None]


def sliding_window_mask(tq, tk=None, *, window, causal=True):
    """Let each query see the `window` newest keys, itself included: (1, 1, Tq, Tk), aligned bottom-right.

    Without `causal`, it sees as many on the other side too: keys with |i - j| < window. Beltagy et al. (2020).

    Examples
    --------
    >>> sliding_window_mask(3, window=2)[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    """
    tk = tq if tk is None else tk
    count("sliding_window_mask", 1, tq=tq, tk=tk, window=window)
    distance = np.arange(tk - tq, tk)[:, None] - np.arange(tk)  # (Tq, Tk): how far key j lies behind query i
    seen = distance < window
    seen &= distance >= 0 if causal else distance > -window
    return seen[None, None]


def padding_mask(attention_mask):
    """Turn a tokenizer's attention mask (B, T), 1 for a token and 0 for padding, into (B, 1, 1, T).

    Examples
    --------
    >>> padding_mask(np.array([[1, 1, 0]])).shape
    (1, 1, 1, 3)
    """
    attention_mask = np.asarray(attention_mask)
    if attention_mask.ndim != 2 or attention_mask.dtype.kind not in "biu":
        raise ValueError(
            "padding_mask: expected an attention mask (B, T) of integers or booleans, "
            f"got {attention_mask.dtype} {attention_mask.shape}"
        )
    if not np.isin(attention_mask, (0, 1)).all():
        raise ValueError("padding_mask: expected only 0 and 1 in the attention mask")
    return (attention_mask != 0)[:, None, None, :]


def combine_masks(*masks):
    """Join masks: a key is seen where every mask allows it. None stands for no mask, and is returned if all are.

    Examples
    --------
    >>> combine_masks(causal_mask(2), None, padding_mask(np.array([[0, 1]])))[0, 0].astype(int)
    array([[0, 0],
           [0, 1]])
    """
    combined = None
    for mask in masks:
        if mask is None:
            continue
        if getattr(mask, "dtype", None) != np.bool_ or mask.ndim != 4:
            what = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ValueError(f"combine_masks: expected boolean masks of four axes, got {what}")
        if combined is None:
            combined = mask
            continue
        try:
            combined = combined & mask
        except ValueError:
            raise ValueError(f"combine_masks: {combined.shape} and {mask.shape} do not broadcast") from None
    return combined
