"""Gated linear units: one half of a hidden layer decides, after an activation, how much of the other half passes.

y = a(gate) · up, with the sigmoid (glu), the two forms of gelu (geglu, geglu_tanh) or silu (swiglu) for a.
"""

from collections.abc import Callable

import numpy as np

from numtx.functional.activations import CUBIC, SQRT_2_OVER_PI, gelu_and_slope, write_sigmoid
from numtx.functional.blocks import blocks
from numtx.functional.door import floating


def glu(gate, up):
    """Gated linear unit: y = σ(gate) · up, elementwise over two arrays of one shape.

    PyTorch's `F.glu(x)` takes both as halves of one array, the gate second: glu(gate, up) is its glu of [up, gate].
    The cache refers to the two inputs, and σ is computed again in backward, which costs less than keeping it.
    Dauphin et al. (2017), eq. 1; Shazeer (2020), eq. 4.

    Examples
    --------
    >>> glu(np.array([0.0, 1000.0]), np.array([2.0, 3.0]))[0]
    array([1., 3.])
    """
    return _gated("glu", gate, up, _sigmoid)


def glu_backward(dy, cache):
    """Return (dgate, dup).

    Derivation: y is a product, and each factor receives dy times the other; σ' = σ (1 - σ):

        dup   = dy σ(gate)
        dgate = dy up σ(gate) (1 - σ(gate))

    Examples
    --------
    >>> glu_backward(np.array([1.0]), glu(np.array([0.0]), np.array([2.0]))[1])
    (array([0.5]), array([0.5]))
    """
    return _gated_backward(dy, cache, _sigmoid_and_slope)


def swiglu(gate, up):
    """SiLU-gated linear unit: y = silu(gate) · up = gate σ(gate) · up, over two arrays of one shape.

    What Llama's feed-forward network has, down(silu(gate(x)) · up(x)). The cache refers to the two inputs.
    Shazeer (2020), eq. 5, with Swish_1 = silu.

    Examples
    --------
    >>> swiglu(np.array([0.0, 100.0]), np.array([2.0, 3.0]))[0]
    array([  0., 300.])
    """
    return _gated("swiglu", gate, up, lambda g: g * _sigmoid(g))


def swiglu_backward(dy, cache):
    """Return (dgate, dup).

    Derivation: y is a product, and each factor receives dy times the other; with s = σ(gate) and a = gate s,
    a' = s + gate s (1 - s) by the product rule:

        dup   = dy a
        dgate = dy up (s + a (1 - s))

    Examples
    --------
    >>> swiglu_backward(np.array([1.0]), swiglu(np.array([0.0]), np.array([2.0]))[1])
    (array([1.]), array([0.]))
    """
    return _gated_backward(dy, cache, _silu_and_slope)


def geglu_tanh(gate, up):
    """GELU-gated linear unit, tanh form: y = gelu_tanh(gate) · up, over two arrays of one shape.

    T5 1.1's and Flan-T5's `gated-gelu`, which is this form and not the exact one. The cache refers to the two inputs.
    Shazeer (2020), eq. 5.

    Examples
    --------
    >>> geglu_tanh(np.array([1.0]), np.array([2.0]))[0].round(6)
    array([1.682384])
    """
    return _gated("geglu_tanh", gate, up, lambda g: g * _gelu_tanh_share(g))


def geglu_tanh_backward(dy, cache):
    """Return (dgate, dup).

    Derivation: y is a product, and each factor receives dy times the other; with s = σ(2u), u = √(2/π) (g + 0.044715
    g³) and a = gate s, a' = s + a (1 - s) 2u' (see gelu_tanh):

        dup   = dy a
        dgate = dy up (s + a (1 - s) 2u')

    Examples
    --------
    >>> geglu_tanh_backward(np.array([1.0]), geglu_tanh(np.array([0.0]), np.array([2.0]))[1])
    (array([1.]), array([0.]))
    """
    return _gated_backward(dy, cache, _gelu_tanh_and_slope)


