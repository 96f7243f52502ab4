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
        assert window is None
        scale, seen = query.shape[-1] ** -0.5 if scale is None else scale, np.bool_(True) if mask is None else mask
        if causal:
            seen = seen & np.tri(query.shape[2], key.shape[2], dtype=bool)
        key, value = (np.repeat(each, query.shape[1] // each.shape[1], axis=1) for each in (key, value))
        scores = scale * query @ key.swapaxes(-1, -2)
        if bias is not None:
            scores = scores + (bias[:, distances(scores)] if bias.ndim == 2 else bias)
        p, soft = F.softmax(np.where(seen, scores, -np.inf))
        z, drop = F.dropout(p, dropout, rng)
        return z @ value, (query, key, value, bias, scale, soft, z, drop)

    def attention_backward(dy, cache, groups):
        query, key, value, bias, scale, soft, z, drop = cache
        ds = F.softmax_backward(dropout_backward(dy @ value.swapaxes(-1, -2), drop), soft)
        dbias = None
        if bias is not None:
            dbias = np.zeros(bias.shape)
            if bias.ndim == 2:
                np.add.at(dbias, (slice(None), distances(ds)), ds.sum(axis=0))
            else:
                dbias += ds.sum(axis=tuple(i for i in range(4) if bias.shape[i] == 1), keepdims=True)
        dkey, dvalue = scale * ds.swapaxes(-1, -2) @ query, z.swapaxes(-1, -2) @ dy
        dkey, dvalue = (d.reshape(len(d), -1, groups, *d.shape[2:]).sum(axis=2) for d in (dkey, dvalue))
        return scale * ds @ key, dkey, dvalue, dbias

    def grouped(query, key, value, *others, **settings):
        y, cache = attention(query, key, value, *others, **settings)
        return y, (cache, query.shape[1] // key.shape[1])

    def distances(scores):
        """Where among the numbers by distance that of each query and key stands."""
        queries, keys = scores.shape[2:]
        return np.arange(keys) - np.arange(queries)[:, None] + queries - 1

    with replaced(
        F,
        dropout=dropout,
        dropout_backward=dropout_backward,
        scaled_dot_product_attention=grouped,
        scaled_dot_product_attention_backward=lambda dy, cache: attention_backward(dy, *cache),
    ):
        yield draws
