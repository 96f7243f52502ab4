"""Classic mistakes of LayerNorm and RMSNorm."""

from __future__ import annotations

import numpy as np

from numtx.functional.norms import layer_norm, layer_norm_backward, rms_norm_backward
from numtx.testing.mistake import Mistake
from numtx.testing.spec import Case

X = np.array([[0.5, -1.0, 2.0, 0.3], [1.5, 0.2, -0.7, 1.1]])
GAMMA = np.array([0.6, 1.4, 0.9, 1.2])


def _layer(x: np.ndarray = X, eps: float = 1e-3) -> Case:
    return Case({"x": x, "weight": GAMMA, "bias": np.array([0.3, -0.2, 0.1, 0.4])}, {"eps": eps})


def _rms() -> Case:
    return Case({"x": X, "weight": GAMMA}, {"eps": 1e-3})


def _mean(a):
    return a.mean(axis=-1, keepdims=True)


def _layer_dx(dx_of):
    """A backward whose dx is `dx_of(dy, x̂, r, γ)` and whose other gradients are right."""

    def backward(dy, cache):
        xhat, rstd, weight = cache[:3]
        _, dweight, dbias = layer_norm_backward(dy, cache)
        return dx_of(dy, xhat, rstd, weight), dweight, dbias

    return backward


def _layer_gamma_outside(dy, xhat, rstd, weight):
    return weight * rstd * (dy - _mean(dy) - xhat * _mean(dy * xhat))


def _layer_mean_lost(dy, xhat, rstd, weight):
    dxhat = dy * weight
    return rstd * (dxhat - xhat * _mean(dxhat * xhat))


def _layer_variance_lost(dy, xhat, rstd, weight):
    dxhat = dy * weight
    return rstd * (dxhat - _mean(dxhat))


def _layer_both_lost(dy, xhat, rstd, weight):
    return rstd * dy * weight


def _layer_gamma_lost(dy, xhat, rstd, weight):
    return rstd * (dy - _mean(dy) - xhat * _mean(dy * xhat))


def _layer_dweight_without_xhat(dy, cache):
    dx, dweight, dbias = layer_norm_backward(dy, cache)
    return dx, dy.reshape(-1, dweight.size).sum(axis=0), dbias


def _layer_dbias_mean(dy, cache):
    dx, dweight, dbias = layer_norm_backward(dy, cache)
    return dx, dweight, None if dbias is None else dy.reshape(-1, dweight.size).mean(axis=0)


def _scaled(xhat, weight, bias):
    return xhat * weight if bias is None else xhat * weight + bias


def _layer_unbiased(x, weight, bias=None, eps=1e-5):
    centred = x - _mean(x)
    rstd = 1 / np.sqrt(x.var(axis=-1, keepdims=True, ddof=1) + eps)
    return _scaled(centred * rstd, weight, bias), (centred * rstd, rstd, weight, bias is not None)


def _layer_unbiased_backward(dy, cache):
    xhat, rstd, weight, _ = cache
    _, dweight, dbias = layer_norm_backward(dy, cache)
    dxhat = dy * weight
    own = (dxhat * xhat).sum(axis=-1, keepdims=True) / (xhat.shape[-1] - 1)
    return rstd * (dxhat - _mean(dxhat) - xhat * own), dweight, dbias


def _layer_eps_outside(x, weight, bias=None, eps=1e-5):
    centred, std = x - _mean(x), x.std(axis=-1, keepdims=True)
    xhat, rstd = centred / (std + eps), 1 / (std + eps)
    return _scaled(xhat, weight, bias), (xhat, rstd, weight, bias is not None, std * rstd)


def _layer_eps_outside_backward(dy, cache):
    xhat, rstd, weight, _, share = cache
    _, dweight, dbias = layer_norm_backward(dy, cache[:4])
    dxhat = dy * weight
    own = _mean(dxhat * xhat) / np.where(share == 0, 1, share)
    return rstd * (dxhat - _mean(dxhat) - xhat * own), dweight, dbias


def _layer_without_eps(x, weight, bias=None, eps=1e-5):
    with np.errstate(divide="ignore", invalid="ignore"):
        return layer_norm(x, weight, bias, 0.0)


