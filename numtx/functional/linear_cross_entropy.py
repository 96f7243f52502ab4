"""Cross-entropy over a large vocabulary: the last product and its loss in one pair, without ever holding all logits."""

import numpy as np

from numtx.functional.blocks import column_sums
from numtx.functional.door import count, floating

LOGITS = 20 << 20  # logits that are held at once: 80 MiB in float32
COLUMNS = 512  # classes of a block that stays in the cache while it is worked on


def linear_cross_entropy(
    x,
    weight,
    target,
    bias=None,
    *,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    num_items=None,
    keep="all",
    frozen=(),
):
    """Cross-entropy of integer targets under softmax(x W + b).

        z_n = x_n W + b      loss_n = -Σ_c t_nc log p_nc      p_n = softmax(z_n)      t_nc = (1 - ε) [c = y_n] + ε / V

    Parameters
    ----------
    x : (..., C) floating array
    weight : (C, V) array, W
        Of a table (V, C) that is tied to the embedding: its transposed view.
    target : (...) integer array, y, each in [0, V) or `ignore_index`
    bias : (V,) array or None
    ignore_index : int
        Targets of this value cost nothing and count for nothing.
    label_smoothing : float in [0, 1], ε
    reduction : "mean" or "sum"
        "mean" divides by the number of targets not ignored, and is 0 where all are.
    num_items : int or None
        What "mean" divides by instead. Those who split a batch pass the count of the whole, and add.
    keep : "all" or None
        None for the loss alone, with no backward: a third of the work.
    frozen : names, of "weight" and "bias"
        Whose gradient nobody wants: backward gives None in its place, and there is no product for it.

    Returns
    -------
    loss : a scalar of the dtype of x
    cache : dx, dW and db for dy = 1

    Notes
    -----
    The same numbers as `cross_entropy(linear(x, weight, bias)[0], target)`, in nats. That pair keeps (N, V)
    probabilities: at N = 2048 and V = 50,257 they are 400 MB, and each pass over them goes to main memory. Here some
    rows x at a time go through the whole of forward and backward, and only as many logits are held as these rows have.

    It can be done because a loss ends the chain: it is one number, so its gradient is a multiple, dy, of what it is at
    dy = 1, and that is known already in forward. So the cache holds gradients instead of what they are computed from.
    The alternative, to keep log Σ exp(z) alone and compute the logits again in backward, costs a fourth product.

    A loss that nothing follows has dy = 1. Then backward hands out the cache's own arrays, not copies, which at this
    size count: whoever changes them in place does not call it again. Hsu et al. (2024), Liger kernels, have it so too.

    The exponentials are taken block by block of classes, each less the maximum of its own block m_k, and stored. The
    sum over all is Σ_k exp(m_k - max m) Σ_{c in k} exp(z_c - m_k), as in the online softmax of Milakov and Gimelshein
    (2018), algorithm 3.

    A label that is nearly certain costs log(1 + r), r = Σ_{c≠y} exp(z_c - z_y), and 1 + r would keep few digits of r,
    or none. So the label stays out of the sums: the loss comes from log1p, and p_y - 1 is -Σ_{c≠y} p_c.

    Examples
    --------
    >>> x, weight = np.array([[1.0, 0.0], [0.0, 0.0]]), np.zeros((2, 4))
    >>> loss, cache = linear_cross_entropy(x, weight, np.array([1, -100]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    dtype = floating("linear_cross_entropy", x=x, weight=weight, bias=bias)
    flat = _check(x, weight, target, bias, ignore_index, label_smoothing)
    _check_settings(reduction, num_items, keep)
    real = np.flatnonzero(flat != ignore_index)
    rows, labels, table = x.reshape(-1, x.shape[-1])[real], flat[real], weight.T  # (N, C), (N,), (V, C)
    classes = len(table)
    divisor = dtype.type(1 if reduction == "sum" else num_items or max(1, len(real)))
    spread = dtype.type(label_smoothing / classes / divisor)  # of a row's targets: what every class gets

    losses = np.empty(len(rows), dtype)
    drows = np.empty_like(rows)
    dtable = None if "weight" in frozen else np.empty_like(table) if len(rows) else np.zeros_like(table)
    dbias = None if bias is None or "bias" in frozen else np.zeros_like(bias)
    blocks = -(-len(rows) * classes // LOGITS)  # of rows, about equal
    step = -(-len(rows) // max(1, min(blocks, len(rows))))
    stored = None if keep is None else np.empty((classes, step), dtype)
    for start in range(0, len(rows), max(1, step)):
        at = slice(start, start + step)
        exps = None if stored is None else stored[:, : len(rows[at])]  # (V, R), 0 at the label
        maxima, sums, z_label = _exponentials(rows[at], labels[at], table, bias, exps)
        top = maxima.max(axis=0)
        shares = np.exp(maxima - top)  # (K, R), times exps[c] for c in block k: exp(z_c - top)
        z_label -= top
        others = (shares * sums).sum(axis=0)  # (R,), Σ_{c≠y} exp(z_c - top)
        losses[at] = np.log1p(others + np.expm1(z_label)) - dtype.type(1 - label_smoothing) * z_label
        if label_smoothing:
            z_mean = rows[at] @ table.mean(axis=0) + (0 if bias is None else bias.mean())
            losses[at] -= dtype.type(label_smoothing) * (z_mean - top)
        if keep is not None:
            total = (others + np.exp(z_label)) * divisor
            shares /= total  # times exps: p over the divisor
            dz_label = dtype.type(label_smoothing / divisor) - others / total  # p_y - (1 - ε), over the divisor
            drows[at] = _gradients(
                rows[at], labels[at], table, exps, shares, dz_label, spread, dtable, dbias, start == 0
            )
    loss = losses.sum() / divisor
    if keep is None:
        return loss, None
    dx = np.zeros(x.shape, dtype)
    dx.reshape(-1, x.shape[-1])[real] = drows
    return loss, (dx, None if dtable is None else dtable.T, dbias)


def linear_cross_entropy_backward(dy, cache):
    """Return (dx, dweight, dbias); dbias is None where there was no bias, either where it was frozen.

    Derivation: dz_n = p_n - t_n, over the divisor (see cross_entropy), and z = x W + b is linear (see linear):

        dx = dy dz Wᵀ      dW = dy xᵀ dz      db = dy Σ_n dz_n

    All but the factor dy was computed in forward, where the logits were at hand, block by block: the rows' dx, and
    their terms of dW and db added to those of the rows before. At dy = 1 these are the cache's own arrays.

    Examples
    --------
    >>> loss, cache = linear_cross_entropy(np.array([[1.0]]), np.array([[0.0, 0.0]]), np.array([1]))
    >>> linear_cross_entropy_backward(1.0, cache)
    (array([[0.]]), array([[ 0.5, -0.5]]), None)
    """
    if cache is None:
        raise ValueError("linear_cross_entropy: expected a forward with keep='all' before backward, got keep=None")
    if dy == 1:
        return cache
    dy = np.asarray(dy, cache[0].dtype)
    return tuple(None if gradient is None else dy * gradient for gradient in cache)


def _exponentials(x, labels, table, bias, exps):
    """Return m (K, R), the maxima of the blocks of classes, Σ exp(z - m_k) but at the label (K, R), and z at the label.

    What is summed is put into exps (V, R), unless that is None.
    """
    xt = np.ascontiguousarray(x.T)  # (C, R)
    scratch = np.empty((COLUMNS, len(x)), x.dtype)
    lowest = np.finfo(x.dtype).min  # so that a block of -inf gives zeros, not -inf - (-inf)
    z_label = np.empty(len(x), x.dtype)
    maxima, sums = [], []
    for start in range(0, len(table), COLUMNS):
        at = slice(start, start + COLUMNS)
        z = np.matmul(table[at], xt, out=scratch[: len(table[at])])  # (V_k, R)
        if bias is not None:
            z += bias[at, None]
        here = _inside(labels, start)
        z_label[here] = z[labels[here] - start, here]
        maxima.append(z.max(axis=0, initial=lowest))
        z -= maxima[-1]
        e = np.exp(z, out=z if exps is None else exps[at])
        e[labels[here] - start, here] = 0
        sums.append(column_sums(e))
    return np.array(maxima), np.array(sums), z_label


def _gradients(x, labels, table, exps, shares, dz_label, spread, dtable, dbias, first):
    """Return dx of these rows, and add their terms to dtable and dbias, or put them there if they are the first."""
    dx = np.zeros_like(x)
    terms = np.empty_like(x)
    table_terms = np.empty_like(table[:COLUMNS])
    scratch = np.empty((len(table_terms), len(x)), x.dtype)
    for share, start in zip(shares, range(0, len(table), COLUMNS), strict=True):
        at = slice(start, start + COLUMNS)
        dz = np.multiply(exps[at], share, out=scratch[: len(exps[at])])  # p but at the label; (V_k, R)
        here = _inside(labels, start)
        dz[labels[here] - start, here] = dz_label[here]
        if spread:
            dz -= spread
        dx += np.matmul(dz.T, table[at], out=terms)  # (R, C)
        if first and dtable is not None:
            np.matmul(dz, x, out=dtable[at])  # (V_k, C)
        elif dtable is not None:
            dtable[at] += np.matmul(dz, x, out=table_terms[: len(dz)])
        if dbias is not None:
            dbias[at] += dz.sum(axis=1)
    return dx


def _inside(labels, start):
    """Return which rows have their label in the block of classes that begins at `start`."""
    return np.flatnonzero((labels >= start) & (labels < start + COLUMNS))


def _check_settings(reduction, num_items, keep):
    op = "linear_cross_entropy"
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{op}: expected reduction 'mean' or 'sum', got {reduction!r}")
    if num_items is not None:
        count(op, 1, num_items=num_items)
        if reduction != "mean":
            raise ValueError(f"{op}: expected num_items with reduction 'mean' alone, got {reduction!r}")
    if keep not in ("all", None):
        raise ValueError(f"{op}: expected keep 'all' or None, got {keep!r}")


def _check(x, weight, target, bias, ignore_index, label_smoothing):
    """Refuse arrays that do not fit, and return the targets on one axis."""
    op = "linear_cross_entropy"
    if x.ndim == 0 or weight.ndim != 2 or x.shape[-1] != weight.shape[0] or not x.size or not weight.size:
        raise ValueError(f"{op}: expected x (..., C) and weight (C, V), not empty, got {x.shape} and {weight.shape}")
    classes = weight.shape[1]
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"{op}: expected bias ({classes},), got {bias.shape}")
    target = np.asarray(target)
    if target.shape != x.shape[:-1] or target.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected integer targets {x.shape[:-1]}, got {target.dtype} {target.shape}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: expected label_smoothing in [0, 1], got {label_smoothing}")
    flat = target.reshape(-1)
    bad = flat[(flat != ignore_index) & ((flat < 0) | (flat >= classes))]
    if bad.size:
        raise ValueError(f"{op}: expected targets in [0, {classes}) or {ignore_index}, got {bad[0]}")
    return flat.astype(np.intp)  # a small integer type could not hold a block's start
