"""Exact GELU in float32, number by number: all magnitudes, the edges of the format, and what it rests on."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import special

from numtx import functional as F
from numtx.functional.erf import COEFFICIENTS, SHIFT, erf, tail_and_density
from numtx.testing import small_blocks

EPS = np.finfo(np.float32).eps


def sweep():
    """Float32 numbers from the subnormal ones to the largest, and many between 1/8 and 16, where curves bend.

    The integers that the bits make run through the numbers in order.
    """
    largest = np.float32(np.finfo(np.float32).max).view(np.int32)
    near = [np.float32(2.0**k).view(np.int32) + np.arange(0, 1 << 23, 61) for k in range(-3, 4)]
    bits = np.concatenate([np.arange(0, largest, 60_000), *near])
    positive = bits.astype(np.int32).view(np.float32)
    return np.concatenate([-positive[::-1], positive])


def exact(x):
    """Gelu and its derivative in float64, by SciPy's Φ, which is precise in both tails."""
    wide = np.clip(x.astype(np.float64), -100, None)  # far below it is 0, and x² overflows nothing
    share = special.ndtr(wide)
    density = np.exp(-0.5 * np.minimum(wide, 100) ** 2) / math.sqrt(2 * math.pi)
    return wide * share, share + np.minimum(wide, 100) * density


def test_gelu_over_all_magnitudes():
    x = sweep()
    with np.errstate(all="raise", under="ignore"):
        y, cache = F.gelu(x)
        dx = F.gelu_backward(np.ones_like(x), cache)
    wanted, slope = exact(x)
    assert y.dtype == dx.dtype == np.float32
    worst = np.abs(y - wanted) / np.maximum(1, np.abs(x.astype(np.float64)))
    assert worst.max() <= 1e-7, x[worst.argmax()]
    assert np.abs(dx - slope).max() <= 2e-7


def test_gelu_keeps_its_lower_tail():
    """1 + erf(x / √2) would round to 0 from -5.5 on, and be off by a tenth at -5."""
    x = -np.linspace(1, 8, 100_001, dtype=np.float32)
    wanted, slope = exact(x)
    y, cache = F.gelu(x)
    np.testing.assert_allclose(y, wanted, rtol=2e-3)
    np.testing.assert_allclose(F.gelu_backward(np.ones_like(x), cache)[x < -2], slope[x < -2], rtol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_at_the_edges(dtype):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([-np.inf, -huge, -0.0, 0.0, -2 * tiny, 2 * tiny, huge, np.inf, np.nan], dtype)
    with np.errstate(all="raise"):
        y, cache = F.gelu(x)
        dx = F.gelu_backward(np.ones_like(x), cache)
    np.testing.assert_array_equal(y, np.array([0, 0, 0, 0, -tiny, tiny, huge, np.inf, np.nan], dtype))
    np.testing.assert_array_equal(dx, np.array([0, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, np.nan], dtype))


def test_geglu_has_the_same_gate():
    x = sweep()
    x = x[np.abs(x) < 1e30]
    y, cache = F.geglu(x, np.full_like(x, 2))
    np.testing.assert_array_equal(y, 2 * F.gelu(x)[0])
    dgate, dup = F.geglu_backward(np.full_like(x, 0.5), cache)
    np.testing.assert_array_equal(dgate, F.gelu(x)[1][0])
    np.testing.assert_array_equal(dup, 0.5 * F.gelu(x)[0])


def test_erf_over_all_magnitudes():
    x = sweep()
    y = erf(x)
    assert y.dtype == np.float32
    assert np.abs(y - special.erf(x.astype(np.float64))).max() <= 1e-7
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    np.testing.assert_array_equal(
        erf(np.array([-np.inf, -0.0, np.inf, np.nan], np.float32)), np.array([-1, 0, 1, np.nan], np.float32)
    )


def test_erf_in_blocks_and_in_float64():
    x = np.random.default_rng(0).standard_normal((4, 5, 3))
    np.testing.assert_array_equal(erf(x), special.erf(x))
    whole = erf(x.astype(np.float32))
    with small_blocks(elements=7):
        np.testing.assert_array_equal(erf(x.astype(np.float32).T), whole.T)
    assert erf(np.float32(0.5)).shape == ()


def test_the_polynomial_is_as_good_as_its_docstring_says():
    """In float64, where rounding does not hide it: 1.8e-9 at most, and R(0) = 1/2 exactly."""
    a = np.linspace(0, 14, 1_000_001)
    u = a / (a + SHIFT)
    r = 0.5 - sum(c * u ** (k + 1) for k, c in enumerate(COEFFICIENTS))
    error = np.abs(np.exp(-a * a / 2) * r - special.ndtr(-a))
    assert 1e-9 < error.max() < 1.8e-9
    assert r[0] == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tail_and_density(dtype):
    a = np.linspace(0, 6, 1001).astype(dtype)
    tail, density = np.empty_like(a), np.empty_like(a)
    tail_and_density(a, tail, density)
    wide, ulps = a.astype(np.float64), 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(tail, special.ndtr(-wide), rtol=0, atol=ulps)
    np.testing.assert_allclose(density, np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi), rtol=0, atol=ulps)


def test_float32_needs_no_scipy():
    """Importing it takes longer than all of numtx."""
    code = (
        "import sys, numpy as np; from numtx import functional as F; x = np.ones(3, np.float32);"
        "F.gelu_backward(x, F.gelu(x)[1]); F.geglu_backward(x, F.geglu(x, x)[1]);"
        "sys.exit('scipy.special' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


REFERENCE = {
    "sigmoid": (special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "silu": (
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    ),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_others_over_all_magnitudes(name):
    """The value to its own last digits, tails included; the derivative, a sum, to those of 1.

    Silu's has x (1 - σ) in it, and near x = 16 the difference is a few last digits of 1.
    """
    x = sweep()
    with np.errstate(all="raise", under="ignore"):
        y, cache = getattr(F, name)(x)
        dx = getattr(F, name + "_backward")(np.ones_like(x), cache)
    value, slope = (f(x.astype(np.float64)) for f in REFERENCE[name])
    seen = np.abs(x) < 80 if name != "tanh" else slice(None)  # below it σ itself is under the normal numbers
    np.testing.assert_allclose(y[seen], value[seen], rtol=6 * EPS, atol=1e-37)
    np.testing.assert_allclose(y, value, rtol=6 * EPS, atol=1e-32)
    np.testing.assert_allclose(dx, slope, rtol=0, atol=(10 if name == "silu" else 6) * EPS)
