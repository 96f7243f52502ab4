"""Positions: for the whole batch or for each row, counted from zero or given, and refused where there is no row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn

LENGTH, WIDTH = 9, 4


def table_of(module):
    if isinstance(module, nn.LearnedPositions):
        return module.weight
    return F.sinusoidal_positions(LENGTH, WIDTH, layout=module.layout, dtype=np.float64)


@pytest.fixture(params=["learned", "interleaved", "half"], scope="module")
def module(request):
    if request.param == "learned":
        return nn.LearnedPositions(LENGTH, WIDTH, rng=0, dtype=np.float64)
    return nn.SinusoidalPositions(WIDTH, layout=request.param)


X = np.random.default_rng(0).normal(size=(2, 3, WIDTH))


def test_default_positions_count_from_zero(module):
    np.testing.assert_array_equal(module(X), X + table_of(module)[:3])


@given(data=st.data(), by_row=st.booleans(), kind=st.sampled_from([np.int64, np.int32, np.uint8]))
def test_each_token_gets_the_row_of_its_position(module, data, by_row, kind):
    shape = (2, 3) if by_row else (3,)
    size = int(np.prod(shape))
    drawn = data.draw(st.lists(st.integers(0, LENGTH - 1), min_size=size, max_size=size))
    positions = np.array(drawn, kind).reshape(shape)
    y, cache = module.forward(X, positions=positions)
    expected, gradient = X.copy(), np.zeros((LENGTH, WIDTH))
    dy = np.random.default_rng(1).normal(size=X.shape)
    for b in range(2):
        for t in range(3):
            position = int(positions[b, t] if by_row else positions[t])
            expected[b, t] += table_of(module)[position]
            gradient[position] += dy[b, t]
    np.testing.assert_allclose(y, expected, rtol=1e-14)
    dx, grads = module.backward(dy, cache)
    np.testing.assert_array_equal(dx, dy)
    if isinstance(module, nn.LearnedPositions):
        np.testing.assert_allclose(grads["weight"], gradient, rtol=1e-13, atol=1e-15)
    else:
        assert grads == {}


@given(batch=st.integers(1, 3), length=st.integers(1, 5))
def test_one_row_for_all_equals_the_same_row_for_each(module, batch, length):
    x = np.random.default_rng(batch).normal(size=(batch, length, WIDTH))
    positions = np.random.default_rng(length).integers(0, LENGTH, length)
    y, cache = module.forward(x, positions=positions)
    y_each, cache_each = module.forward(x, positions=np.tile(positions, (batch, 1)))
    np.testing.assert_array_equal(y, y_each)
    grads, grads_each = module.backward(x, cache)[1], module.backward(x, cache_each)[1]
    for name in grads:
        np.testing.assert_allclose(grads[name], grads_each[name], rtol=1e-13, atol=1e-15)


def test_the_inputs_dtype_is_kept():
    x = X.astype(np.float32)
    assert nn.LearnedPositions(LENGTH, WIDTH, rng=0)(x).dtype == np.float32
    assert nn.SinusoidalPositions(WIDTH)(x).dtype == np.float32


def test_the_input_is_not_changed(module):
    x = X.copy()
    module(x)
    np.testing.assert_array_equal(x, X)


POSITIONS = {
    "negative": (np.array([0, -1, 2]), "got -1"),
    "floats": (np.array([0.0, 1.0, 2.0]), "integer positions .*got float64 .*"),
    "truths": (np.array([True, False, True]), "integer positions .*got bool .*"),
    "too few": (np.array([0, 1]), r"got int64 \(2,\)"),
    "a row for the batch": (np.array([[0, 1, 2]]), r"got int64 \(1, 3\)"),
    "a column": (np.array([[0], [1]]), r"got int64 \(2, 1\)"),
    "one number": (np.array(1), r"got int64 \(\)"),
}


@pytest.mark.parametrize(("positions", "message"), POSITIONS.values(), ids=POSITIONS)
def test_positions_that_cannot_be_are_refused(module, positions, message):
    with pytest.raises(ValueError, match=rf"^(Learned|Sinusoidal)Positions: expected [^\n]*{message}$"):
        module(X, positions=positions)


@pytest.mark.parametrize("positions", [np.array([0, 1, LENGTH]), np.array([[0, 1, 2], [7, 8, 9]]), None])
def test_learned_positions_end(positions):
    module = nn.LearnedPositions(LENGTH, WIDTH, rng=0)
    x = np.zeros((2, 3 if positions is not None else LENGTH + 1, WIDTH), np.float32)
    with pytest.raises(ValueError, match=r"^LearnedPositions: expected positions [^\n]*, got 9$"):
        module(x, positions=positions)


def test_sinusoids_go_on_without_end():
    y = nn.SinusoidalPositions(WIDTH)(np.zeros((1, 1, WIDTH)), positions=np.array([5000]))
    np.testing.assert_allclose(y[0, 0], [np.sin(5000), np.cos(5000), np.sin(50), np.cos(50)], rtol=1e-9)


INPUTS = {
    "one axis": np.zeros(WIDTH),
    "two axes": np.zeros((WIDTH, WIDTH)),
    "four axes": np.zeros((1, 2, 2, WIDTH)),
    "a width that would broadcast": np.zeros((2, 3, 1)),
    "another width": np.zeros((2, 3, WIDTH + 2)),
    "integers": np.zeros((2, 3, WIDTH), int),
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
def test_inputs_that_are_not_of_this_width_are_refused(module, x):
    with pytest.raises(ValueError, match=r"^(Learned|Sinusoidal)Positions: expected [^\n]*$"):
        module(x)


def test_learned_positions_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"^LearnedPositions: expected [^\n]*dtype[^\n]*$"):
        nn.LearnedPositions(LENGTH, WIDTH, rng=0, dtype=np.float64)(X.astype(np.float32))


def test_a_table_of_width_one_does_not_broadcast():
    with pytest.raises(ValueError, match=r"^LearnedPositions: expected [^\n]*$"):
        nn.LearnedPositions(LENGTH, 1, rng=0, dtype=np.float64)(X)
