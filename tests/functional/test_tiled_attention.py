"""What the tiled form of attention promises besides its numbers: memory, skipped blocks, threads, dropout."""

import importlib
import tracemalloc

import numpy as np
import pytest

from numtx import functional as F
from numtx.functional.threads import get_num_threads, set_num_threads
from numtx.testing import small_blocks
from numtx.testing.mistakes.attention_textbook import Textbook

tiled = importlib.import_module("numtx.functional.tiled_attention")  # the package's attribute is the pair


def drawn(batch=1, heads=2, kv_heads=None, tq=9, tk=9, width=4, dtype=np.float64, scale=1.0, seed=0):
    numbers = np.random.default_rng(seed)
    kv_heads = heads if kv_heads is None else kv_heads
    shapes = (batch, heads, tq, width), (batch, kv_heads, tk, width), (batch, kv_heads, tk, width)
    query, key, value = (numbers.standard_normal(shape).astype(dtype) for shape in shapes)
    return scale * query, scale * key, value


def both_ways(arrays, **settings):
    """Result and gradients of the pair under a fixed incoming gradient."""
    y, cache = F.tiled_attention(*arrays, **settings)
    dy = np.cos(np.arange(y.size)).astype(y.dtype).reshape(y.shape)
    return [y, *(g for g in F.tiled_attention_backward(dy, cache) if g is not None)]


class GivenMask(Textbook):
    """The textbook's attention with what dropout keeps told."""

    def __init__(self, kept):
        self.kept = kept

    def draw(self, rng, shape, rate):
        return self.kept


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"causal": True, "window": 5}], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_with_dropout_it_equals_the_textbook_given_the_same_mask(kv_heads, settings, small):
    """Also in backward, which draws again: every block gets there what it had."""
    query, key, value = drawn(2, 4, kv_heads)
    rate, shape = 0.4, (2, 4, 9, 9)
    with small_blocks() if small else small_blocks(elements=96, queries=160):
        # Equal scores and one-hot values show what is kept.
        none, shown = np.zeros_like(key), np.broadcast_to(np.eye(9), (2, kv_heads, 9, 9))
        y, _ = F.tiled_attention(np.zeros_like(query), none, shown, dropout=rate, rng=np.random.default_rng(3))
        y_hidden, _ = F.tiled_attention(
            np.zeros_like(query), none, shown, dropout=rate, rng=np.random.default_rng(3), **settings
        )
        ours = both_ways((query, key, value), dropout=rate, rng=np.random.default_rng(3), **settings)
    right = GivenMask((y_hidden if settings else y) > 0)
    assert right.kept.shape == shape
    y, cache = right.forward(query, key, value, dropout=rate, **settings)
    dy = np.cos(np.arange(y.size)).reshape(y.shape)
    theirs = [y, *(g for g in right.backward(dy, cache) if g is not None)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_blocks_have_masks_of_their_own():
    """No two tiles, heads or rows of the batch drop the same weights."""
    with small_blocks(elements=8, queries=8):
        zeros, shown = np.zeros((2, 2, 32, 1)), np.broadcast_to(np.eye(32), (2, 2, 32, 32))
        y, _ = F.tiled_attention(zeros, zeros, shown, dropout=0.5, rng=np.random.default_rng(0))
    tiles = (y > 0).reshape(2, 2, 4, 8, 4, 8).swapaxes(3, 4).reshape(-1, 64)
    assert len(np.unique(tiles, axis=0)) == 2 * 2 * 4 * 4


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 1.0),
        ({"causal": True}, 0.6),
        ({"causal": True, "window": 8}, 0.3),
        ({"window": 8}, 0.45),
        ({"mask": (np.arange(64) < 32)[None, None, None]}, 0.5),
        ({"mask": np.kron(np.eye(4, dtype=bool), np.ones((16, 16), bool))[None, None]}, 0.25),
    ],
)
def test_what_the_mask_rules_out_is_not_computed(settings, share, monkeypatch):
    """Counted in scores that an exponential is taken of, in forward and in backward."""
    taken, right = [], tiled._exp2
    monkeypatch.setattr(tiled, "_exp2", lambda scores, deep: (taken.append(scores.size), right(scores, deep)))
    with small_blocks(elements=8, queries=8):
        both_ways(drawn(1, 1, tq=64, tk=64), **settings)
    assert 0 < sum(taken) / 2 <= share * 64 * 64


def peak(length, **settings):
    arrays = drawn(1, 1, tq=length, tk=length, width=16, dtype=np.float32)
    dy = np.ones_like(arrays[0])
    tracemalloc.start()
    _, cache = F.tiled_attention(*arrays, **settings)
    F.tiled_attention_backward(dy, cache)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize(
    "settings",
    [{"causal": True}, {"window": 100}, {"causal": True, "dropout": 0.1, "rng": np.random.default_rng(0)}],
    ids=["causal", "window", "dropout"],
)
def test_memory_grows_with_the_length_and_not_with_its_square(settings):
    """What is held at a time: so many bytes a token, and the tiles. A table of scores would be 64 MB."""
    short, long = peak(2048, **settings), peak(4096, **settings)
    assert long < 2.2 * short
    assert long < 4096 * 4096 * 4 / 3


