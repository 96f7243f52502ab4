"""What the attention components share: heads apart and together again, and what fits the scores."""

from typing import Any, NamedTuple

import numpy as np

from numtx import functional as F
from numtx.functional import door
from numtx.functional.attention_scores import bias_by_position
from numtx.nn.kv_cache import KVCache, MemoryCache

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


def attend_to(kept, query, key, value, bias=None, *, mask=None, **settings):
    """`attend` with what a cache keeps: (y, cache, the weights or None). `kept` is that cache, or None.

    The new keys join the old ones. Of a `MemoryCache`, filled, the rows of a source ask the same keys, so they go as so
    many more queries of one row.
    """
    if not is_of_memory(kept) or kept.beams == 1:
        if isinstance(kept, KVCache):
            key, value = kept.append(key, value)
        return attend(query, key, value, bias, mask=mask, **settings)
    beams, shape = kept.beams, (*query.shape[:3], key.shape[2])  # (S·beams, H, Tq, Tk)
    if bias is not None:
        bias = _beside(bias_by_position("attention", bias, shape), beams, shape)
    mask = None if mask is None else _beside(mask, beams, shape)
    y, cache, weights = attend(_beside(query, beams, query.shape), key, value, bias, mask=mask, **settings)
    return _apart(y, beams), cache, None if weights is None else _apart(weights, beams)


def _beside(array, beams, shape):
    """(S·beams, H, T, n) -> (S, H, beams·T, n), of an array that broadcasts to `shape` but for what is 1 throughout."""
    if array.shape[0] == array.shape[2] == 1:
        return array
    rows, length = shape[0], shape[2]
    array = np.broadcast_to(array, (rows, array.shape[1], length, array.shape[3]))
    array = array.reshape(rows // beams, beams, *array.shape[1:]).swapaxes(1, 2)  # (S, H, beams, T, n)
    return array.reshape(rows // beams, array.shape[1], beams * length, array.shape[4])


def _apart(array, beams):
    """(S, H, beams·T, n) -> (S·beams, H, T, n)."""
    sources, heads, queries, width = array.shape
    array = array.reshape(sources, heads, beams, queries // beams, width).swapaxes(1, 2)
    return array.reshape(sources * beams, heads, queries // beams, width)


def suits_tiles(tq, tk):
    """Whether `tq` queries over `tk` keys are enough for tiles; the few queries of decoding never are."""
    return tq * tk >= LONG * LONG and 8 * tq >= LONG


def is_of_memory(kv_cache):
    """Whether a cache keeps a memory, and not the tokens seen so far."""
    return isinstance(kv_cache, MemoryCache)


def check_memory_cache(op, kv_cache, x, sources, causal, window):
    """Refuse what does not belong to a `MemoryCache`; other caches pass. `sources`: the memory, and values or None."""
    if not is_of_memory(kv_cache):
        return
    if causal or window is not None:
        raise ValueError(f"{op}: expected neither causal nor window with a MemoryCache: its queries have no places")
    kv_cache.check(op, x, *sources)


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
    of_memory = is_of_memory(kv_cache)
    if kv_cache is not None and not isinstance(kv_cache, KVCache | MemoryCache):
        raise ValueError(f"{op}: expected a KVCache or a MemoryCache, got {type(kv_cache).__name__}")
    if of_memory and others[0] is None:
        raise ValueError(f"{op}: expected a memory with a MemoryCache, got none")
    if kv_cache is not None and not of_memory and any(other is not None for other in others):
        raise ValueError(f"{op}: expected no memory with a KVCache, which is that of self-attention")
    door.floating(op, x=x, bias=bias)
    keys = x if others[0] is None else others[0]
    old = 0 if kv_cache is None or of_memory else len(kv_cache)
    scores = (len(x), num_heads, x.shape[1], old + keys.shape[1])
    door.mask(op, "mask", mask, scores)
    door.bias(op, bias, scores)
