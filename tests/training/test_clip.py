"""The global norm and clipping by it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.training import FlatParameters, Workers, clip_grad_norm, gradient_norm
from numtx.training.clip import BLOCK


def tree(seed=0, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "a": {"weight": (scale * rng.standard_normal((7, 5))).astype(dtype)},
        "b": {"weight": (scale * rng.standard_normal((4, 6))).astype(dtype).T, "bias": np.full(3, scale, dtype)},
    }


def norm_of(grads):
    return math.sqrt(math.fsum(float(g) ** 2 for array in nn.flatten(grads).values() for g in array.ravel()))


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e25]), limit=st.floats(1e-3, 1e3))
def test_clipped_to_the_limit_and_never_scaled_up(seed, scale, limit):
    grads = tree(seed, scale)
    before = {name: array.copy() for name, array in nn.flatten(grads).items()}
    expected = norm_of(grads)
    norm = clip_grad_norm(grads, limit)
    assert norm == pytest.approx(expected, rel=1e-12)
    for name, array in nn.flatten(grads).items():
        assert array is not before[name]
        factor = min(1, limit / (expected + 1e-6))
        np.testing.assert_allclose(array, before[name] * factor, rtol=3e-7)


def test_nothing_is_touched_at_the_limit():
    grads = {"w": np.array([3.0, 4.0])}
    assert clip_grad_norm(grads, 5.0 + 1e-6) == 5
    np.testing.assert_array_equal(grads["w"], [3, 4])


def test_squares_beyond_float32_are_no_matter():
    assert gradient_norm({"w": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30, rel=1e-6)
    assert gradient_norm({"w": np.full(4, 1e-30, np.float32)}) == pytest.approx(2e-30, rel=1e-6)


def test_a_long_sum_is_accurate():
    ones = np.ones(3 * 16 * BLOCK + 17, np.float32)  # a float32 sum of squares stops at 2**24
    ones *= np.float32(0.1)
    exact = math.sqrt(ones.size) * float(np.float32(0.1))
    assert gradient_norm(ones) == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads, worth_threads):
    array = np.random.default_rng(0).standard_normal(2 * 16 * BLOCK + BLOCK + 5).astype(np.float32)
    alone, together = array.copy(), array.copy()
    norm = clip_grad_norm(alone, 1.0)
    with Workers(threads) as workers:
        assert clip_grad_norm(together, 1.0, workers=workers) == norm
    np.testing.assert_array_equal(alone, together)
    assert gradient_norm(alone) == pytest.approx(1, rel=1e-6)


def test_flat_gradients_and_their_tree_have_one_norm():
    flat = FlatParameters(nn.FeedForward(6, 10, "relu", rng=0))
    gradients = flat.gradients()
    rng = np.random.default_rng(0)
    grads = nn.unflatten({n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in flat.views.items()})
    gradients.assign(grads)
    assert clip_grad_norm(gradients, 0.5) == pytest.approx(clip_grad_norm(grads, 0.5), rel=1e-12)
    for name, array in nn.flatten(grads).items():
        np.testing.assert_array_equal(gradients.views[name], array)


def test_a_norm_beyond_float64_is_infinite():
    assert gradient_norm({"w": np.full(4, 1e200)}) == math.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told_and_left(bad):
    grads = {"w": np.array([10.0, bad], np.float32)}
    assert not math.isfinite(clip_grad_norm(grads, 1.0))
    np.testing.assert_array_equal(grads["w"], [10, bad])


def test_an_array_at_two_names_counts_twice_and_is_scaled_once():
    shared = np.array([3.0, 4.0])
    assert clip_grad_norm({"a": shared, "b": shared}, 1.0) == pytest.approx(math.sqrt(50))
    np.testing.assert_allclose(shared, np.array([3, 4]) / (math.sqrt(50) + 1e-6))


def test_bad_input():
    with pytest.raises(ValueError, match="clip_grad_norm: expected a positive max_norm, got 0"):
        clip_grad_norm({"w": np.ones(2)}, 0)
    with pytest.raises(ValueError, match="got a strided array"):
        clip_grad_norm({"w": np.ones((4, 4))[::2, ::2]}, 1.0)