def test_threads_change_no_bit(monkeypatch):
    monkeypatch.setattr(tiled, "WORTH", 1)
    before, results = get_num_threads(), []
    arrays = drawn(2, 4, 2, tq=40, tk=50, dtype=np.float32)
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            with small_blocks(elements=16, queries=16):
                rng = np.random.default_rng(5)
                results.append(both_ways(arrays, causal=True, dropout=0.2, rng=rng))
    finally:
        set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("settings", [{}, {"causal": True}], ids=str)
def test_small_scores_and_large_ones(settings, scale):
    """Some queries need a maximum, others do not, in one block: each row is the textbook's in float32 too."""
    query, key, value = drawn(1, 2, tq=200, tk=200, width=8, scale=scale)
    query[:, :, ::3] *= 1e-3
    arrays = [array.astype(np.float32) for array in (query, key, value)]
    (y, *gradients), wide = both_ways(arrays, **settings), [array.astype(np.float64) for array in arrays]
    right = Textbook()
    expected, cache = right.forward(*wide, **settings)
    dy = np.cos(np.arange(y.size)).reshape(y.shape)
    rounding = 1e-6 + 1e-6 * scale**2  # of a score
    np.testing.assert_allclose(y, expected, atol=4 * rounding)
    for ours, theirs in zip(gradients, right.backward(dy, cache), strict=False):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=10 * rounding * np.abs(theirs).max())


@pytest.mark.parametrize("bias", [(3, 16), (2, 3, 7, 10), (1, 3, 7, 1), (2, 1, 1, 10), (1, 1, 1, 1)])
@pytest.mark.parametrize(("keys", "queries"), [(4, 2), (3, 5)])
@pytest.mark.parametrize("settings", [{}, {"causal": True}, {"causal": True, "window": 4}], ids=str)
def test_a_bias_and_its_gradient_over_several_tiles(settings, keys, queries, bias):
    arrays = *drawn(2, 3, tq=7, tk=10), np.random.default_rng(1).standard_normal(bias)
    with small_blocks(elements=keys, queries=queries):
        ours = both_ways(arrays, **settings)
    right = Textbook()
    y, cache = right.forward(*arrays, **settings)
    theirs = [y, *right.backward(np.cos(np.arange(y.size)).reshape(y.shape), cache)]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("far", [0.1, 1.0, 1e3])
def test_a_huge_key_changes_no_bit_of_what_may_not_see_it(far):
    """A query's way through the exponentials, with a maximum or without, depends on the keys it sees."""
    query, key, value = drawn(1, 2, tq=12, tk=12)
    with small_blocks(elements=5, queries=6):
        tiled.FAR = far
        y, dquery, *_ = both_ways((query, key, value), causal=True)
        key = key.copy()
        key[:, :, 8] *= 1e3
        moved, dquery_moved, *_ = both_ways((query, key, value), causal=True)
    np.testing.assert_array_equal(moved[:, :, :8], y[:, :, :8])
    np.testing.assert_array_equal(dquery_moved[:, :, :8], dquery[:, :, :8])
    assert (moved[:, :, 8:] != y[:, :, 8:]).any()


@pytest.mark.parametrize("causal", [False, True])
def test_enormous_scores_stay_finite(causal):
    numbers = np.random.default_rng(0)
    arrays = [(1e4 * numbers.standard_normal((1, 1, 200, 64))).astype(np.float32) for _ in range(3)]
    assert all(np.isfinite(array).all() for array in both_ways(arrays, causal=causal))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_exponentials_far_down_give_is_zero(dtype):
    """Exactly, and without a detour over numbers too small to be held in full."""
    least = tiled.LEAST[np.dtype(dtype).itemsize]
    scores = np.array([0.0, 1.0, -30.0, least + 1, least, 4 * least, -np.inf], dtype)
    expected = np.exp2(scores)
    tiled._exp2(scores, True)
    np.testing.assert_allclose(scores[:3], expected[:3], rtol=1e-6)
    assert (scores[4:] == 0).all()
    assert scores[3] > 0


Q, K = np.ones((2, 4, 3, 2)), np.ones((2, 2, 5, 2))


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((Q[0], K, K), {}, "(4, 3, 2)"),
        ((Q, K[:1], K), {}, "(1, 2, 5, 2)"),
        ((Q[:, :3], K, K), {}, "3 heads"),
        ((Q, K.astype(np.float32), K), {}, "float32"),
        ((Q, K[:, :, :0], K[:, :, :0]), {}, "at least one"),
        ((Q, K, K, np.ones((4, 6))), {}, "(4, 7)"),
        ((Q, K, K), {"mask": np.ones((3, 5), bool)}, "(3, 5)"),
        ((Q, K, K), {"mask": np.ones((1, 1, 1, 5))}, "boolean"),
        ((Q, K, K), {"window": 0}, "window"),
        ((Q, K, K), {"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_input_is_refused_at_the_door(arguments, settings, said):
    with pytest.raises(ValueError, match=r"^tiled_attention: expected") as error:
        F.tiled_attention(*arguments, **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_rounding_of_what_is_saved_cannot_blow_up_a_weight():
    """Of scores near 1e9 the last bit is 64, and BLAS may sum them in another order in backward."""
    arrays = drawn(1, 1, tq=6, tk=6, dtype=np.float32, scale=200.0)
    y, cache = F.tiled_attention(*arrays)
    log_total = cache[-2]
    log_total -= 200
    assert all(np.isfinite(gradient).all() for gradient in F.tiled_attention_backward(y, cache)[:3])
