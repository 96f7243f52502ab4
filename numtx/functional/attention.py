"""Scaled dot-product attention, in the textbook form: all scores at once."""

import math

import numpy as np

from numtx.functional.attention_scores import (
    add_bias_gradient,
    bias_by_position,
    check_attention,
    grouped,
    hide,
    over_group,
    visible_keys,
    without_unseen,
)

NAME = "scaled_dot_product_attention"
QUERIES = 64  # in a block under causal attention: fewer skip more, more are faster
SCORES = 131_072  # in a block, about: so many stay in the cache from one step of the softmax to the next


def scaled_dot_product_attention(
    query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None
):
    """Let each query gather values by how well their keys match.

        S = scale · Q Kᵀ + bias       P = softmax(S) over the keys that may be seen       Y = dropout(P) V

    Parameters
    ----------
    query : (B, H, Tq, D) floating array
    key : (B, Hkv, Tk, D) array
        Hkv divides H, and query head h reads key and value head h // (H / Hkv): grouped-query attention; multi-query
        at Hkv = 1 (Ainslie et al., 2023; Shazeer, 2019).
    value : (B, Hkv, Tk, Dv) array
    bias : array or None
        Added to the scores: four axes that broadcast to (B, H, Tq, Tk), or (H, Tq + Tk - 1) numbers that depend on
        the distance alone, entry j - i + Tq - 1 for query i and key j. Its gradient has the shape that was given.
    mask : boolean array or None
        True = may attend; four axes that broadcast to (B, H, Tq, Tk). A key that no query may see may hold anything,
        NaN too; one that some may see must be finite, for 0 · NaN is NaN.
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
    Vaswani et al. (2017), eq. 1. The work is done in blocks of rows of the batch, so that scores stay in the cache, and
    under `causal` of queries too, each with the keys that its last query may see, which saves nearly half of the work.
    Scores are stored transposed, keys down and queries across: the maximum and the sum over keys are then sums of whole
    rows, which NumPy does several times faster than sums along them.

    Examples
    --------
    >>> one_hot = np.eye(2)[None, None] * 100
    >>> y, cache = scaled_dot_product_attention(one_hot, one_hot, np.array([[[[1.0], [5.0]]]]))
    >>> y[0, 0, :, 0]
    array([1., 5.])
    """
    check_attention(NAME, query, key, value, bias, mask, window, dropout)
    (batch, heads, tq, _), (_, kv_heads, tk, _) = query.shape, key.shape
    if mask is not None or window is not None:
        visible = visible_keys(mask, tq, tk, causal, window)
        key, value = without_unseen(visible, key), without_unseen(visible, value)
    bias_shape = None if bias is None else bias.shape
    if bias is not None:
        bias = grouped(bias_by_position(NAME, bias, (batch, heads, tq, tk)), kv_heads)
    if mask is not None:
        mask = grouped(np.broadcast_to(mask, (batch, heads, tq, tk)), kv_heads)
    scale = query.dtype.type(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    query = grouped(np.multiply(query, scale, order="C"), kv_heads)  # Tq·D products instead of Tq·Tk
    key, value = key[:, :, None], value[:, :, None]  # (B, Hkv, 1, Tk, D): one for a whole group
    # The heads of a token side by side, as the projection that follows reads them.
    y = np.empty((batch, tq, heads, value.shape[-1]), value.dtype).swapaxes(1, 2)  # (B, H, Tq, Dv)
    y_grouped = grouped(y, kv_heads)
    weights = []  # Pᵀ of each block, and which of it dropout kept
    for b, rows, seen in _blocks(batch, heads, tq, tk, causal):
        pt = key[b, ..., :seen, :] @ query[b, ..., rows, :].swapaxes(-1, -2)  # Sᵀ first, turned into Pᵀ in place
        p = pt.swapaxes(-1, -2)
        if bias is not None:
            p += bias[b, ..., rows, :seen]
        hide(p, rows.start + tk - tq, causal, window)
        if mask is not None:
            np.copyto(p, -np.inf, where=~mask[b, ..., rows, :seen])
        _softmax_in_place(pt, may_be_empty=mask is not None or tq > tk)
        kept = None
        if rng is not None and dropout > 0:
            kept = rng.random(pt.shape, dtype=np.float32) >= dropout
        zt = _dropped(pt, kept, dropout)
        np.matmul(zt.swapaxes(-1, -2), value[b, ..., :seen, :], out=y_grouped[b, ..., rows, :])
        weights.append((pt, kept))
    return y, (query, key, value, bias_shape, scale, causal, weights, dropout, y_grouped)


def scaled_dot_product_attention_backward(dy, cache):
    """Return (dquery, dkey, dvalue, dbias); dbias is None where there was no bias.

    Derivation, with Z = dropout(P), so that Y = Z V:

        dV = Zᵀ dY                    dZ = dY Vᵀ                   dP = dZ through the mask of dropout
        dS_ij = P_ij (dP_ij - Σ_k dP_ik P_ik)                      (softmax, row by row)
        dbias = dS                    dQ = scale · dS K            dK = scale · dSᵀ Q

    Heads of one group share K and V: dK and dV are sums over the group.

    Two things to see. The row sum needs no (Tq, Tk) product: Σ_k dP_ik P_ik = Σ_k dZ_ik Z_ik = Σ_d dY_id Y_id. And dK
    takes the transpose of dS: Qᵀ dS holds other sums, and where D = Tk it fits, runs, and is wrong.

    A masked score has P = 0 and so dS = 0: masks need no line of their own here.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 1)); v = np.array([[[[1.0], [5.0]]]])
    >>> y, cache = scaled_dot_product_attention(q, k, v)
    >>> scaled_dot_product_attention_backward(np.ones((1, 1, 2, 1)), cache)[2][0, 0, :, 0]
    array([1., 1.])
    """
    query, key, value, bias_shape, scale, causal, weights, dropout, y = cache
    (batch, kv_heads, group, tq, _), tk = query.shape, key.shape[3]
    dy = grouped(dy, kv_heads)
    dquery, dkey, dvalue = (np.zeros(array.shape, array.dtype) for array in (query, key[:, :, 0], value[:, :, 0]))
    dbias = None if bias_shape is None else np.zeros(bias_shape, query.dtype)
    for (b, rows, seen), (pt, kept) in zip(_blocks(batch, kv_heads * group, tq, tk, causal), weights, strict=True):
        dy_rows = dy[b, ..., rows, :]
        dvalue[b, :, :seen] += over_group(_dropped(pt, kept, dropout) @ dy_rows)
        dst = _dropped(value[b, ..., :seen, :] @ dy_rows.swapaxes(-1, -2), kept, dropout)  # dPᵀ first, dSᵀ in place
        dst -= np.einsum("bkgtd,bkgtd->bkgt", dy_rows, y[b, ..., rows, :])[..., None, :]
        dst *= pt
        ds = dst.swapaxes(-1, -2)
        np.matmul(ds, key[b, ..., :seen, :], out=dquery[b, ..., rows, :])
        dkey[b, :, :seen] += over_group(dst @ query[b, ..., rows, :])  # the scale is already in the query
        if dbias is not None:
            place = b, slice(None), rows, slice(0, seen)
            add_bias_gradient(dbias, ds.reshape(len(ds), kv_heads * group, *ds.shape[-2:]), place, tq)
    dquery *= scale
    return dquery.reshape(batch, kv_heads * group, tq, -1), dkey, dvalue, dbias


def attention_weights(cache):
    """Return P of a `scaled_dot_product_attention`, (B, H, Tq, Tk), before dropout, from its cache.

    Row i says how query i divides its attention among the keys; a query that may see none has a row of zeros.
    (PyTorch's `need_weights` gives them after dropout, and by default their mean over the heads.)

    Examples
    --------
    >>> q = k = v = np.zeros((1, 1, 3, 2))
    >>> attention_weights(scaled_dot_product_attention(q, k, v, causal=True)[1])[0, 0, 1]
    array([0.5, 0.5, 0. ])
    """
    query, key, _, _, _, causal, weights, *_ = cache
    (batch, kv_heads, group, tq, _), tk = query.shape, key.shape[3]
    p = np.zeros((batch, kv_heads, group, tq, tk), query.dtype)
    for (b, rows, seen), (pt, _) in zip(_blocks(batch, kv_heads * group, tq, tk, causal), weights, strict=True):
        p[b, ..., rows, :seen] = pt.swapaxes(-1, -2)
    return p.reshape(batch, kv_heads * group, tq, tk)


def _blocks(batch, heads, tq, tk, causal):
    """Yield (rows of the batch, queries, number of keys that some of them may see)."""
    queries = min(QUERIES, tq) if causal else tq
    together = max(1, SCORES // (heads * queries * tk))
    for first in range(0, batch, together):
        for start in range(0, tq, queries):
            stop = min(start + queries, tq)
            yield slice(first, first + together), slice(start, stop), max(1, tk - tq + stop) if causal else tk


def _softmax_in_place(scores, may_be_empty):
    """Softmax over the keys, which stand one below the other: (..., keys, queries)."""
    highest = scores.max(axis=-2, keepdims=True)
    if may_be_empty:
        highest[highest == -np.inf] = 0  # a row that sees nothing: exp(-∞ - 0) = 0 everywhere
    with np.errstate(invalid="ignore"):  # a NaN among the scores came through np.fmin as ∞, and is NaN again here
        scores -= highest
    np.exp(scores, out=scores)
    total = scores.sum(axis=-2, keepdims=True)
    if may_be_empty:
        total[total == 0] = 1
    np.divide(1, total, out=total)
    scores *= total


def _dropped(p, kept, dropout):
    if kept is None:
        return p
    z = p * kept
    z *= 1 / (1 - dropout)
    return z
