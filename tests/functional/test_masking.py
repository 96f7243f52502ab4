"""What a mask promises, as properties: nothing hidden is ever seen, and nothing else changes."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx.testing import Case, Drawer, small_blocks
from numtx.testing.specs.attention import by_some, visible
from numtx.testing.specs.attention import draw as draw_attention

POISONS = (-7.5, 1e30, np.nan, np.inf, -np.inf)


@pytest.fixture(autouse=True, scope="module", params=["textbook", "tiled", "in small tiles"])
def form(request):
    """Both forms are held to all of this."""
    global PAIR
    name = "scaled_dot_product_attention" if request.param == "textbook" else "tiled_attention"
    PAIR = getattr(F, name), getattr(F, name + "_backward")
    with small_blocks() if "small" in request.param else nullcontext():
        yield


def drawer(data: st.DataObject) -> Drawer:
    return Drawer(integer=lambda low, high: data.draw(st.integers(low, high)))


def drawn(data: st.DataObject) -> tuple[Case, np.ndarray]:
    """A case of attention without dropout, and which key each query may see, (B, H, Tq, Tk)."""
    case = draw_attention(drawer(data)).with_settings(rng=None)
    shape = (*case.inputs["query"].shape[:3], case.inputs["key"].shape[2])
    return case, visible(shape, *(case.settings[name] for name in ("mask", "causal", "window")))


def run(case: Case, dy: np.ndarray | None = None):
    """Result and gradients; dy is random unless given."""
    forward, backward = PAIR
    y, cache = forward(**case.keywords())
    if dy is None:
        dy = np.random.default_rng(0).standard_normal(y.shape)
    return y, dict(zip(case.inputs, backward(dy, cache), strict=True))


def attend(query, key, value, dy=None, **settings):
    """As `run`, from arrays."""
    return run(Case({"query": query, "key": key, "value": value, "bias": None}, settings), dy)


@given(data=st.data(), change=st.sampled_from([0.0, -7.5, 40.0]))
def test_a_key_that_is_not_seen_is_not_seen(data, change):
    """Move any key and its value: the results and gradients of the queries that may not see it keep their bits."""
    case, seen = drawn(data)
    y, gradients = run(case)
    for j in range(seen.shape[3]):
        changed = {name: case.inputs[name].copy() for name in ("key", "value")}
        for array in changed.values():
            array[:, :, j] = change - array[:, :, j]
        moved, gradients_moved = run(case.with_inputs(changed))
        blind = ~seen[..., j]  # (B, H, Tq)
        np.testing.assert_array_equal(moved[blind], y[blind])
        np.testing.assert_array_equal(gradients_moved["query"][blind], gradients["query"][blind])


def test_a_key_that_is_seen_is_seen():
    """The other way round, or the property above would hold of a function that sees nothing."""
    query, key, value = np.random.default_rng(0).standard_normal((3, 1, 1, 4, 2))
    moved = value.copy()
    moved[0, 0, 2] += 1
    rows = (attend(query, key, moved, causal=True)[0] != attend(query, key, value, causal=True)[0]).any(axis=-1)
    assert rows.tolist() == [[[False, False, True, True]]]


@given(data=st.data())
def test_what_nobody_may_see_may_be_anything(data):
    """NaN and infinity too: in a key and its value they leave every bit of results and gradients alone."""
    case, seen = drawn(data)
    d = drawer(data)
    hidden = d.mask([d.choice((1, size)) for size in (*seen.shape[:2], 1, seen.shape[3])])  # for every query alike
    mask = case.settings["mask"]
    nobody_sees_them(case.with_settings(mask=~hidden if mask is None else mask & ~hidden), seen & ~hidden)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("way", ["mask", "mask and causal", "window", "window and mask"])
def test_every_way_to_be_seen_by_nobody(way, heads, queries):
    """By a mask for all heads or for one, by a window that has moved on, or by both where neither would do alone."""
    numbers = np.random.default_rng(queries)
    inputs = {name: numbers.standard_normal((2, 2, 6, 3)) for name in ("query", "key", "value")}
    inputs["query"] = inputs["query"][:, :, :queries]
    mask = np.ones((2, heads, queries, 6), dtype=bool)
    mask[0, -1, :, 4] = False
    settings = {
        "mask": mask if "mask" in way else None,
        "causal": "causal" in way,
        "window": 2 if "window" in way else None,
    }
    seen = visible((2, 2, queries, 6), *settings.values())
    assert (~seen.any(axis=2)).any()
    nobody_sees_them(Case({**inputs, "bias": None}, settings), seen)


def nobody_sees_them(case, seen):
    """What no query of its head may see may be anything."""
    lonely = ~by_some(seen, case.inputs["key"].shape[1])  # (B, Hkv, Tk)
    y, gradients = run(case)
    assert (gradients["key"][lonely] == 0).all()
    assert (gradients["value"][lonely] == 0).all()
    for poison in POISONS:
        changed = {name: np.where(lonely[..., None], poison, case.inputs[name]) for name in ("key", "value")}
        with np.errstate(all="ignore"):
            poisoned, gradients_poisoned = run(case.with_inputs(changed))
        np.testing.assert_array_equal(poisoned, y)
        assert np.isfinite(poisoned).all()
        for name, gradient in gradients.items():
            np.testing.assert_array_equal(gradients_poisoned[name], gradient, err_msg=name)


def test_a_key_that_one_head_of_a_group_may_see_is_seen():
    """The mask differs by head, the key is shared: it is as if each head had a key of its own."""
    numbers = np.random.default_rng(0)
    query, key, value = (numbers.standard_normal((2, heads, 3, 2)) for heads in (4, 2, 2))
    mask = np.ones((2, 4, 1, 3), dtype=bool)
    mask[:, 0, :, 1] = mask[:, 3, :, 0] = mask[1, 2:, :, 2] = False
    dy = numbers.standard_normal((2, 4, 3, 2))
    y, gradients = attend(query, key, value, dy, mask=mask)
    own, gradients_own = attend(query, key.repeat(2, axis=1), value.repeat(2, axis=1), dy, mask=mask)
    np.testing.assert_allclose(y, own, rtol=1e-12)
    for name in ("key", "value"):
        summed = gradients_own[name].reshape(2, 2, 2, 3, 2).sum(axis=2)
        np.testing.assert_allclose(gradients[name], summed, rtol=1e-10, atol=1e-13, err_msg=name)
        assert (gradients[name][1, 1, 2] == 0).all(), "which no head of its group may see"
        assert (gradients[name][0] != 0).all()


@given(data=st.data(), poison=st.sampled_from(POISONS))
def test_a_bias_under_the_mask_may_be_anything(data, poison):
    case, seen = drawn(data)
    bias = np.random.default_rng(1).standard_normal(seen.shape)
    y, gradients = run(case.with_inputs({"bias": bias}))
    with np.errstate(all="ignore"):
        poisoned, gradients_poisoned = run(case.with_inputs({"bias": np.where(seen, bias, poison)}))
    np.testing.assert_array_equal(poisoned, y)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradients_poisoned[name], gradient, err_msg=name)
    assert (gradients["bias"][~seen] == 0).all()


@given(data=st.data())
def test_who_sees_whom_is_proved_by_gradients(data):
    """An incoming gradient at one query alone: it reaches the keys that query may see, and no other, exactly."""
    case, seen = drawn(data)
    for b, h, i in np.ndindex(seen.shape[:3]):
        dy = np.zeros((*seen.shape[:3], case.inputs["value"].shape[-1]))
        dy[b, h, i] = 1.0
        _, gradients = run(case, dy)
        kv_heads = case.inputs["key"].shape[1]
        reached = np.zeros((len(seen), kv_heads, seen.shape[3]), dtype=bool)
        reached[b, h // (seen.shape[1] // kv_heads)] = seen[b, h, i]
        assert (gradients["value"][reached] > 0).all()
        for name in ("key", "value"):
            assert (gradients[name][~reached] == 0).all(), name
        others = np.ones(seen.shape[:3], dtype=bool)
        others[b, h, i] = False
        assert (gradients["query"][others] == 0).all()


@given(data=st.data())
def test_a_row_that_sees_nothing_is_zero(data):
    """Not NaN, not an average: zeros, with zero gradients."""
    case, seen = drawn(data)
    blind_query = data.draw(st.integers(0, seen.shape[2] - 1))
    mask = seen.copy()
    mask[:, :, blind_query] = False
    y, gradients = run(case.with_settings(mask=mask))
    blind = ~mask.any(axis=-1)
    assert (y[blind] == 0).all()
    assert (gradients["query"][blind] == 0).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients.values() if gradient is not None)


@given(
    real=st.integers(1, 5),
    padding=st.integers(1, 4),
    side=st.sampled_from(["left", "right"]),
    causal=st.booleans(),
    garbage=st.sampled_from([0.0, 3.0, -1e3]),
    seed=st.integers(0, 2**31 - 1),
)
def test_padding_changes_nothing_for_real_tokens(real, padding, side, causal, garbage, seed):
    """A short sequence, alone and padded beside a longer one: equal to rounding, results and gradients."""
    numbers = np.random.default_rng(seed)
    total = real + padding
    place = slice(padding, total) if side == "left" else slice(0, real)
    alone = {name: numbers.standard_normal((1, 2, real, 3)) for name in ("query", "key", "value", "dy")}
    batch = {}
    for name, array in alone.items():
        batch[name] = numbers.standard_normal((2, 2, total, 3))
        batch[name][0] = garbage if name != "dy" else 0.0  # no loss is taken at padding
        batch[name][0, :, place] = array[0]
    attention_mask = np.ones((2, total), dtype=np.int64)
    attention_mask[0] = 0
    attention_mask[0, place] = 1
    y, gradients = attend(**alone, causal=causal)
    padded, padded_gradients = attend(**batch, causal=causal, mask=F.padding_mask(attention_mask))
    np.testing.assert_allclose(padded[0, :, place], y[0], rtol=1e-12, atol=1e-13)
    is_padding = attention_mask[0] == 0
    for name in ("query", "key", "value"):
        np.testing.assert_allclose(padded_gradients[name][0, :, place], gradients[name][0], rtol=1e-10, atol=1e-12)
        assert (padded_gradients[name][0][:, is_padding] == 0).all(), name


@given(tk=st.integers(1, 6), data=st.data(), window=st.sampled_from([None, 1, 2, 3]))
def test_the_newest_queries_are_the_last_rows(tk, data, window):
    """Causal with Tq < Tk is what decoding with a cache computes: the last Tq rows of the square."""
    tq = data.draw(st.integers(1, tk))
    query, key, value = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal((3, 2, 2, tk, 3))
    full, _ = attend(query, key, value, causal=True, window=window)
    newest, _ = attend(query[:, :, tk - tq :], key, value, causal=True, window=window)
    np.testing.assert_allclose(newest, full[:, :, tk - tq :], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(F.causal_mask(tq, tk), F.causal_mask(tk)[:, :, tk - tq :])
    if window is not None:
        square = F.sliding_window_mask(tk, window=window)
        np.testing.assert_array_equal(F.sliding_window_mask(tq, tk, window=window), square[:, :, tk - tq :])


def test_more_queries_than_keys():
    """Bottom-right too: the last query sees all keys, and the first ones, which stand before any key, see none."""
    mask = F.causal_mask(4, 2)[0, 0]
    assert mask.tolist() == [[False, False], [False, False], [True, False], [True, True]]
    query, key, value = np.ones((1, 1, 4, 2)), np.ones((1, 1, 2, 2)), np.array([[[[1.0], [3.0]]]])
    assert attend(query, key, value, causal=True)[0][0, 0, :, 0].tolist() == [0.0, 0.0, 1.0, 2.0]


@given(data=st.data())
def test_settings_and_masks_say_the_same(data):
    """Causal, window and padding as settings, each as a mask of its own, or all joined: the same numbers."""
    case, seen = drawn(data)
    tq, tk = seen.shape[2:]
    causal, window, mask = (case.settings[name] for name in ("causal", "window", "mask"))
    joined = F.combine_masks(
        mask,
        F.causal_mask(tq, tk) if causal else None,
        None if window is None else F.sliding_window_mask(tq, tk, window=window, causal=causal),
    )
    if joined is not None:
        np.testing.assert_array_equal(np.broadcast_to(joined, seen.shape), seen)
    plain = {"causal": False, "window": None}
    ways = [case, case.with_settings(mask=joined, **plain), case.with_settings(mask=seen, **plain)]
    (y, gradients), *others = [run(way) for way in ways]
    for other, other_gradients in others:
        np.testing.assert_allclose(other, y, rtol=1e-12, atol=1e-14)
        for name, gradient in gradients.items():
            if gradient is not None:
                np.testing.assert_allclose(other_gradients[name], gradient, rtol=1e-10, atol=1e-13, err_msg=name)


@given(length=st.integers(1, 6), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_a_window(length, more, seed):
    """As wide as the sequence it hides nothing; of one key it gives each token its own value."""
    query, key, value = np.random.default_rng(seed).standard_normal((3, 1, 2, length, 3))
    for causal in (True, False):
        wide, _ = attend(query, key, value, causal=causal, window=length + more)
        np.testing.assert_allclose(wide, attend(query, key, value, causal=causal)[0], rtol=1e-12)
        one, _ = attend(query, key, value, causal=causal, window=1)
        np.testing.assert_allclose(one, value, rtol=1e-12)
    assert F.sliding_window_mask(5, window=2).sum() == 9
    assert F.sliding_window_mask(5, window=2, causal=False).sum() == 13


@given(data=st.data())
def test_combined_masks(data):
    """In any order, any masks absent, as often as one likes; the masks themselves stay as they are."""
    d = drawer(data)
    sizes = d.sizes(4, 1, 3)
    masks = [d.mask([d.choice((1, size)) for size in sizes]) for _ in range(3)]
    before = [mask.copy() for mask in masks]
    joined = F.combine_masks(*masks)
    expected = np.logical_and.reduce(np.broadcast_arrays(*masks))
    np.testing.assert_array_equal(joined, expected)
    np.testing.assert_array_equal(F.combine_masks(None, *reversed(masks), None), expected)
    np.testing.assert_array_equal(F.combine_masks(joined, joined), expected)
    np.testing.assert_array_equal(F.combine_masks(masks[0]), before[0])
    for mask, kept in zip(masks, before, strict=True):
        np.testing.assert_array_equal(mask, kept)


def test_no_mask_is_none():
    assert F.combine_masks() is None
    assert F.combine_masks(None, None) is None


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_padding_mask_of_any_zeros_and_ones(dtype):
    mask = F.padding_mask(np.array([[0, 1, 1], [1, 0, 0]], dtype))
    assert mask.dtype == np.bool_
    assert mask[:, 0, 0].tolist() == [[False, True, True], [True, False, False]]
