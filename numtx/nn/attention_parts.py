"""What the attention components share: heads apart and together again, and what fits the scores."""

from typing import Any, NamedTuple

import numpy as np

from numtx import functional as F
from numtx.functional import door

LONG = 768  # benchmarks/attention.py --forms: from here on the tiled form is faster, and holds no T² numbers


class Tiled(NamedTuple):
    """The cache of an `attend` that took the tiled form."""

    cache: Any


def attend(query, key, value, bias=None, *, need_weights=False, **settings):
    """Attention in the form that suits its size: (y, cache, the weights or None)."""
    if not need_weights and suits_tiles(query.shape[2], key.shape[2]):
        y, cache = F.tiled_attention(query, key, value, bias, **settings)
        return y, Tiled(cache), None
    y, cache = F.scaled_dot_product_attention(query, key, value, bias, **settings)
    return y, cache, F.attention_weights(cache) if need_weights else None


def attend_backward(dy, cache):
    """Return (dquery, dkey, dvalue, dbias) by the form that forward took."""
    if isinstance(cache, Tiled):
        return F.tiled_attention_backward(dy, cache.cache)
    return F.scaled_dot_product_attention_backward(dy, cache)


def suits_tiles(tq, tk):
    """Whether `tq` queries over `tk` keys are enough for tiles; the few queries of decoding never are."""
    return tq * tk >= LONG * LONG and 8 * tq >= LONG


def split_heads(x, num_heads):
    """Give each head its slice of the last axis, as a view: (B, T, H·D) -> (B, H, T, D)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, num_heads, width // num_heads).swapaxes(1, 2)


def merge_heads(*parts):
    """Put the heads of each part side by side again: (B, H, T, D) each -> (B, T, parts · H · D)."""
    batch, heads, length, width = parts[0].shape
    if len(parts) == 1:  # a view where the heads of a token lie side by side
        return parts[0].swapaxes(1, 2).reshape(batch, length, heads * width)
    merged = np.empty((batch, length, len(parts), heads, width), parts[0].dtype)
    for i, part in enumerate(parts):
        merged[:, :, i] = part.swapaxes(1, 2)
    return merged.reshape(batch, length, len(parts) * heads * width)


def check_scores(op, x, others, bias, mask, num_heads, kv_cache):
    """Refuse what does not fit the scores of x over its keys, those in a cache included, before any is appended.

    `others` is what keys and values come from if not from x, keys first; None where they do.
    """
    if kv_cache is not None and any(other is not None for other in others):
        raise ValueError(f"{op}: expected no memory with a kv_cache, which is that of self-attention")
    door.floating(op, x=x, bias=bias)
    keys = x if others[0] is None else others[0]
    old = 0 if kv_cache is None else len(kv_cache)
    scores = (len(x), num_heads, x.shape[1], old + keys.shape[1])
    door.mask(op, "mask", mask, scores)
    door.bias(op, bias, scores)
