"""The normal distribution in float32: its tail and its density, of which exact GELU is made, and the error function.

SciPy's erf takes one number at a time, many times as long as an exponential; float64, which is for checking, keeps it.
In float32 the tail is an exponential times a polynomial:

    Q(a) = 1 - Φ(a) = erfc(a / √2) / 2 = exp(-a²/2) R(a)      R(a) ≈ 1/2 - (c₁u + c₂u² + ... + c₆u⁶)      a ≥ 0

R falls slowly from 1/2 to 0; in u = a / (a + 3.75), which runs from 0 to 1, a polynomial follows it. The coefficients
make the greatest error of Q over all a as small as six can, 1.8e-9, which is below what rounding adds. Hastings (1955),
sheets 43 to 45, and Abramowitz and Stegun (1964), 7.1.26, have this form with fewer terms: the latter is off by 1.5e-7.
"""

import math

import numpy as np

from numtx.functional.blocks import blocks
from numtx.functional.door import floating

SHIFT = 3.75
COEFFICIENTS = (1.4960333, -2.01957555, 1.47709901, -0.3690708, -0.22368649, 0.14449416)


def erf(x):
    """Return the error function erf(x) = 2/√π ∫₀ˣ exp(-t²) dt, elementwise over any shape. Not a pair.

    In float32 within 4e-8 of the exact value: the blocks are worked in float64, because 1 - 2 Q(√2 |x|), rounded at
    every step, would be off by 1.7e-7. `gelu` has no such difference to form and stays in float32.

    Examples
    --------
    >>> erf(np.array([-0.5, 0.0, 2.0], np.float32)).round(6)
    array([-0.5205  ,  0.      ,  0.995322], dtype=float32)
    """
    if floating("erf", x=x) == np.float64:
        return _special().erf(x)
    y = np.empty(x.shape, x.dtype)
    with np.errstate(under="ignore"):
        for x_, y_ in blocks(x, y):
            a = np.abs(x_, dtype=np.float64)
            np.minimum(a, 40, out=a)  # the tail is 0 long before, and ∞ / (∞ + 3.75) is no number
            a *= math.sqrt(2)
            u, tail = np.empty_like(a), np.empty_like(a)
            _polynomial(a, u, tail)
            np.subtract(0.5, tail, out=tail)
            a *= a
            a *= -0.5
            tail *= np.exp(a, out=a)
            tail *= -2
            tail += 1
            np.copysign(tail, x_, out=y_, casting="same_kind")
    return y


def tail_and_density(a, tail, density):
    """Write Q(a) = 1 - Φ(a) and φ(a) = exp(-a²/2) / √(2π) of finite a ≥ 0 into arrays of its shape."""
    if a.dtype == np.float64:
        np.multiply(a, math.sqrt(0.5), out=tail)
        _special().erfc(tail, out=tail)
        tail *= 0.5
    else:
        _polynomial(a, density, tail)
        np.subtract(0.5, tail, out=tail)  # R(a)
    np.multiply(a, a, out=density)
    density *= -0.5
    np.exp(density, out=density)
    if a.dtype != np.float64:
        tail *= density
    density *= 1 / math.sqrt(2 * math.pi)


def _polynomial(a, u, v):
    """Write c₁u + ... + c₆u⁶ into v, by Horner's rule; u is overwritten, and may be a."""
    np.divide(a, np.add(a, SHIFT, out=v), out=u)
    np.multiply(u, COEFFICIENTS[-1], out=v)
    for coefficient in COEFFICIENTS[-2::-1]:
        v += coefficient
        v *= u


def _special():
    from scipy import special  # here, because importing it takes longer than all of numtx

    return special
