"""Activations: relu, sigmoid, tanh, silu, and gelu in its exact and its tanh form."""

import math

import numpy as np

from numtx.functional.blocks import blocks
from numtx.functional.door import floating
from numtx.functional.erf import tail_and_density

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715


def relu(x):
    """Rectified linear unit: y = max(x, 0), elementwise over any shape.

    The cache holds y, which is positive exactly where x is. Nair and Hinton (2010).

    Examples
    --------
    >>> relu(np.array([-1.0, 0.0, 2.0]))[0]
    array([0., 0., 2.])
    """
    floating("relu", x=x)
    y = np.maximum(x, 0)
    return y, (y,)


def relu_backward(dy, cache):
    """Return dx = dy where x > 0, else 0. At the kink x = 0 the derivative is taken as 0, as PyTorch does.

    Examples
    --------
    >>> relu_backward(np.array([5.0, 5.0]), relu(np.array([-1.0, 2.0]))[1])
    array([0., 5.])
    """
    (y,) = cache
    return dy * (y > 0)


def sigmoid(x):
    """Logistic sigmoid: y = 1 / (1 + exp(-x)), elementwise over any shape. The cache holds y.

    Examples
    --------
    >>> sigmoid(np.array([0.0, 1000.0]))[0]
    array([0.5, 1. ])
    """
    floating("sigmoid", x=x)
    y = np.empty(x.shape, x.dtype)
    with np.errstate(over="ignore"):
        for x_, y_ in blocks(x, y):
            write_sigmoid(x_, y_)
    return y, (y,)


def sigmoid_backward(dy, cache):
    """Return dx = dy · y (1 - y), from y = σ(x) and σ' = e⁻ˣ / (1 + e⁻ˣ)² = σ (1 - σ).

    Examples
    --------
    >>> sigmoid_backward(np.array([1.0]), sigmoid(np.array([0.0]))[1])
    array([0.25])
    """
    (y,) = cache
    dx = np.empty(y.shape, y.dtype)
    for dy_, y_, dx_ in blocks(dy, y, dx):
        np.subtract(1, y_, out=dx_)
        dx_ *= y_
        dx_ *= dy_
    return dx


def write_sigmoid(x, y):
    """Write σ(x) = 1 / (1 + e⁻ˣ) into y, both of one block: precise in both tails, and exactly 0 where e⁻ˣ is ∞."""
    np.negative(x, out=y)
    np.exp(y, out=y)
    y += 1
    np.divide(1, y, out=y)


def tanh(x):
    """Hyperbolic tangent, elementwise over any shape. The cache holds y.

    Examples
    --------
    >>> tanh(np.array([0.0]))[0]
    array([0.])
    """
    floating("tanh", x=x)
    y = np.tanh(x)
    return y, (y,)


def tanh_backward(dy, cache):
    """Return dx = dy · (1 - y²), from tanh = sinh / cosh and the quotient rule.

    Examples
    --------
    >>> tanh_backward(np.array([3.0]), tanh(np.array([0.0]))[1])
    array([3.])
    """
    (y,) = cache
    dx = np.empty(y.shape, y.dtype)
    for dy_, y_, dx_ in blocks(dy, y, dx):
        np.multiply(y_, y_, out=dx_)
        np.subtract(1, dx_, out=dx_)
        dx_ *= dy_
    return dx


def silu(x):
    """Sigmoid-weighted linear unit (swish): y = x σ(x), elementwise over any shape.

    The cache holds dy/dx alone, formed here, where σ(x) is at hand. Elfwing, Uchibe and Doya (2017), eq. 5;
    Ramachandran et al. (2017).

    Examples
    --------
    >>> silu(np.array([0.0, 100.0]))[0]
    array([  0., 100.])
    """
    floating("silu", x=x)
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    with np.errstate(over="ignore"):
        for x_, y_, s_, rest in blocks(x, y, slope, scratch=1):
            write_sigmoid(x_, s_)
            np.multiply(x_, s_, out=y_)
            np.subtract(1, s_, out=rest)
            rest *= y_
            s_ += rest  # σ + x σ (1 - σ)
    return y, (slope,)


def silu_backward(dy, cache):
    """Return dx = dy · (σ + x σ (1 - σ)): the product rule on x · σ(x), with σ' = σ (1 - σ). Forward formed it.

    Examples
    --------
    >>> silu_backward(np.array([1.0]), silu(np.array([0.0]))[1])
    array([0.5])
    """
    (slope,) = cache
    return dy * slope


