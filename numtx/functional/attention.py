"""Scaled dot-product attention, in the textbook form: all scores at once."""

import math
from functools import lru_cache

import numpy as np

from numtx.functional.door import floating
from numtx.functional.masks import causal_mask, sliding_window_mask

NAME = "scaled_dot_product_attention"


def scaled_dot_product_attention(
    query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None
):
    """Let each query gather values by how well their keys match.

        S = scale · Q Kᵀ + bias       P = softmax(S) over the keys that may be seen       Y = dropout(P) V

    Parameters
    ----------
    query : (B, H, Tq, D) floating array
    key : (B, H, Tk, D) array
    value : (B, H, Tk, Dv) array
    bias : array or None
        Added to the scores: four axes that broadcast to (B, H, Tq, Tk), or (H, Tq + Tk - 1) numbers that depend on
        the distance alone, entry j - i + Tq - 1 for query i and key j. Its gradient has the shape that was given.
    mask : boolean array or None
        True = may attend; four axes that broadcast to (B, H, Tq, Tk).
    causal : bool
        Query i sees keys up to i + Tk - Tq: aligned bottom-right, as decoding with a cache needs it.
    window : int or None
        Only the `window` newest keys, itself included; both sides where not causal.
    scale : float or None
        1/√D if None. (T5 uses 1.)
    dropout : float, rng : np.random.Generator or None
        Dropout on P; none without an rng.

    Returns
    -------
    y : (B, H, Tq, Dv) array. A query that may see no key gets zeros.
    cache : scale·Q, K, V, P, the mask of dropout and y

    Notes
    -----
    Vaswani et al. (2017), eq. 1.

    Examples
    --------
    >>> one_hot = np.eye(2)[None, None] * 100
    >>> y, cache = scaled_dot_product_attention(one_hot, one_hot, np.array([[[[1.0], [5.0]]]]))
    >>> y[0, 0, :, 0]
    array([1., 5.])
    """
    _check(query, key, value, bias, mask, window, dropout)
    if mask is not None:
        key, value = _without_unseen(mask, key), _without_unseen(mask, value)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    query = query * scale  # Tq·D products instead of Tq·Tk
    p = query @ key.swapaxes(-1, -2)  # (B, H, Tq, Tk), S first and turned into P in place
    if bias is not None:
        p += _bias_by_position(bias, *p.shape)
    limit = _limit(*p.shape[2:], causal, window, p.dtype)
    if limit is not None:
        np.fmin(p, limit, out=p)
    if mask is not None:
        np.copyto(p, -np.inf, where=~mask)
    _softmax_in_place(p, may_be_empty=limit is not None or mask is not None)
    kept = None
    if rng is not None and dropout > 0:
        kept = rng.random(p.shape, dtype=np.float32) >= dropout
    y = _dropped(p, kept, dropout) @ value  # (B, H, Tq, Dv)
    return y, (query, key, value, None if bias is None else bias.shape, scale, p, kept, dropout, y)


def scaled_dot_product_attention_backward(dy, cache):
    """Return (dquery, dkey, dvalue, dbias); dbias is None where there was no bias.

    Derivation, with Z = dropout(P), so that Y = Z V:

        dV = Zᵀ dY                    dZ = dY Vᵀ                   dP = dZ through the mask of dropout
        dS_ij = P_ij (dP_ij - Σ_k dP_ik P_ik)                      (softmax, row by row)
        dbias = dS                    dQ = scale · dS K            dK = scale · dSᵀ Q

    Two things to see. The row sum needs no (Tq, Tk) product: Σ_k dP_ik P_ik = Σ_k dZ_ik Z_ik = Σ_d dY_id Y_id. And dK
    takes the transpose of dS: Qᵀ dS has the right shape after transposing, runs, and is wrong.

    A masked score has P = 0 and so dS = 0: masks need no line of their own here.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 1)); v = np.array([[[[1.0], [5.0]]]])
    >>> y, cache = scaled_dot_product_attention(q, k, v)
    >>> scaled_dot_product_attention_backward(np.ones((1, 1, 2, 1)), cache)[2][0, 0, :, 0]
    array([1., 1.])
    """
    query, key, value, bias_shape, scale, p, kept, dropout, y = cache
    dvalue = _dropped(p, kept, dropout).swapaxes(-1, -2) @ dy  # (B, H, Tk, Dv)
    ds = _dropped(dy @ value.swapaxes(-1, -2), kept, dropout)  # (B, H, Tq, Tk), dP first and turned into dS in place
    ds -= np.einsum("bhtd,bhtd->bht", dy, y)[..., None]
    ds *= p
    dquery = ds @ key  # (B, H, Tq, D)
    dquery *= scale
    dkey = ds.swapaxes(-1, -2) @ query  # (B, H, Tk, D); the scale is already in the query
    dbias = None if bias_shape is None else _bias_gradient(ds, bias_shape)
    return dquery, dkey, dvalue, dbias


