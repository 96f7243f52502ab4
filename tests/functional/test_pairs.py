"""Every op through the battery, driven by Hypothesis, in blocks of all sizes; and what small cases do not reach."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numtx import functional as F
from numtx.functional import blocks
from numtx.testing import SCALES, SPECS, Case, Drawer, Pair, Spec, battery, small_blocks
from numtx.testing.battery import outcome
from numtx.testing.findings import failures
from numtx.testing.mistakes.attention_textbook import Textbook

FUNCTIONAL = [spec for spec in SPECS.values() if hasattr(F, spec.name)]
ATTENTION = SPECS["scaled_dot_product_attention"]
names = pytest.mark.parametrize("spec", FUNCTIONAL, ids=lambda spec: spec.name)


def drawn(data: st.DataObject, spec: Spec) -> Case:
    """A case whose every size, choice and seed comes from Hypothesis."""
    small, scale = data.draw(st.booleans(), label="small"), data.draw(st.sampled_from(SCALES), label="scale")
    return spec.draw(Drawer(integer=lambda low, high: data.draw(st.integers(low, high)), small=small, scale=scale))


def accepted(spec: Spec, case: Case) -> None:
    failed = failures(battery(spec, case))
    assert not failed, "\n".join(f"{f.check} of {f.subject}: {f.note} ({f.error:.3g})" for f in failed)


@names
@settings(max_examples=2 * settings.default.max_examples)
@given(
    data=st.data(),
    sizes=st.none() | st.tuples(st.integers(1, 12), st.integers(1, 3), st.sampled_from((1, 10, 30, 100))),
)
def test_battery(spec, data, sizes):
    """Half of the cases in blocks smaller than the arrays: what is summed over blocks must be summed."""
    with nullcontext() if sizes is None else small_blocks(*sizes):
        accepted(spec, drawn(data, spec))


@names
@given(data=st.data())
def test_memory_order_does_not_matter(spec, data):
    """A transposed view, an array with gaps and a reversed one give what the contiguous array gives."""
    case = drawn(data, spec)
    views = {name: _another_order(value) for name, value in case.inputs.items()}
    contiguous, strided = outcome(spec, case), outcome(spec, case.with_inputs(views))
    assert contiguous.keys() == strided.keys()
    for name, value in contiguous.items():
        np.testing.assert_allclose(strided[name], value, rtol=1e-12, atol=1e-13, err_msg=name)


def _another_order(value):
    """The same numbers, axes stored last to first, every second place in memory, the last axis backwards."""
    if not isinstance(value, np.ndarray) or value.ndim == 0:
        return value
    stored = np.zeros((*value.shape[:0:-1], 2 * value.shape[0]), value.dtype)
    view = stored[..., ::2].T[..., ::-1]
    view[...] = value
    return view


@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"])
def test_large_arrays_equal_their_pieces(name):
    """What is done in blocks that fit the cache gives the same as piece by piece, at every place."""
    forward, backward = getattr(F, name), getattr(F, name + "_backward")
    numbers = np.random.default_rng(0)
    x, dy = numbers.standard_normal((2, 3, blocks.BLOCK - 5)).astype(np.float32)
    y, cache = forward(x)
    dx = backward(dy, cache)
    for n in range(0, x.size, 1000):
        piece = slice(n, n + 1000)
        y_piece, cache = forward(x.reshape(-1)[piece])
        np.testing.assert_allclose(y.reshape(-1)[piece], y_piece, rtol=1e-6, atol=1e-7)
        dx_piece = backward(dy.reshape(-1)[piece], cache)
        np.testing.assert_allclose(dx.reshape(-1)[piece], dx_piece, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_many_rows_equal_their_pieces(name):
    """The blocks at their real size: rows apart, and the gradients of the weights summed over them."""
    forward, backward = getattr(F, name), getattr(F, name + "_backward")
    numbers, width = np.random.default_rng(0), 48
    x, dy = numbers.standard_normal((2, 5 * blocks.BLOCK // (2 * width), width))
    weights = numbers.standard_normal((2 if name == "layer_norm" else 1, width))
    y, cache = forward(x, *weights)
    dx, *dweights = backward(dy, cache)
    summed = [0.0] * len(weights)
    for n in range(0, len(x), 100):
        y_piece, cache = forward(x[n : n + 100], *weights)
        dx_piece, *parts = backward(dy[n : n + 100], cache)
        np.testing.assert_allclose(y[n : n + 100], y_piece, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(dx[n : n + 100], dx_piece, rtol=1e-12, atol=1e-13)
        summed = [total + part for total, part in zip(summed, parts, strict=True)]
    for total, dweight in zip(summed, dweights, strict=True):
        np.testing.assert_allclose(dweight, total, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("window", [None, 5, 100])
@pytest.mark.parametrize(("tq", "tk"), [(150, 150), (70, 150), (150, 70)])
@pytest.mark.parametrize("causal", [True, False])
def test_long_attention_equals_the_textbook(causal, tq, tk, window):
    """Sequences longer than any block, against attention written out over the whole score matrix."""
    numbers = np.random.default_rng([tq, tk, window or 0])
    inputs = {
        "query": numbers.standard_normal((2, 2, tq, 4)),
        "key": numbers.standard_normal((2, 2, tk, 4)),
        "value": numbers.standard_normal((2, 2, tk, 3)),
        "bias": numbers.standard_normal((2, tq + tk - 1)),
    }
    mask = numbers.random((2, 1, 1, tk)) < 0.8
    settings = {"mask": mask, "causal": causal, "window": window, "scale": None, "dropout": 0.0, "rng": None}
    case = Case(inputs, settings)
    right = Textbook()
    ours, textbook = outcome(ATTENTION, case), outcome(ATTENTION, case, Pair(right.forward, right.backward))
    for name, value in textbook.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-9, atol=1e-11, err_msg=name)