def _layer_one_pass(x, weight, bias=None, eps=1e-5):
    mean, square = _mean(x), _mean(x * x)
    with np.errstate(invalid="ignore"):
        rstd = 1 / np.sqrt(square - mean * mean + eps)
    xhat = (x - mean) * rstd
    return _scaled(xhat, weight, bias), (xhat, rstd, weight, bias is not None)


def _layer_over_rows(x, weight, bias=None, eps=1e-5):
    _, cache = layer_norm(x, weight, bias, eps)
    xhat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps)
    return _scaled(xhat, weight, bias), cache


def _rms_centred(x, weight, eps=1e-6):
    y, cache = layer_norm(x, weight, None, eps)
    return y, cache


def _rms_centred_backward(dy, cache):
    return layer_norm_backward(dy, cache)[:2]


def _rms_dx(dx_of):
    def backward(dy, cache):
        return dx_of(dy, *cache), rms_norm_backward(dy, cache)[1]

    return backward


def _rms_gamma_outside(dy, xhat, rstd, weight):
    return weight * rstd * (dy - xhat * _mean(dy * xhat))


def _rms_sum_lost(dy, xhat, rstd, weight):
    return rstd * dy * weight


def _rms_mean_kept(dy, xhat, rstd, weight):
    dxhat = dy * weight
    return rstd * (dxhat - _mean(dxhat) - xhat * _mean(dxhat * xhat))


def _rms_sum_for_mean(dy, xhat, rstd, weight):
    dxhat = dy * weight
    return rstd * (dxhat - xhat * (dxhat * xhat).sum(axis=-1, keepdims=True))


def _rms_eps_outside(x, weight, eps=1e-6):
    root = np.sqrt(_mean(x * x))
    return x / (root + eps) * weight, (x / (root + eps), 1 / (root + eps), weight, root / (root + eps))


def _rms_eps_outside_backward(dy, cache):
    xhat, rstd, weight, share = cache
    dxhat = dy * weight
    own = _mean(dxhat * xhat) / np.where(share == 0, 1, share)
    return rstd * (dxhat - xhat * own), rms_norm_backward(dy, cache[:3])[1]


def _rms_of_sum(x, weight, eps=1e-6):
    rstd = 1 / np.sqrt((x * x).sum(axis=-1, keepdims=True) + eps)
    return x * rstd * weight, (x * rstd, rstd, weight)


def _rms_of_sum_backward(dy, cache):
    return _rms_sum_for_mean(dy, *cache), rms_norm_backward(dy, cache)[1]