def _softmax_in_place(scores, may_be_empty):
    highest = scores.max(axis=-1, keepdims=True)
    if may_be_empty:
        highest[highest == -np.inf] = 0  # a row that sees nothing: exp(-∞ - 0) = 0 everywhere
    scores -= highest
    np.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    if may_be_empty:
        total[total == 0] = 1
    np.divide(1, total, out=total)
    scores *= total


def _dropped(p, kept, rate):
    if kept is None:
        return p
    z = p * kept
    z *= 1 / (1 - rate)
    return z


@lru_cache(maxsize=16)
def _limit(tq, tk, causal, window, dtype):
    """The greatest score allowed, +∞ or -∞ for each query and key, or None where all may be seen."""
    if window is not None:
        seen = sliding_window_mask(tq, tk, window=window, causal=causal)
    elif causal and tq > 1:
        seen = causal_mask(tq, tk)
    else:
        return None
    limit = np.where(seen, np.inf, -np.inf).astype(dtype)
    limit.flags.writeable = False
    return limit


def _without_unseen(mask, array):
    """Zero the keys that no query may see: a NaN there would come through P = 0 in the product, as 0 · NaN = NaN."""
    seen = mask.any(axis=(1, 2))[:, None, :, None]  # (B or 1, 1, Tk or 1, 1)
    return array if seen.all() else np.where(seen, array, np.zeros((), array.dtype))


def _bias_by_position(bias, batch, heads, tq, tk):
    if bias.ndim == 4:
        try:
            np.broadcast_to(bias, (batch, heads, tq, tk))
        except ValueError:
            raise ValueError(f"{NAME}: expected a bias for {(batch, heads, tq, tk)}, got {bias.shape}") from None
        return bias
    if bias.shape != (heads, tq + tk - 1):
        raise ValueError(f"{NAME}: expected a bias (H, Tq + Tk - 1) = {(heads, tq + tk - 1)}, got {bias.shape}")
    # Row i of the (Tq, Tk) table is the numbers from Tq - 1 - i on: windows over them, last first.
    return np.lib.stride_tricks.sliding_window_view(bias, tk, axis=1)[:, ::-1]  # (H, Tq, Tk)


def _bias_gradient(ds, shape):
    """Sum dS over what the bias was broadcast along."""
    if len(shape) == 4:
        axes = tuple(axis for axis in range(4) if shape[axis] == 1)
        return ds.sum(axis=axes, keepdims=True)
    _, heads, tq, tk = ds.shape
    by_position = ds.sum(axis=0)  # (H, Tq, Tk)
    dbias = np.zeros((heads, tq + tk - 1), ds.dtype)
    for i in range(tq):
        dbias[:, tq - 1 - i : tq - 1 - i + tk] += by_position[:, i]
    return dbias


def _check(query, key, value, bias, mask, window, dropout):
    floating(NAME, query=query, key=key, value=value, bias=bias)
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(f"{NAME}: expected query, key and value (B, H, T, D), got {shapes}")
    if query.shape[:2] != key.shape[:2] or key.shape[:3] != value.shape[:3] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"{NAME}: expected query (B, H, Tq, D), key (B, H, Tk, D) and value (B, H, Tk, Dv), got {shapes}"
        )
    if key.shape[2] == 0:
        raise ValueError(f"{NAME}: expected at least one key, got {shapes}")
    if window is not None and window < 1:
        raise ValueError(f"{NAME}: expected a window of at least 1, got {window}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{NAME}: expected dropout in [0, 1), got {dropout}")
    if mask is None:
        return
    scores = (*query.shape[:3], key.shape[2])
    if getattr(mask, "dtype", None) != np.bool_:
        what = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"{NAME}: expected a boolean mask, True = may attend, got {what}")
    if mask.ndim != 4 or any(m not in (1, s) for m, s in zip(mask.shape, scores, strict=True)):
        raise ValueError(f"{NAME}: expected a mask of four axes that broadcasts to {scores}, got {mask.shape}")