def gelu(x):
    """Gaussian error linear unit, exact: y = x Φ(x), with Φ(x) = (1 + erf(x / √2)) / 2, over any shape.

    Computed as y = max(x, 0) - |x| Q(|x|), with the tail Q = 1 - Φ: the same number, since Φ(x) = Q(-x), and the small
    part alone is rounded before the last step. In float32 within 1e-7 max(1, |x|). `gelu_tanh` approximates it and
    differs by up to 5e-4: a checkpoint was trained with one of the two, and its config says which. The cache holds
    dy/dx alone, formed here, where the exponential is at hand. Hendrycks and Gimpel (2016), section 2.

    Examples
    --------
    >>> gelu(np.array([-1.0, 1.0]))[0].round(6)
    array([-0.158655,  0.841345])
    """
    floating("gelu", x=x)
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    with np.errstate(under="ignore"):
        for pieces in blocks(x, y, slope, scratch=3):
            gelu_and_slope(*pieces)
    return y, (slope,)


def gelu_backward(dy, cache):
    """Return dx = dy · (Φ(x) + x φ(x)), with the normal density φ = Φ' = exp(-x²/2) / √(2π).

    Derivation: the product rule on x · Φ(x). The second term is the one that is easily forgotten. Forward has formed
    the bracket.

    Examples
    --------
    >>> gelu_backward(np.array([1.0]), gelu(np.array([0.0]))[1])
    array([0.5])
    """
    (slope,) = cache
    return dy * slope


def gelu_and_slope(x, y, slope, a, tail, density):
    """Write gelu(x) and its derivative for one block; the last three arrays are for work."""
    bounded = np.clip(x, -40, 40, out=slope)  # beyond it tail and density are 0, and x² could overflow
    np.abs(bounded, out=a)
    tail_and_density(a, tail, density)
    a *= tail
    np.maximum(x, 0, out=y)
    y -= a  # max(x, 0) - |x| Q(|x|)
    slope *= density  # x φ(x)
    np.greater_equal(x, 0, out=a, casting="unsafe")
    a -= tail
    slope += np.abs(a, out=a)  # Φ(x): 1 - Q(|x|) to the right of 0, Q(|x|) to the left


def gelu_tanh(x):
    """GELU in its tanh form: y = x (1 + tanh u) / 2, with u = √(2/π) (x + 0.044715 x³), over any shape.

    GPT-2's `gelu_new` and PyTorch's `approximate="tanh"`. Computed as y = x σ(2u), since (1 + tanh u) / 2 = σ(2u),
    which keeps its relative precision where tanh u is near -1. The cache holds dy/dx alone, which is formed here, while
    x and σ(2u) are at hand: one array to keep instead of two. Hendrycks and Gimpel (2016), section 2.

    Examples
    --------
    >>> gelu_tanh(np.array([-1.0, 1.0]))[0].round(6)
    array([-0.158808,  0.841192])
    """
    floating("gelu_tanh", x=x)
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    with np.errstate(over="ignore"):  # a huge x³ or exp is ∞, and σ then exactly 0 or 1
        for x_, y_, s_ in blocks(x, y, slope):
            square = x_ * x_
            np.multiply(square, -2 * SQRT_2_OVER_PI * CUBIC, out=s_)
            s_ -= 2 * SQRT_2_OVER_PI
            s_ *= x_  # -2u
            np.exp(s_, out=s_)
            s_ += 1
            np.divide(1, s_, out=s_)  # s = σ(2u)
            np.multiply(x_, s_, out=y_)
            np.minimum(square, 100, out=square)  # beyond it s (1 - s) is 0, and x² could be ∞
            square *= 6 * SQRT_2_OVER_PI * CUBIC
            square += 2 * SQRT_2_OVER_PI  # 2u'
            square *= 1 - s_
            square *= y_
            s_ += square  # s + x s (1 - s) 2u'
    return y, (slope,)


def gelu_tanh_backward(dy, cache):
    """Return dx = dy · (s + x s (1 - s) 2u'), with s = σ(2u) and u' = √(2/π) (1 + 3 · 0.044715 x²).

    Derivation: the product rule on x · s; ds/dx = s (1 - s) 2u' by the chain rule, since σ' = σ (1 - σ). Forward has
    formed the bracket.

    Examples
    --------
    >>> gelu_tanh_backward(np.array([1.0]), gelu_tanh(np.array([0.0]))[1])
    array([0.5])
    """
    (slope,) = cache
    return dy * slope
