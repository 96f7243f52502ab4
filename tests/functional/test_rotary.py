"""What a turn promises: lengths and distances stay, two layouts are one permutation apart, and tables are shared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx.testing import Drawer, small_blocks
from numtx.testing.specs.rotary import settings as draw_settings

LAYOUTS = ("half", "interleaved")
f32 = np.float32


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def from_halves(width):
    """Where number c of the interleaved layout stands in the half layout."""
    return np.arange(width).reshape(2, width // 2).T.ravel()


@given(data=st.data())
def test_scores_depend_on_the_distance_alone(data):
    drawer = Drawer(integer=lambda low, high: data.draw(st.integers(low, high)))
    settings = draw_settings(drawer, 8)
    shift = data.draw(st.integers(0, 50))
    query, key, positions = normal(2, 3, 4, 8), normal(2, 3, 5, 8, seed=1), np.array([3, 0, 9, 4, 1])

    def scores(later):
        q, _ = F.rotary(query, positions[:4] + later, **settings)
        k, _ = F.rotary(key, positions + later, **settings)
        return q @ k.swapaxes(-1, -2)

    np.testing.assert_allclose(scores(shift), scores(0), rtol=0, atol=1e-11)
    assert not np.allclose(scores(0), query @ key.swapaxes(-1, -2), atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_position_is_not_turned_and_no_length_changes(layout):
    x = normal(2, 2, 6, 8)
    y, _ = F.rotary(x, layout=layout)
    np.testing.assert_array_equal(y[:, :, 0], x[:, :, 0])
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-14)
    assert (np.abs(y - x)[:, :, 1:] > 1e-6).any(axis=-1).all()


@pytest.mark.parametrize("width", [None, 4])
def test_the_layouts_are_one_permutation_of_columns_apart(width):
    x, turned = normal(2, 2, 5, 8), np.arange(8)
    turned[: width or 8] = from_halves(width or 8)  # interleaved number c is number turned[c] of the half layout
    half, _ = F.rotary(x, layout="half", width=width)
    interleaved, _ = F.rotary(np.ascontiguousarray(x[..., turned]), layout="interleaved", width=width)
    np.testing.assert_array_equal(half[..., turned], interleaved)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sequence_in_two_pieces_is_the_same(layout):
    x = normal(2, 3, 7, 4)
    whole, _ = F.rotary(x, layout=layout)
    old, _ = F.rotary(x[:, :, :4], layout=layout)
    new, _ = F.rotary(x[:, :, 4:], np.arange(4, 7), layout=layout)
    np.testing.assert_array_equal(np.concatenate([old, new], axis=2), whole)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [None, 2])
def test_any_memory_order(layout, width):
    """Heads are views of (B, T, C) as a rule; a stride in the last axis, or Fortran's order, is rarer."""
    x, dy = normal(2, 3, 4, 6), normal(2, 3, 4, 6, seed=1)
    y, cache = F.rotary(x, layout=layout, width=width)
    dx = F.rotary_backward(dy, cache)

    def as_heads(a):
        return np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)

    def every_second(a):
        return np.repeat(a, 2, axis=-1)[..., ::2]

    for order in (as_heads, every_second, np.asfortranarray):
        y_, cache_ = F.rotary(order(x), layout=layout, width=width)
        np.testing.assert_array_equal(y_, y)
        np.testing.assert_array_equal(F.rotary_backward(order(dy), cache_), dx)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", [None, np.array([[0, 1, 2], [5, 6, 7], [0, 0, 1]])])
def test_blocks_of_any_size(layout, positions):
    x, dy = normal(3, 2, 3, 4), normal(3, 2, 3, 4, seed=1)
    y, cache = F.rotary(x, positions, layout=layout)
    for elements in (1, 30, 50):
        with small_blocks(elements=elements):
            y_, cache_ = F.rotary(x, positions, layout=layout)
            np.testing.assert_array_equal(y_, y)
            np.testing.assert_array_equal(F.rotary_backward(dy, cache_), F.rotary_backward(dy, cache))


def test_tables_are_shared_and_cannot_be_changed():
    x = normal(1, 1, 3, 4)
    first, second = F.rotary(x, layout="half")[1], F.rotary(2 * x, np.arange(3), layout="interleaved")[1]
    assert first[0] is second[0]
    with pytest.raises(ValueError, match="read-only"):
        first[0][0] = 0
    assert F.rotary(x, layout="half", base=100.0)[1][0] is not first[0]
    assert F.rotary(x.astype(f32), layout="half")[1][0].dtype == np.complex64


