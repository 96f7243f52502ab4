"""LayerNorm and RMSNorm: forward, derivation and backward on one page.

The loops over `row_blocks` change no number: they take so many rows at a time as fit the cache (see blocks.py).
"""

import numpy as np

from numtx.functional.blocks import column_sums, row_blocks
from numtx.functional.door import floating


def layer_norm(x, weight, bias=None, eps=1e-5, *, frozen=()):
    """Layer normalisation over the last axis.

        μ = mean(x)    σ² = mean((x - μ)²)    x̂ = (x - μ) / √(σ² + eps)    y = γ x̂ + β

    Parameters
    ----------
    x : (..., C) floating array
    weight : (C,) array, γ
    bias : (C,) array, β, or None
    eps : float
        Inside the root. Models differ (1e-5 in GPT-2, 1e-12 in BERT): take it from the config.
    frozen : names, of "weight" and "bias"
        Whose gradient nobody wants: backward gives None in its place and makes no sum for it.

    Returns
    -------
    y : (..., C) array
    cache : x̂, 1/√(σ² + eps) and γ. x itself is not needed: the derivative of x̂ can be written in x̂ alone.

    Notes
    -----
    The variance is the biased one (divided by C, not C - 1), and two-pass: mean(x²) - μ² cancels for a large mean.
    Ba, Kiros and Hinton (2016), eq. 4.

    Examples
    --------
    >>> y, cache = layer_norm(np.array([[1.0, 3.0]]), np.array([1.0, 2.0]), np.array([0.0, 10.0]), eps=0.0)
    >>> y
    array([[-1., 12.]])
    """
    _check("layer_norm", x, weight, bias)
    y, xhat, rstd = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    for x_, y_, xhat_, rstd_ in row_blocks(x, y, xhat, rstd):
        np.subtract(x_, _row_mean(x_), out=xhat_)
        np.divide(1, np.sqrt(_row_dot(xhat_, xhat_) / x.shape[-1] + eps), out=rstd_)
        xhat_ *= rstd_
        np.multiply(xhat_, weight, out=y_)
        if bias is not None:
            y_ += bias
    return y, (xhat, rstd, weight, bias is not None, *frozen)


def layer_norm_backward(dy, cache):
    """Return (dx, dweight, dbias); dbias is None where there was no bias, either where it was frozen.

    Derivation, for one row of C numbers, with r = 1/√(σ² + eps) and dx̂ = γ dy:

        y_i = γ_i x̂_i + β_i         dγ = Σ_rows dy x̂      dβ = Σ_rows dy      dx̂ = γ dy
        x̂_j = (x_j - μ) r            ∂μ/∂x_i = 1/C          ∂σ²/∂x_i = 2 (x_i - μ)/C
        ∂r/∂x_i = -½ r³ ∂σ²/∂x_i = -r² x̂_i / C
        ∂x̂_j/∂x_i = r ([i = j] - 1/C) + (x_j - μ) ∂r/∂x_i = r ([i = j] - 1/C - x̂_j x̂_i / C)
        dx_i = Σ_j dx̂_j ∂x̂_j/∂x_i = r (dx̂_i - mean(dx̂) - x̂_i mean(dx̂ x̂))

    Three terms: the direct one, the one through the mean, the one through the variance. γ stands inside both means:
    pulled out, it is right only where all γ are equal, as at initialisation.

    Examples
    --------
    >>> y, cache = layer_norm(np.array([[1.0, 3.0, 2.0]]), np.ones(3), np.zeros(3))
    >>> dx, dweight, dbias = layer_norm_backward(np.array([[1.0, 1.0, 1.0]]), cache)
    >>> dx.round(12) + 0.0, dbias  # moving all outputs together is what a norm cannot see
    (array([[0., 0., 0.]]), array([1., 1., 1.]))
    """
    xhat, rstd, weight, has_bias, *frozen = cache
    dx = np.empty(xhat.shape, xhat.dtype)
    dweight = None if "weight" in frozen else np.zeros_like(weight)
    dbias = np.zeros_like(weight) if has_bias and "bias" not in frozen else None
    for dy_, dx_, xhat_, rstd_ in row_blocks(dy, dx, xhat, rstd):
        if dweight is not None:
            np.multiply(dy_, xhat_, out=dx_)
            dweight += column_sums(dx_)
        if dbias is not None:
            dbias += column_sums(dy_)
        dxhat = dy_ * weight
        np.multiply(xhat_, _row_dot(dxhat, xhat_) / weight.size, out=dx_)  # x̂ mean(dx̂ x̂)
        np.subtract(dxhat, dx_, out=dx_)
        dx_ -= _row_mean(dxhat)
        dx_ *= rstd_
    return dx, dweight, dbias


