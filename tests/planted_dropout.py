"""Dropout whose masks are planted: the k-th draw of PyTorch and the k-th of numtx drop the same numbers."""

from contextlib import contextmanager

import numpy as np
import torch

from numtx import functional as F

TF = torch.nn.functional


class Draws:
    """Masks by their number, and what was drawn: (rate, shape) in order.

    Probabilities of attention and all else are drawn alike, so that the list says where dropout stands, how strong it
    is and in which order.
    """

    def __init__(self):
        self.drawn = []

    def mask(self, p, shape):
        """The next mask, 0 or 1 / (1 - p)."""
        keep = np.random.default_rng([7, len(self.drawn)]).random(shape) >= p
        self.drawn.append((p, tuple(shape)))
        return keep / (1 - p)


@contextmanager
def replaced(module, **functions):
    """Other functions in a module for a moment."""
    before = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


@contextmanager
def planted_in_torch():
    """In `torch.nn.functional`, attention included."""
    draws = Draws()

    def dropout(x, p=0.5, training=True, inplace=False):
        return x * torch.from_numpy(draws.mask(p, x.shape)) if training and p else x

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if is_causal:  # what nn.MultiheadAttention makes of a causal mask
            scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
        if attn_mask is not None:
            hides = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hides else scores + attn_mask
        return dropout(scores.softmax(-1), dropout_p) @ value

    with replaced(TF, dropout=dropout, scaled_dot_product_attention=attention):
        yield draws


@contextmanager
def planted_in_numtx():
    """In `numtx.functional`, by a textbook attention."""
    draws = Draws()

    def dropout(x, p, rng=None):
        mask = draws.mask(p, x.shape).astype(x.dtype) if p and rng is not None else None
        return (x, None) if mask is None else (x * mask, mask)

    def dropout_backward(dy, mask):
        return dy if mask is None else dy * mask

    def attention(query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None):  # fmt: skip  # noqa: E501
        assert bias is window is scale is None
        scale, seen = query.shape[-1] ** -0.5, np.bool_(True) if mask is None else mask
        if causal:
            seen = seen & np.tri(query.shape[2], key.shape[2], dtype=bool)
        p, soft = F.softmax(np.where(seen, scale * query @ key.swapaxes(-1, -2), -np.inf))
        z, drop = F.dropout(p, dropout, rng)
        return z @ value, (query, key, value, scale, soft, z, drop)

    def attention_backward(dy, cache):
        query, key, value, scale, soft, z, drop = cache
        dp = dropout_backward(dy @ value.swapaxes(-1, -2), drop)
        ds = scale * F.softmax_backward(dp, soft)
        return ds @ key, ds.swapaxes(-1, -2) @ query, z.swapaxes(-1, -2) @ dy, None

    with replaced(
        F,
        dropout=dropout,
        dropout_backward=dropout_backward,
        scaled_dot_product_attention=attention,
        scaled_dot_product_attention_backward=attention_backward,
    ):
        yield draws
