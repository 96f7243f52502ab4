"""Gated units: halves of one array, large arrays, wide-open gates, and what is refused."""

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional import blocks

UNITS = {"glu": F.sigmoid, "geglu": F.gelu, "geglu_tanh": F.gelu_tanh, "swiglu": F.silu}
each = pytest.mark.parametrize("name", UNITS)


def pair(name):
    return getattr(F, name), getattr(F, f"{name}_backward")


@each
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_unit_is_the_activation_times_up(name, dtype):
    """At the real size of the blocks, the last one not full: the composition of the activation's own pair."""
    forward, backward = pair(name)
    numbers = np.random.default_rng(0)
    gate, up, dy = (numbers.standard_normal((3, 3, blocks.BLOCK // 7)).astype(dtype) for _ in range(3))
    y, cache = forward(gate, up)
    dgate, dup = backward(dy, cache)
    a, act = UNITS[name](gate)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    np.testing.assert_allclose(y, a * up, **tolerance)
    np.testing.assert_allclose(dup, dy * a, **tolerance)
    np.testing.assert_allclose(dgate, getattr(F, f"{UNITS[name].__name__}_backward")(dy * up, act), **tolerance)
    assert y.dtype == dgate.dtype == dup.dtype == dtype


@each
def test_halves_of_one_array(name):
    """What one product made for both: the halves are views, and give what copies give."""
    forward, backward = pair(name)
    both, dy = np.random.default_rng(1).standard_normal((2, 5, 12)), np.ones((2, 5, 6))
    gate, up = np.split(both, 2, axis=-1)
    y, cache = forward(gate, up)
    y_copy, cache_copy = forward(gate.copy(), up.copy())
    np.testing.assert_array_equal(y, y_copy)
    for view, copy in zip(backward(dy, cache), backward(dy, cache_copy), strict=True):
        np.testing.assert_array_equal(view, copy)


@each
def test_gates_far_out(name):
    """Shut or wide open, whatever the size, in float32, and nothing warns."""
    forward, backward = pair(name)
    gate, up = np.array([-1e30, -1e4, -90, 0, 90, 1e4], np.float32), np.full(6, 2.0, np.float32)
    y, cache = forward(gate, up)
    dgate, dup = backward(np.ones_like(y), cache)
    opened = np.array([1, 1], np.float32) if name == "glu" else gate[4:]
    np.testing.assert_allclose(y[:3], 0, atol=1e-30)
    np.testing.assert_allclose(y[4:], 2 * opened, rtol=1e-6)
    np.testing.assert_allclose(dup[4:], opened, rtol=1e-6)
    np.testing.assert_allclose(dgate[[0, 1, 2, 4, 5]], [0, 0, 0, *[0 if name == "glu" else 2] * 2], atol=1e-30)


@each
def test_no_rows_are_no_error(name):
    forward, backward = pair(name)
    y, cache = forward(np.ones((0, 3)), np.ones((0, 3)))
    assert y.shape == (0, 3)
    assert [d.shape for d in backward(y, cache)] == [(0, 3)] * 2


@each
def test_nothing_but_the_inputs_is_kept(name):
    gate, up = np.ones((2, 3)), np.ones((2, 3))
    _, cache = pair(name)[0](gate, up)
    assert cache[0] is gate
    assert cache[1] is up
    assert len(cache) == 2


X = np.ones((2, 3))
BAD = {
    "shapes": ((X, X[:1]), ["gate and up of one shape", "(2, 3) and (1, 3)"]),
    "a number for up": ((X, np.float64(2.0)), ["(2, 3) and ()"]),
    "dtypes": ((X, X.astype(np.float32)), ["gate float64 and up float32"]),
    "integers": ((X.astype(int), X), ["gate", "int64"]),
    "list": ((X, X.tolist()), ["up", "list"]),
}


@each
@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(name, what):
    arguments, words = BAD[what]
    with pytest.raises(ValueError, match=rf"^{name}: expected [^\n]*$") as raised:
        getattr(F, name)(*arguments)
    for word in words:
        assert word in str(raised.value)
