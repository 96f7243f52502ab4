"""Scaled dot-product attention, in the tiled form: the scores of a few queries and keys at a time."""

import math

import numpy as np

from numtx.functional.attention_scores import (
    add_bias_gradient,
    bias_by_position,
    check_attention,
    grouped,
    hide,
    visible_keys,
    without_unseen,
)
from numtx.functional.memory import aligned
from numtx.functional.threads import parallel
from numtx.functional.tiles import cut, joined, over_blocks, product, side_by_side, transposed_copy

NAME = "tiled_attention"
QUERIES, KEYS = 160, 96  # of a tile: with heads of width 64, OpenBLAS takes these products at once, without packing
TOGETHER = 12  # blocks of queries that meet a block of keys in one NumPy call: those of all heads that share the key
WORTH = 1 << 24  # scores below which a second thread saves nothing: NumPy calls are short then
FAR = 48.0  # binary digits that an exponential may go up or down without a maximum subtracted, in float32 too
LEAST = {4: -125.0, 8: -1021.0}  # by the bytes of a number: the powers of two that it holds in full, or nearly
LOG2E = math.log2(math.e)


def tiled_attention(
    query, key, value, bias=None, *, mask=None, causal=False, window=None, scale=None, dropout=0.0, rng=None
):
    """Attention as `scaled_dot_product_attention` computes it, in memory that grows with T and not with T².

        for each block of queries, and each block of keys that some of them may see:
            S = scale · Q Kᵀ + bias       m' = max(m, max_j S_j)       r = exp(m - m')       P = exp(S - m')
            total = r · total + Σ_j P_j       acc = r · acc + dropout(P) V       m = m'
        Y = acc / total               L = m + log total

    Parameters
    ----------
    query, key, value, bias, mask, causal, window, scale, dropout, rng
        As in `scaled_dot_product_attention`. A mask with an axis of queries is itself of size Tq · Tk, and so is such a
        bias.

    Returns
    -------
    y : (B, H, Tq, Dv) array. A query that may see no key gets zeros.
    cache : the inputs, y, and L, one number a query, from which backward makes the weights again

    Notes
    -----
    It equals the textbook form to rounding. Which weights dropout drops depends on the generator and on the blocks, so
    those are others than the textbook form's; each block draws from a generator of its own, and backward draws again.
    The weights never exist as a whole, so they cannot be shown.

    What makes it fast: blocks that `causal`, `window` or the mask hide are skipped. Exponentials are powers of two,
    which are cheaper, with log₂ e in the scale. By Cauchy and Schwarz no score is greater than |q| · max |k|; a query
    for which this is small, as it mostly is, needs no maximum (m = 0). Threads share the heads (`set_num_threads`).

    Milakov and Gimelshein (2018), algorithm 3; Dao et al. (2022), algorithms 1 and 4.

    Examples
    --------
    >>> one_hot = np.eye(2)[None, None] * 100
    >>> y, cache = tiled_attention(one_hot, one_hot, np.array([[[[1.0], [5.0]]]]))
    >>> y[0, 0, :, 0]
    array([1., 5.])
    """
    check_attention(NAME, query, key, value, bias, mask, window, dropout)
    (batch, heads, tq, _), tk = query.shape, key.shape[2]
    if bias is not None:
        bias_by_position(NAME, bias, (batch, heads, tq, tk))
    if mask is not None or window is not None:
        visible = visible_keys(mask, tq, tk, causal, window)
        key, value = without_unseen(visible, key), without_unseen(visible, value)
    scale = query.dtype.type(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    seed = int(rng.integers(2**63)) if rng is not None and dropout > 0 else None
    # The heads of a token side by side, as the projection that follows reads them.
    y = np.empty((batch, tq, heads, value.shape[-1]), value.dtype).swapaxes(1, 2)  # (B, H, Tq, Dv)
    log_total = np.empty((batch, heads, tq), query.dtype)  # L / log 2
    near = _near(query, key, bias, mask, causal, window, scale)  # (B, H, Tq)
    cache = (query, key, value, bias, mask, causal, window, scale, dropout, seed, y, log_total, near)
    _for_heads(_forward, query, key, cache)
    return y, cache


def tiled_attention_backward(dy, cache):
    """Return (dquery, dkey, dvalue, dbias); dbias is None where there was no bias.

    Derivation: as in `scaled_dot_product_attention_backward`,

        dV = Zᵀ dY                    dZ = dY Vᵀ                   dP = dZ through the mask of dropout
        dS_ij = P_ij (dP_ij - Σ_d dY_id Y_id)
        dbias = dS                    dQ = scale · dS K            dK = scale · dSᵀ Q

    and all of it is a sum over blocks, once P is known: P_ij = exp(S_ij - L_i), for L is the logarithm of what the
    softmax divides by. S is computed again, block by block; that costs one product more, and saves T² numbers.

    Both subtractions are part of a product: S - L = [K 1] [Q -L]ᵀ and dP - Σ dY Y = [V 1] [dY -Σ dY Y]ᵀ.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 1)); v = np.array([[[[1.0], [5.0]]]])
    >>> y, cache = tiled_attention(q, k, v)
    >>> tiled_attention_backward(np.ones((1, 1, 2, 1)), cache)[2][0, 0, :, 0]
    array([1., 1.])
    """
    query, key, value, bias, *_ = cache
    dquery = np.empty_like(query, order="C")
    dkey, dvalue = np.empty_like(key, order="C"), np.empty_like(value, order="C")
    dbias = None if bias is None else np.zeros_like(bias, order="C")

    def work(item, cache):
        """Write the gradients of one item of `_for_heads`."""
        _backward(item, cache, dy, dquery, dkey, dvalue, dbias)

    _for_heads(work, query, key, cache, alone=bias is not None)  # several heads may add to one number of the bias
    return dquery, dkey, dvalue, dbias


def _forward(item, cache):
    """Write y and log_total of the heads that share a key and value head, in one row of the batch."""
    query, key, value, _, _, causal, window, scale, dropout, seed, y, log_total, near = cache
    b, head, group = item
    tq, tk, width = query.shape[2], key.shape[2], value.shape[-1]
    keys_of = [np.ascontiguousarray(piece) for piece in _pieces(key[b, head])]  # (keys, D) each
    # A row of ones, and what gathers values sums the weights too: not those that dropout has been over.
    ones = np.ones((1, KEYS), query.dtype)
    values_of = [transposed_copy(piece, seed is None) for piece in _pieces(value[b, head])]  # (Dv + 1, keys) each
    room: dict = {}
    other: dict = {}
    for rows, blocks in _row_blocks(tq, group):
        q = transposed_copy(cut(query[b, group, rows], blocks) * (scale * query.dtype.type(LOG2E)))  # (g, n, D, rows)
        small = cut(near[b, group, rows], blocks)[:, :, None]
        all_small = bool(small.all())
        acc = aligned((*q.shape[:2], width + 1, q.shape[3]), q.dtype, zero=True)  # the last row is the total
        highest = np.where(small, 0, -np.inf).astype(q.dtype)
        for keys, some in _key_blocks(rows, blocks, tq, tk, causal, window):
            tile = b, group, _rows_of(rows, blocks, some), keys
            seen = _seen(tile, some, cache)
            if seen is False:
                continue
            n, size = keys.start // KEYS, keys.stop - keys.start
            pt = product(keys_of[n][:size], q[:, some], room)  # (g, n, keys, rows): Sᵀ first, then Pᵀ
            hidden = _add_and_hide(pt, tile, seen, cache)
            if not all_small:
                highest[:, some] = _raise(highest[:, some], small[:, some], pt, acc[:, some])
            _exp2(pt, hidden or not all_small)
            if seed is not None:
                acc[:, some, -1:] += ones[:, :size] @ pt
                pt *= _kept(seed, tile, pt, dropout)
            acc[:, some] += product(values_of[n][:, :size], pt, other)
        total = acc[..., -1:, :]
        empty = total == 0
        total[empty] = 1
        # What an empty row hides is hidden in backward too.
        log2 = np.where(empty, 0, highest + np.log2(total))[:, :, 0]
        y[b, group, rows] = joined((acc[..., :-1, :] / total).swapaxes(-1, -2))
        log_total[b, group, rows] = log2.reshape(len(log2), -1)


def _backward(item, cache, dy, dquery, dkey, dvalue, dbias):
    """Write the gradients of the heads that share a key and value head, and of both, in one row of the batch.

    Products of one shape stand side by side and are one NumPy call: S with dP, and dV with dK. Threads wait for each
    other between calls. Where D and Dv differ, zeros fill up the narrower.
    """
    query, key, value, bias, _, causal, window, scale, dropout, seed, y, log_total, near = cache
    b, head, group = item
    tq, tk, dtype = query.shape[2], key.shape[2], query.dtype
    width, widest = key.shape[3], max(key.shape[3], value.shape[3])
    keys_and_values = [  # ([K 1], [V 1]): (2, 1, 1, keys, widest + 1) each
        side_by_side(*pair, widest, one=1) for pair in zip(_pieces(key[b, head]), _pieces(value[b, head]), strict=True)
    ]
    keys_of = [transposed_copy(piece) for piece in _pieces(key[b, head])]  # (D, keys) each
    dvalue_dkey = np.zeros((2, tk, widest), dtype)
    room: dict = {}
    other: dict = {}
    third: dict = {}
    for rows, blocks in _row_blocks(tq, group):
        q, dy_rows, y_rows = (cut(array[b, group, rows], blocks) for array in (query, dy, y))  # (g, n, rows, D)
        row_sums = np.einsum("gntd,gntd->gnt", dy_rows, y_rows)
        log2 = cut(log_total[b, group, rows], blocks)
        scaled = q * (scale * dtype.type(LOG2E))
        left = side_by_side(scaled, dy_rows, widest, transposed=True)  # (2, g, n, widest + 1, rows)
        left[0, ..., -1, :] = -log2
        left[1, ..., -1, :] = -row_sums if seed is None else 0
        right = side_by_side(dy_rows, q, widest)  # (2, g, n, rows, widest)
        dq = aligned((*q.shape[:2], width, q.shape[2]), dtype, zero=True)  # (g, n, D, rows)
        all_small = bool(near[b, group, rows].all())
        for keys, some in _key_blocks(rows, blocks, tq, tk, causal, window):
            tile = b, group, _rows_of(rows, blocks, some), keys
            seen = _seen(tile, some, cache)
            if seen is False:
                continue
            n, size = keys.start // KEYS, keys.stop - keys.start
            both = product(keys_and_values[n][..., :size, :], left[:, :, some], room)  # (2, g, n, keys, rows)
            pt, dst = both  # (S - L)ᵀ first, then Pᵀ; (dP - Σ dY Y)ᵀ first, then dSᵀ
            hidden = _add_and_hide(pt, tile, seen, cache)
            if not all_small:  # no weight is above 1, but the rounding of large scores may be
                np.minimum(pt, 1, out=pt)
            _exp2(pt, hidden or not all_small)
            if seed is None:
                dst *= pt
            else:
                kept = _kept(seed, tile, pt, dropout)
                dst *= kept
                dst -= row_sums[:, some, None]
                dst *= pt
                pt *= kept
            dvalue_dkey[:, keys] += over_blocks(product(both, right[:, :, some], other))
            dq[:, some] += product(keys_of[n][:, :size], dst, third)
            if bias is not None:
                add_bias_gradient(dbias, joined(dst.swapaxes(-1, -2))[None], (slice(b, b + 1), *tile[1:]), tq)
        dq *= scale
        dquery[b, group, rows] = joined(dq.swapaxes(-1, -2))
    dvalue[b, head] = dvalue_dkey[0, :, : value.shape[3]]
    np.multiply(dvalue_dkey[1, :, :width], scale, out=dkey[b, head])


def _for_heads(work, query, key, cache, alone=False):
    """Call work(item, cache) for each row of the batch and each of its key and value heads, with its query heads."""
    (batch, heads, tq, _), (_, kv_heads, tk, _) = query.shape, key.shape
    size = heads // kv_heads
    items = [(b, n, slice(n * size, (n + 1) * size)) for b in range(batch) for n in range(kv_heads)]
    if alone or batch * heads * tq * tk < WORTH:
        for item in items:
            work(item, cache)
    else:
        parallel(lambda item: work(item, cache), items)


def _near(query, key, bias, mask, causal, window, scale):
    """Which queries have scores small enough for exponentials without a maximum, (B, H, Tq).

    By |q| and the longest of the keys that the query sees, and by no other: what it may not see must not change a bit.
    Hence none where the keys before a query are not all seen by it, or have been zeroed.
    """
    (batch, heads, tq, _), (_, kv_heads, tk, _) = query.shape, key.shape
    if bias is not None or window is not None or (mask is not None and mask.shape[1:3] != (1, 1)):
        return np.zeros((batch, heads, tq), bool)
    with np.errstate(over="ignore", invalid="ignore"):
        longest = np.maximum.accumulate(np.einsum("bhtd,bhtd->bht", key, key), axis=-1)[:, :, None]  # (B, Hkv, 1, Tk)
        last = np.maximum(np.arange(tk - tq, tk), 0) if causal else np.full(tq, tk - 1)
        squares = grouped(np.einsum("bhtd,bhtd->bht", query, query), kv_heads) * longest[..., last]
        return (squares * (LOG2E * scale) ** 2 <= FAR**2).reshape(batch, heads, tq)


def _raise(highest, small, scores, acc):
    """Subtract the greatest score so far from new ones, and from what was summed before; return it."""
    new = np.maximum(highest, scores.max(axis=-2, keepdims=True))
    new[small] = 0
    top = np.where(new == -np.inf, 0, new)  # nothing seen yet: exp(-∞ - 0) = 0
    scores -= top
    acc *= np.exp2(highest - top)
    return new


def _add_and_hide(pt, tile, seen, cache):
    """Add the bias to the scores of a tile, and put -∞ where a query may not look; return whether that was anywhere."""
    query, key, _, bias, _, causal, window, *_ = cache
    s = pt.swapaxes(-1, -2)  # (g, n, rows, keys)
    b, group, rows, keys = tile
    if bias is not None:
        table = bias_by_position(NAME, bias, (*query.shape[:3], key.shape[2]))[b, group, rows, keys]
        s += cut(table, s.shape[1]) * pt.dtype.type(LOG2E)
    place = rows.start + key.shape[2] - query.shape[2] - keys.start  # of the first query among these keys
    size, width = s.shape[2:]
    hidden = seen is not None or window is not None or (causal and place < width - 1)
    for n in range(s.shape[1]) if hidden else ():
        first = place + n * size
        if window is not None and not _inside(first, size, width, causal, window):
            hide(s[:, n], first, causal, window)
        elif causal and first < width - 1:  # later ones see all these keys
            hide(s[:, n, : width - 1 - first], first, causal, None)
    if seen is not None:
        np.copyto(s, -np.inf, where=~seen)
    return hidden


def _exp2(scores, deep):
    """2 to the power of the scores, in place; `deep` where some may be -∞ or far down.

    NumPy's exp2 takes ten to a hundred times as long for what gives zero, or less than a float holds in full. Deep
    scores are cut off before; what they give is taken off after, and is zero then, and nothing to the others.
    """
    least = LEAST[scores.itemsize]
    if deep:
        np.maximum(scores, least, out=scores)
    np.exp2(scores, out=scores)
    if deep:
        scores -= scores.dtype.type(2.0**least)


def _inside(first, rows, keys, causal, window):
    """Whether a window lets all these queries see all these keys, as far as they are not ahead of them."""
    return first + rows - 1 < window and (causal or keys - 1 - first < window)


def _seen(tile, some, cache):
    """What the mask says of a tile: False if it hides all, None if nothing, else a table like its scores."""
    mask = cache[4]
    if mask is None:
        return None
    b, *places = tile
    places = zip(mask.shape, (slice(b, b + 1), *places), strict=True)
    seen = mask[tuple(slice(None) if size == 1 else place for size, place in places)][0]  # (g or 1, rows or 1, ...)
    if not seen.any():
        return False
    if seen.all():
        return None
    return cut(seen, 1 if mask.shape[2] == 1 else some.stop - some.start)


def _kept(seed, tile, pt, dropout):
    """What dropout multiplies the weights of a tile by, 0 or 1 / (1 - dropout): the same in forward and backward."""
    b, group, rows, keys = tile
    draw = np.random.default_rng([seed, b, group.start, rows.start, keys.start]).random(pt.shape, dtype=np.float32)
    return (draw >= dropout) * pt.dtype.type(1 / (1 - dropout))


def _row_blocks(tq, group):
    """Yield (queries, how many blocks of one size they fall into); with the heads of a group, TOGETHER blocks."""
    together = max(1, TOGETHER // (group.stop - group.start))
    whole = tq // QUERIES
    for block in range(0, whole, together):
        blocks = min(together, whole - block)
        yield slice(block * QUERIES, (block + blocks) * QUERIES), blocks
    if tq % QUERIES:
        yield slice(whole * QUERIES, tq), 1


def _key_blocks(rows, blocks, tq, tk, causal, window):
    """Yield (keys, the blocks of queries some of which may see them); the keys are cut where none of them sees on."""
    size = (rows.stop - rows.start) // blocks
    first, last = rows.start + tk - tq, rows.stop - 1 + tk - tq  # where the queries stand among the keys
    begin = 0 if window is None else max(0, first - window + 1)
    end = min(tk, last + 1) if causal else tk if window is None else min(tk, last + window)
    for start in range(begin // KEYS * KEYS, end, KEYS):
        stop = min(start + KEYS, end)
        ahead = 0 if causal else tk + tq if window is None else window - 1  # how far a query sees ahead, and back
        back = tk + tq if window is None else window - 1
        some = slice(max(0, (start - ahead - first) // size), min(blocks, (stop - 1 + back - first) // size + 1))
        if some.start < some.stop:
            yield slice(start, stop), some


def _rows_of(rows, blocks, some):
    size = (rows.stop - rows.start) // blocks
    return slice(rows.start + some.start * size, rows.start + some.stop * size)


def _pieces(array):
    """Cut (T, D) into pieces of KEYS rows."""
    return [array[start : start + KEYS] for start in range(0, len(array), KEYS)]
