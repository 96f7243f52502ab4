"""Losses: cross-entropy, mean squared error, binary cross-entropy; and what is asked of a loss over classes."""

import numpy as np

from numtx.functional.activations import sigmoid
from numtx.functional.door import floating


def cross_entropy(logits, target, weight=None, *, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    """Cross-entropy of integer targets under softmax(logits), over the last axis.

        loss_n = -Σ_c t_nc log p_nc      p_n = softmax(z_n)      t_nc = (1 - ε) w_y [c = y_n] + (ε / V) w_c

    Parameters
    ----------
    logits : (..., V) floating array, z. (PyTorch has the classes on axis 1.)
    target : (...) integer array, y, each in [0, V) or `ignore_index`
    weight : (V,) array or None
        Class weights w, 1 if None.
    ignore_index : int
        Targets of this value cost nothing and count for nothing.
    label_smoothing : float in [0, 1], ε
    reduction : "mean", "sum" or "none"
        "mean" divides by Σ_n w_{y_n} over the targets not ignored, and is 0 where all are.

    Returns
    -------
    loss : a scalar of the logits' dtype, or (...) for "none"
    cache : p less the one-hot label, the targets and weights, and what the sum is divided by

    Notes
    -----
    In nats. Log p is formed as z - log Σ exp(z) with the row's maximum subtracted. A label that is nearly certain costs
    log(1 + r), r = Σ_{c≠y} exp(z_c - z_y), and 1 + r would keep few digits of r, or none. So the label stays out of the
    sum: the loss comes from log1p, and p_y - 1 is -Σ_{c≠y} p_c. (PyTorch sums all: in float32 it is 0 from r = 6e-8
    down.) Label smoothing is that of Szegedy et al. (2016), section 7, over all V classes, as PyTorch has it. A shard
    that divides by its own count gives a mean of means: sum, and divide once by the count of the whole batch.

    Examples
    --------
    >>> loss, cache = cross_entropy(np.zeros((2, 4)), np.array([1, -100]))
    >>> loss.round(4)  # log 4
    np.float64(1.3863)
    """
    dtype = floating("cross_entropy", logits=logits, weight=weight)
    rows, target, shape = check_classes("cross_entropy", "logits", logits, target, weight, ignore_index, reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing in [0, 1], got {label_smoothing}")
    counted = target != ignore_index
    label = np.where(counted, target, 0)
    real = counted.astype(dtype) if weight is None else np.where(counted, weight[label], np.zeros((), dtype))
    spread = np.where(counted, dtype.type(label_smoothing / rows.shape[1]), dtype.type(0))  # ε / V, 0 where ignored
    at_label = real * dtype.type(1 - label_smoothing)
    class_weight = np.ones(rows.shape[1], dtype) if weight is None else weight

    at = np.arange(len(rows)), label
    excess = rows - rows.max(axis=1, keepdims=True)  # (N, V), z first and turned into p - onehot in place
    z_label = excess[at]
    z_spread = excess @ class_weight if label_smoothing else 0
    np.exp(excess, out=excess)
    excess[at] = 0
    others = excess.sum(axis=1)
    total = others + np.exp(z_label)
    excess[at] = -others
    excess /= total[:, None]
    if not counted.all():
        excess[~counted] = 0  # whatever stands there, it costs nothing and gets no gradient
    log_total = np.log1p(others + np.expm1(z_label))
    loss = at_label * (log_total - z_label)  # Σ_c t_c (log Σ exp(z) - z_c), the label's part
    if label_smoothing:
        loss += spread * (class_weight.sum() * log_total - z_spread)
    np.copyto(loss, 0, where=~counted)

    divisor = dtype.type(1)
    if reduction == "mean":
        divisor = real.sum() or dtype.type(1)
    cache = (excess, label, at_label, spread, class_weight, divisor, logits.shape)
    return (loss.reshape(shape) if reduction == "none" else loss.sum() / divisor), cache


def cross_entropy_backward(dy, cache):
    """Return dlogits.

    Derivation: ∂ log p_c / ∂z_i = [i = c] - p_i (see log_softmax), so for one row

        dz_i = dy Σ_c t_c (p_i - [i = c]) = dy (p_i Σ_c t_c - t_i)

    Without weights and smoothing t is one-hot and dz = dy (p - onehot). That difference is what the cache holds; where
    there is smoothing, p is it and the one-hot label. "mean" divides dy by the count.

    Examples
    --------
    >>> loss, cache = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> cross_entropy_backward(1.0, cache)
    array([[ 0.5, -0.5]])
    """
    excess, label, at_label, spread, class_weight, divisor, shape = cache
    dy = np.broadcast_to(np.asarray(dy, excess.dtype) / divisor, shape[:-1]).reshape(-1)  # (N,)
    to_all = spread * class_weight.sum()  # Σ_c t_c but the label's part
    dlogits = excess * (dy * (at_label + to_all))[:, None]
    if spread.any():
        dlogits[np.arange(len(excess)), label] += dy * to_all
        dlogits -= np.outer(dy * spread, class_weight)
    return dlogits.reshape(shape)


def mse_loss(input, target, reduction="mean"):
    """Squared error (input - target)², its mean over all elements, its sum, or each ("none").

    Both are floating arrays of one shape; the target is not differentiated. The cache holds the difference.

    Examples
    --------
    >>> mse_loss(np.array([1.0, 4.0]), np.array([1.0, 1.0]))[0]
    np.float64(4.5)
    """
    floating("mse_loss", input=input, target=target)
    _check_pair("mse_loss", input, target, reduction)
    difference = input - target
    return _reduced(difference * difference, reduction), (difference, reduction)


def mse_loss_backward(dy, cache):
    """Return dinput = 2 (input - target) dy, with dy divided by the number of elements for "mean".

    Examples
    --------
    >>> mse_loss_backward(1.0, mse_loss(np.array([1.0, 4.0]), np.array([1.0, 1.0]))[1])
    array([0., 3.])
    """
    difference, reduction = cache
    return 2 * difference * _spread(dy, reduction, difference)


def binary_cross_entropy_with_logits(input, target, weight=None, pos_weight=None, reduction="mean"):
    """Binary cross-entropy of targets in [0, 1] under σ(input).

        loss = -w (p⁺ t log σ(x) + (1 - t) log(1 - σ(x)))

    Parameters
    ----------
    input : floating array of any shape, x
    target : array of the same shape, t; not differentiated
    weight : array that broadcasts to it, or None, w
    pos_weight : array that broadcasts to it, or None, p⁺
        Weight of the positive answer.
    reduction : "mean" (over all elements), "sum" or "none"

    Returns
    -------
    loss : a scalar, or an array for "none"
    cache : σ(x), the target and the weights

    Notes
    -----
    With softplus(-x) = log(1 + exp(-|x|)) + max(-x, 0) = -log σ(x) the loss is (1 - t) x + (1 + (p⁺ - 1) t)
    softplus(-x), which neither overflows nor takes the log of 0.

    Examples
    --------
    >>> binary_cross_entropy_with_logits(np.array([0.0]), np.array([1.0]))[0].round(4)  # log 2
    np.float64(0.6931)
    """
    name = "binary_cross_entropy_with_logits"
    dtype = floating(name, input=input, target=target, weight=weight, pos_weight=pos_weight)
    _check_pair(name, input, target, reduction)
    for label, array in (("weight", weight), ("pos_weight", pos_weight)):
        if array is None:
            continue
        try:
            np.broadcast_to(array, input.shape)
        except ValueError:
            raise ValueError(f"{name}: expected {label} to broadcast to {input.shape}, got {array.shape}") from None
    softplus = np.log1p(np.exp(-np.abs(input))) + np.maximum(-input, 0)
    positive = np.ones((), dtype) if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * input + positive * softplus
    if weight is not None:
        loss = loss * weight
    return _reduced(loss, reduction), (sigmoid(input)[0], target, weight, positive, reduction)


def binary_cross_entropy_with_logits_backward(dy, cache):
    """Return dinput.

    Derivation: d softplus(-x)/dx = -σ(-x) = σ(x) - 1, so dx = w dy ((1 - t) + (1 + (p⁺ - 1) t) (σ(x) - 1)), which is
    dy (σ(x) - t) without weights.

    Examples
    --------
    >>> loss, cache = binary_cross_entropy_with_logits(np.array([0.0]), np.array([1.0]))
    >>> binary_cross_entropy_with_logits_backward(1.0, cache)
    array([-0.5])
    """
    probability, target, weight, positive, reduction = cache
    dinput = (1 - target) + positive * (probability - 1)
    if weight is not None:
        dinput = dinput * weight
    return dinput * _spread(dy, reduction, probability)


def _reduced(loss, reduction):
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.sum() / loss.size


def _spread(dy, reduction, like):
    """The gradient that each element of the loss receives."""
    dy = np.asarray(dy, like.dtype)
    return dy / like.size if reduction == "mean" else dy


def _check_pair(op, input, target, reduction):
    check_reduction(op, reduction)
    if input.shape != target.shape or not input.size:
        raise ValueError(f"{op}: expected input and target of one shape, not empty, got {input.shape}, {target.shape}")


def check_reduction(op, reduction):
    """Require one of the three ways from the losses of the rows to a result."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: expected reduction 'mean', 'sum' or 'none', got {reduction!r}")


def check_classes(op, name, scores, target, weight, ignore_index, reduction):
    """Require scores (..., V), called `name`, that fit integer targets (...) and weights (V,) of a loss over classes.

    Return the scores as rows (N, V), the targets (N,), and the shape that the targets had.
    """
    check_reduction(op, reduction)
    target = np.asarray(target)
    if scores.ndim == 0 or target.shape != scores.shape[:-1] or not scores.size:
        raise ValueError(
            f"{op}: expected {name} (..., V) and target (...), not empty, got {scores.shape}, {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected integer targets, got {target.dtype}")
    classes = scores.shape[-1]
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{op}: expected weight ({classes},), got {weight.shape}")
    flat = target.reshape(-1)
    bad = flat[(flat != ignore_index) & ((flat < 0) | (flat >= classes))]
    if bad.size:
        raise ValueError(f"{op}: expected targets in [0, {classes}) or {ignore_index}, got {bad[0]}")
    return scores.reshape(-1, classes), flat, target.shape