LAYER_NORM = [
    Mistake(
        name="layer_norm gamma pulled out of the sums in backward",
        of="layer_norm",
        why="The derivation is done without γ and γ multiplied on at the end; at γ = 1, as initialised, it is right.",
        hint="Try weights that are not all equal. What is the gradient of x̂, before any mean is taken?",
        backward=_layer_dx(_layer_gamma_outside),
        witness=_layer,
    ),
    Mistake(
        name="layer_norm gamma forgotten in dx",
        of="layer_norm",
        why="γ is one in every test.",
        hint="Try weights that are not all ones.",
        backward=_layer_dx(_layer_gamma_lost),
        witness=_layer,
    ),
    Mistake(
        name="layer_norm backward without the mean's term",
        of="layer_norm",
        why="The gradient through the mean is computed and never added, or the mean is taken for a constant.",
        hint="Add a constant to a row of x: y stays, so dx must sum to zero along the row.",
        backward=_layer_dx(_layer_mean_lost),
        witness=_layer,
    ),
    Mistake(
        name="layer_norm backward without the variance's term",
        of="layer_norm",
        why="The standard deviation is taken for a constant.",
        hint="Stretch a row about its mean: y hardly changes, so dx must be almost orthogonal to x - μ.",
        backward=_layer_dx(_layer_variance_lost),
        witness=_layer,
    ),
    Mistake(
        name="layer_norm backward as a mere scaling",
        of="layer_norm",
        why="Mean and variance are both taken for constants, as they are in a frozen batch norm.",
        hint="Mean and variance are functions of every x in the row.",
        backward=_layer_dx(_layer_both_lost),
        witness=_layer,
    ),
    Mistake(
        name="layer_norm dgamma without xhat",
        of="layer_norm",
        why="It is copied from dβ.",
        hint="γ multiplies x̂: what stands beside dy?",
        backward=_layer_dweight_without_xhat,
        witness=_layer,
    ),
    Mistake(
        name="layer_norm dbeta averaged over the rows",
        of="layer_norm",
        why="The mean over the batch belongs to the loss; it is easily taken a second time.",
        hint="β is added to every row: what does each of them contribute?",
        backward=_layer_dbias_mean,
        witness=_layer,
    ),
    Mistake(
        name="layer_norm with the unbiased variance",
        of="layer_norm",
        why="`torch.var` and `np.std(ddof=1)` divide by C - 1; the paper and every framework's LayerNorm divide by C.",
        hint="For a row of -1 and 1, what is the variance?",
        forward=_layer_unbiased,
        backward=_layer_unbiased_backward,
        witness=_layer,
    ),
    Mistake(
        name="layer_norm eps outside the root",
        of="layer_norm",
        why="σ + eps reads as naturally as √(σ² + eps), and The Annotated Transformer has it so.",
        hint="Take a large eps, or a row of very small numbers.",
        forward=_layer_eps_outside,
        backward=_layer_eps_outside_backward,
        witness=_layer,
    ),
    Mistake(
        name="layer_norm without eps",
        of="layer_norm",
        why="It is only there against a division by zero, so it seems not to matter.",
        hint="Try a row of very small numbers, and a row of equal ones.",
        forward=_layer_without_eps,
        witness=_layer,
    ),
    Mistake(
        name="layer_norm with the one-pass variance",
        of="layer_norm",
        why="mean(x²) - μ² saves a pass; where μ is far larger than σ the two cancel, and may even come out negative.",
        hint="Add a large number to a row: nothing but rounding may change.",
        forward=_layer_one_pass,
        witness=lambda: _layer(X + 1e6),
    ),
    Mistake(
        name="layer_norm over the batch",
        of="layer_norm",
        why="Axis 0 is batch norm's; the shapes fit all the same.",
        hint="Does the result of one row depend on the other rows?",
        forward=_layer_over_rows,
        witness=_layer,
    ),
]

RMS_NORM = [
    Mistake(
        name="rms_norm with the mean subtracted",
        of="rms_norm",
        why="It is written as layer normalisation without β.",
        hint="Add a constant to a row of x: should y stay?",
        forward=_rms_centred,
        backward=_rms_centred_backward,
        witness=_rms,
    ),
    Mistake(
        name="rms_norm gamma pulled out of the sums in backward",
        of="rms_norm",
        why="The derivation is done without γ and γ multiplied on at the end; at γ = 1, as initialised, it is right.",
        hint="Try weights that are not all equal. What is the gradient of x̂, before the mean is taken?",
        backward=_rms_dx(_rms_gamma_outside),
        witness=_rms,
    ),
    Mistake(
        name="rms_norm backward as a mere scaling",
        of="rms_norm",
        why="The root mean square is taken for a constant.",
        hint="Stretch a row: y hardly changes, so dx must be almost orthogonal to x.",
        backward=_rms_dx(_rms_sum_lost),
        witness=_rms,
    ),
    Mistake(
        name="rms_norm backward with layer_norm's mean term",
        of="rms_norm",
        why="The backward is copied from layer normalisation.",
        hint="Is there a mean in the forward?",
        backward=_rms_dx(_rms_mean_kept),
        witness=_rms,
    ),
    Mistake(
        name="rms_norm backward with a sum for the mean",
        of="rms_norm",
        why="The derivative of mean(x²) loses its 1/C.",
        hint="Differentiate the mean of x² with one number, then with two.",
        backward=_rms_dx(_rms_sum_for_mean),
        witness=_rms,
    ),
    Mistake(
        name="rms_norm eps outside the root",
        of="rms_norm",
        why="rms + eps reads as naturally as √(mean(x²) + eps); the authors' own code has it so.",
        hint="Take a large eps, or a row of very small numbers.",
        forward=_rms_eps_outside,
        backward=_rms_eps_outside_backward,
        witness=_rms,
    ),
    Mistake(
        name="rms_norm with the sum of squares for their mean",
        of="rms_norm",
        why="That is the unit vector (L2 norm); the m in RMS is a mean.",
        hint="What does a row of ones become?",
        forward=_rms_of_sum,
        backward=_rms_of_sum_backward,
        witness=_rms,
    ),
]

MISTAKES = LAYER_NORM + RMS_NORM