def geglu(gate, up):
    """GELU-gated linear unit, exact: y = gelu(gate) · up = gate Φ(gate) · up, over two arrays of one shape.

    `geglu_tanh` differs from it by up to 5e-4 times up: a checkpoint was trained with one of the two. The cache refers
    to the two inputs. Shazeer (2020), eq. 5.

    Examples
    --------
    >>> geglu(np.array([1.0]), np.array([2.0]))[0].round(6)
    array([1.682689])
    """
    return _gated("geglu", gate, up, lambda g: _gelu_and_slope(g)[0])


def geglu_backward(dy, cache):
    """Return (dgate, dup).

    Derivation: y is a product, and each factor receives dy times the other; gelu' = Φ + g φ(g) by the product rule,
    with the normal density φ = Φ' = exp(-g²/2) / √(2π):

        dup   = dy gate Φ(gate)
        dgate = dy up (Φ(gate) + gate φ(gate))

    Examples
    --------
    >>> geglu_backward(np.array([1.0]), geglu(np.array([0.0]), np.array([2.0]))[1])
    (array([1.]), array([0.]))
    """
    return _gated_backward(dy, cache, _gelu_and_slope)


def _gated(op: str, gate, up, activation: Callable):
    """y = a(gate) · up, block by block; `activation` gives a as a new array."""
    _check(op, gate, up)
    y = np.empty(gate.shape, gate.dtype)
    with np.errstate(over="ignore", under="ignore"):  # a huge exp is ∞, and σ then exactly 0
        for g, u, y_ in blocks(gate, up, y):
            np.multiply(activation(g), u, out=y_)
    return y, (gate, up)


def _gated_backward(dy, cache, activation_and_slope: Callable):
    """dup = dy a and dgate = dy up a', block by block; `activation_and_slope` gives a and a' as new arrays."""
    gate, up = cache
    dgate, dup = np.empty(gate.shape, gate.dtype), np.empty(gate.shape, gate.dtype)
    with np.errstate(over="ignore", under="ignore"):
        for g, u, dy_, dg, du in blocks(gate, up, dy, dgate, dup):
            a, slope = activation_and_slope(g)
            np.multiply(dy_, a, out=du)
            np.multiply(dy_, u, out=dg)
            dg *= slope
    return dgate, dup


def _sigmoid(x):
    s = np.empty_like(x)
    write_sigmoid(x, s)
    return s


def _sigmoid_and_slope(g):
    s = _sigmoid(g)
    slope = 1 - s
    slope *= s
    return s, slope


def _silu_and_slope(g):
    s = _sigmoid(g)
    a = g * s
    slope = 1 - s
    slope *= a
    slope += s
    return a, slope


def _gelu_and_slope(g):
    arrays = [np.empty_like(g) for _ in range(5)]
    gelu_and_slope(g, *arrays)
    return arrays[0], arrays[1]


def _gelu_tanh_share(g):
    """σ(2u) = (1 + tanh u) / 2: how much of g the activation lets through."""
    u = g * g
    u *= 2 * SQRT_2_OVER_PI * CUBIC
    u += 2 * SQRT_2_OVER_PI
    u *= g  # 2u
    return _sigmoid(u)


def _gelu_tanh_and_slope(g):
    s = _gelu_tanh_share(g)
    a = g * s
    bounded = np.clip(g, -10, 10)  # beyond it s (1 - s) is 0, and g³ could overflow
    slope = bounded * bounded
    slope *= 6 * CUBIC * SQRT_2_OVER_PI
    slope += 2 * SQRT_2_OVER_PI  # 2u'
    slope *= bounded
    slope *= 1 - s
    slope += 1
    slope *= s  # s + g s (1 - s) 2u'
    return a, slope


def _check(op, gate, up):
    floating(op, gate=gate, up=up)
    if gate.shape != up.shape:
        raise ValueError(f"{op}: expected gate and up of one shape, got {gate.shape} and {up.shape}")
