"""What both forms of attention share: checks of their arguments, who may see whom, and what is added to scores."""

from functools import lru_cache

import numpy as np

from numtx.functional import door
from numtx.functional.masks import causal_mask


def check_attention(op, query, key, value, bias, mask, window, dropout):
    """Require arguments that fit together, or say which do not."""
    door.floating(op, query=query, key=key, value=value, bias=bias)
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"{op}: expected query, key and value (B, H, T, D), got {shapes}")
    if len(query) != len(key) or key.shape[:3] != value.shape[:3] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"{op}: expected query (B, H, Tq, D), key (B, Hkv, Tk, D) and value (B, Hkv, Tk, Dv), got {shapes}"
        )
    if key.shape[1] and query.shape[1] % key.shape[1]:
        raise ValueError(f"{op}: expected key and value heads that divide the {query.shape[1]} heads, got {shapes}")
    if 0 in query.shape or 0 in value.shape:
        raise ValueError(f"{op}: expected at least one query and one key, got {shapes}")
    if window is not None:
        door.count(op, 1, window=window)
    door.rate(op, "dropout", dropout)
    door.mask(op, "mask", mask, (*query.shape[:3], key.shape[2]))


def grouped(array, kv_heads):
    """Give the heads that share one key and value head an axis: (B, H, ...) -> (B, Hkv, H / Hkv, ...), as a view."""
    batch, heads, *rest = array.shape
    return array.reshape(batch, kv_heads, heads // kv_heads, *rest)


def over_group(gradient):
    """Sum over the heads that shared a key or value: (B, Hkv, group, Tk, D) -> (B, Hkv, Tk, D)."""
    return gradient[:, :, 0] if gradient.shape[2] == 1 else gradient.sum(axis=2)


def hide(scores, first, causal, window):
    """Put -∞ where `causal` and `window` let a query not look; the first query stands at place `first` of the keys."""
    rows, seen = scores.shape[-2:]
    if window is not None:
        limit = np.where(reach(rows, seen, first, causal, window), np.inf, -np.inf).astype(scores.dtype)
        np.fmin(scores, limit, out=scores)
    elif causal and first < seen - 1:
        # All see the keys up to the first query's own: only a triangle behind it is left to hide.
        start = max(first + 1, 0)
        hidden = scores[..., start:]
        np.fmin(hidden, _triangle(rows, seen - start, first - start, scores.dtype), out=hidden)


def reach(rows, seen, first, causal, window):
    """Which keys a window lets each query see, (rows, seen); key j lies first + i - j behind query i."""
    not_ahead = np.tri(rows, seen, first if causal else first + window - 1, dtype=bool)
    return not_ahead & ~np.tri(rows, seen, first - window, dtype=bool)


@lru_cache(maxsize=32)
def _triangle(rows, columns, first, dtype):
    """The greatest score allowed: +∞ where key j ≤ first + i for query i, else -∞."""
    limit = np.where(np.tri(rows, columns, first, dtype=bool), np.inf, -np.inf)
    limit = limit.astype(dtype, order="F")  # the memory order of the scores
    limit.flags.writeable = False
    return limit


def visible_keys(mask, tq, tk, causal, window):
    """Which keys some query may see: (B or 1, H or 1, Tk or 1). No (Tq, Tk) table is made, but of such a mask."""
    if mask is not None and mask.shape[2] > 1:
        if window is not None:
            mask = mask & reach(tq, tk, tk - tq, causal, window)
        elif causal:
            mask = mask & causal_mask(tq, tk)
        return mask.any(axis=2)
    # Causal alone hides no key from the last query; a window has moved on from the keys before that of the first.
    seen = np.ones((1, 1, 1), bool) if window is None else (np.arange(tk) + window > tk - tq)[None, None]
    return seen if mask is None else mask[:, :, 0] & seen


def without_unseen(visible, array):
    """Zero the keys that no query may see: a NaN there would come through P = 0 in the product, as 0 · NaN = NaN."""
    if visible.all():
        return array
    if visible.shape[1] > 1:  # a key is seen where a head of its group sees it
        visible = grouped(visible, array.shape[1]).any(axis=2)
    return np.where(visible[..., None], array, np.zeros((), array.dtype))


def bias_by_position(op, bias, shape):
    """Return a bias as a view of the shape of the scores, (B, H, Tq, Tk)."""
    door.bias(op, bias, shape)
    if bias.ndim == 4:
        return np.broadcast_to(bias, shape)
    # Row i of the (Tq, Tk) table is the numbers from Tq - 1 - i on: windows over them, last first.
    return np.broadcast_to(np.lib.stride_tricks.sliding_window_view(bias, shape[3], axis=1)[:, ::-1], shape)


def add_bias_gradient(dbias, ds, place, tq):
    """Add dS of a block, summed over what the bias was broadcast along.

    `place` says where the block stands: slices of the batch, the heads, the queries and the keys.
    """
    if dbias.ndim == 4:
        part = dbias[tuple(slice(None) if size == 1 else piece for size, piece in zip(dbias.shape, place, strict=True))]
        part += ds.sum(axis=tuple(axis for axis in range(4) if dbias.shape[axis] == 1), keepdims=True)
        return
    _, heads, rows, keys = place
    first = tq - rows.stop + keys.start  # entry of the last query and the first key
    sums = _over_diagonals(ds.sum(axis=0))
    dbias[heads, first : first + sums.shape[1]] += sums


def _over_diagonals(table):
    """Sum what has one distance: (H, Tq, Tk) -> (H, Tq + Tk - 1), entry j - i + Tq - 1.

    Rows in reverse order, each with Tq zeros behind it, cut anew into rows that are one shorter: each then starts one
    place later than the row above, and what has one distance stands in one column.
    """
    heads, tq, tk = table.shape
    padded = np.zeros((heads, tq, tk + tq), table.dtype)
    padded[..., :tk] = table[:, ::-1]
    return padded.reshape(heads, -1)[:, : tq * (tk + tq - 1)].reshape(heads, tq, tk + tq - 1).sum(axis=1)
