"""What the attention components share: heads apart and together again, and what fits a cache of keys."""

import numpy as np

from numtx.functional.door import floating


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


def check_cached(op, x, others, bias, mask, num_heads, old):
    """Refuse what does not fit `old` keys in a cache and those of x, before any is appended: a call that fails must
    leave the cache as it was. `others` is what keys and values would come from if not from x.
    """
    if any(other is not None for other in others):
        raise ValueError(f"{op}: expected no memory with a kv_cache, which is that of self-attention")
    floating(op, x=x, bias=bias)
    batch, length, _ = x.shape
    scores = (batch, num_heads, length, old + length)
    dtype, shape = getattr(mask, "dtype", type(mask).__name__), np.shape(mask)
    if mask is not None and not (dtype == np.bool_ and _fits(shape, scores)):
        raise ValueError(
            f"{op}: expected a boolean mask that broadcasts to {scores}, old keys and new, got {dtype} {shape}"
        )
    by_distance = (num_heads, 2 * length + old - 1)
    if bias is not None and np.shape(bias) != by_distance and not _fits(np.shape(bias), scores):
        raise ValueError(
            f"{op}: expected a bias that broadcasts to {scores}, old keys and new, or {by_distance}, "
            f"got {np.shape(bias)}"
        )


def _fits(shape, scores):
    return len(shape) == 4 and all(s in (1, whole) for s, whole in zip(shape, scores, strict=True))