def rms_norm(x, weight, eps=1e-6, *, frozen=()):
    """Root-mean-square normalisation over the last axis: x̂ = x / √(mean(x²) + eps), y = γ x̂.

    Layer normalisation without the mean and without β, as T5 and Llama use it. Shapes as in `layer_norm`; the cache
    holds x̂, 1/√(mean(x²) + eps) and γ. Zhang and Sennrich (2019), eq. 4.

    Examples
    --------
    >>> y, cache = rms_norm(np.array([[3.0, 3.0]]), np.array([1.0, 2.0]), eps=0.0)
    >>> y
    array([[1., 2.]])
    """
    _check("rms_norm", x, weight, None)
    y, xhat, rstd = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 1), x.dtype)
    for x_, y_, xhat_, rstd_ in row_blocks(x, y, xhat, rstd):
        np.divide(1, np.sqrt(_row_dot(x_, x_) / x.shape[-1] + eps), out=rstd_)
        np.multiply(x_, rstd_, out=xhat_)
        np.multiply(xhat_, weight, out=y_)
    return y, (xhat, rstd, weight, *frozen)


def rms_norm_backward(dy, cache):
    """Return (dx, dweight); dweight is None where it was frozen.

    Derivation: as for layer normalisation without the mean, ∂x̂_j/∂x_i = r ([i = j] - x̂_j x̂_i / C), so

        dγ = Σ_rows dy x̂      dx̂ = γ dy      dx_i = r (dx̂_i - x̂_i mean(dx̂ x̂))

    Examples
    --------
    >>> y, cache = rms_norm(np.array([[3.0, 3.0]]), np.ones(2), eps=0.0)
    >>> rms_norm_backward(np.array([[1.0, 1.0]]), cache)[0]  # a longer x along itself gives the same y
    array([[0., 0.]])
    """
    xhat, rstd, weight, *frozen = cache
    dx, dweight = np.empty(xhat.shape, xhat.dtype), None if "weight" in frozen else np.zeros_like(weight)
    for dy_, dx_, xhat_, rstd_ in row_blocks(dy, dx, xhat, rstd):
        if dweight is not None:
            np.multiply(dy_, xhat_, out=dx_)
            dweight += column_sums(dx_)
        dxhat = dy_ * weight
        np.multiply(xhat_, _row_dot(dxhat, xhat_) / weight.size, out=dx_)
        np.subtract(dxhat, dx_, out=dx_)
        dx_ *= rstd_
    return dx, dweight


def _row_mean(a):
    """Mean over the last axis, which stays: (rows, 1), as a product: BLAS sums faster."""
    return a @ np.full((a.shape[-1], 1), 1 / a.shape[-1], a.dtype)


def _row_dot(a, b):
    """Σ a b over the last axis, which stays: (rows, 1)."""
    return np.einsum("nc,nc->n", a, b)[:, None]


def _check(op, x, weight, bias):
    floating(op, x=x, weight=weight, bias=bias)
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None and (x.ndim == 0 or array.shape != x.shape[-1:] or not array.size):
            raise ValueError(f"{op}: expected {name} (C,) for x (..., C), got {array.shape} for {x.shape}")