@pytest.mark.parametrize("kind", [np.int32, np.uint8, np.uint64, np.int64])
def test_positions_of_any_integer_type(kind):
    x = normal(2, 1, 3, 4)
    positions = np.array([[3, 200, 0], [1, 1, 255]])
    y, _ = F.rotary(x, positions.astype(kind), layout="half")
    np.testing.assert_array_equal(y, F.rotary(x, positions, layout="half")[0])


def test_default_scaling_is_none():
    expected = F.rotary_frequencies(8)
    for name in ("rope_type", "type"):
        np.testing.assert_array_equal(F.rotary_frequencies(8, scaling={name: "default"}), expected)


def test_llama3_scaling_in_numbers():
    """Llama 3.1's own: the first pairs as they are, the last divided by 8, the band between them in between."""
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    plain = F.rotary_frequencies(128, base=500000.0, dtype=np.float64)
    ratio = plain / F.rotary_frequencies(128, base=500000.0, scaling=scaling, dtype=np.float64)
    np.testing.assert_allclose(ratio[:29], 1, rtol=1e-12)
    assert np.all((ratio[29:35] > 1) & (ratio[29:35] < 8))
    np.testing.assert_allclose(ratio[35:], 8, rtol=1e-12)
    assert np.all(np.diff(ratio) >= -1e-12)


X = np.ones((2, 3, 4, 6))
GOOD = {"layout": "half"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BAD = {
    "three axes": (X[0], {}, ["(B, H, T, D)", "(3, 4, 6)"]),
    "integers": (X.astype(int), {}, ["int64"]),
    "list": (X.tolist(), {}, ["list"]),
    "odd head": (X[..., :5], {}, ["even", "5"]),
    "odd width": (X, {"width": 3}, ["even", "3"]),
    "no width": (X, {"width": 0}, ["width", "0"]),
    "width beyond the head": (X, {"width": 8}, ["6", "8"]),
    "layout": (X, {"layout": "halves"}, ["'half'", "'interleaved'", "'halves'"]),
    "base": (X, {"base": 0.0}, ["base", "0.0"]),
    "base that is no number": (X, {"base": "10000"}, ["base", "'10000'"]),
    "infinite base": (X, {"base": np.inf}, ["base", "inf"]),
    "negative position": (X, {"positions": np.array([0, -1, 2, 3])}, ["-1"]),
    "too few positions": (X, {"positions": np.arange(3)}, ["(3,)", "(2, 3, 4, 6)"]),
    "positions by head": (X, {"positions": np.zeros((3, 4), int)}, ["(3, 4)"]),
    "floating positions": (X, {"positions": np.arange(4.0)}, ["float64"]),
    "one position": (X, {"positions": np.array(3)}, ["()"]),
    "scaling by number": (X, {"scaling": 2.0}, ["dict", "float"]),
    "scaling unknown": (X, {"scaling": {"rope_type": "yarn", "factor": 2.0}}, ["'linear'", "'llama3'", "'yarn'"]),
    "scaling of no type": (X, {"scaling": {"factor": 2.0}}, ["rope_type", "[]"]),
    "scaling of two types": (X, {"scaling": {"rope_type": "linear", "type": "llama3", "factor": 2.0}}, ["llama3"]),
    "scaling without factor": (X, {"scaling": {"rope_type": "linear"}}, ["factor"]),
    "scaling with more": (X, {"scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1.0}}, ["beta"]),
    "scaling by zero": (X, {"scaling": {"rope_type": "linear", "factor": 0.0}}, ["above 0", "0.0"]),
    "llama3 incomplete": (X, {"scaling": LLAMA3}, ["original_max_position_embeddings"]),
    "llama3 turned round": (
        X,
        {"scaling": {**LLAMA3, "low_freq_factor": 4.0, "original_max_position_embeddings": 64}},
        ["low_freq_factor under high_freq_factor"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_refused_in_one_line(what):
    x, settings, words = BAD[what]
    with pytest.raises(ValueError, match=r"^rotary: ") as raised:
        F.rotary(x, **{**GOOD, **settings})
    line = str(raised.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def test_the_layout_has_no_default():
    with pytest.raises(TypeError, match="layout"):
        F.rotary(X)


@pytest.mark.parametrize("width", [3, 0, 2.0])
def test_frequencies_of_a_width_that_cannot_be(width):
    with pytest.raises(ValueError, match=r"^rotary_frequencies: expected [^\n]*width[^\n]*$"):
        F.rotary_frequencies(width)


def test_no_tokens_are_no_error():
    for layout in LAYOUTS:
        y, cache = F.rotary(X[:, :, :0], layout=layout)
        assert y.shape == F.rotary_backward(y, cache).shape == (2, 3, 0, 6)
        assert F.rotary(X[:0], layout=layout)[0].shape == (0, 3, 4, 6)
