"""Grouped-query attention: decoding with a cache, positions, masks, what it is equal to, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn

F64 = {"dtype": np.float64}


def llama_like(randomized, seed=0, **options):
    """Four heads, two of them to a key, causal, with rotary positions."""
    options = {"rotary": nn.Rotary("half", base=100.0), "causal": True, "bias": False, **options}
    return randomized(nn.GroupedQueryAttention(8, 4, 2, **options, **F64), seed=seed)


@given(
    pieces=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    window=st.sampled_from([None, 1, 3]),
    layout=st.sampled_from(["half", "interleaved", None]),
    shift=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_cached_decoding_equals_the_full_forward(pieces, window, layout, shift, seed, randomized):
    """In pieces of any length; positions by default, or given and starting anywhere."""
    rotary = None if layout is None else nn.Rotary(layout, base=50.0)
    attention = llama_like(randomized, seed, rotary=rotary, window=window, widths=nn.AttentionWidths(4, 3))
    length = sum(pieces)
    x = np.random.default_rng(seed).normal(size=(2, length, 8))
    positions = None if shift == 0 or rotary is None else np.arange(length) + shift
    full = attention(x, positions=positions)
    kv_cache, steps, start = nn.KVCache(), [], 0
    for piece in pieces:
        part = slice(start, start + piece)
        settings = {} if positions is None else {"positions": positions[part]}
        y, cache = attention.forward(x[:, part], kv_cache=kv_cache, **settings)
        assert cache is None
        steps.append(y)
        start += piece
    np.testing.assert_allclose(np.concatenate(steps, axis=1), full, rtol=1e-10, atol=1e-12)


def test_the_cache_keeps_the_heads_of_keys_alone(randomized):
    attention, kv_cache = llama_like(randomized, widths=nn.AttentionWidths(value_head=3)), nn.KVCache()
    attention(np.ones((1, 5, 8)), kv_cache=kv_cache)
    key, value = kv_cache.append(np.zeros((1, 2, 1, 2)), np.zeros((1, 2, 1, 3)))
    assert key.shape == (1, 2, 6, 2)
    assert value.shape == (1, 2, 6, 3)


@given(padding=st.integers(1, 3), seed=st.integers(0, 99))
def test_padding_on_the_left_with_positions_of_the_real_tokens(padding, seed, randomized):
    """A prompt padded on the left and then decoded gives what it gives alone."""
    attention = llama_like(randomized, seed)
    real = np.random.default_rng(seed).normal(size=(1, 4, 8))
    alone = attention(real)
    padded = np.concatenate([np.full((1, padding, 8), 7.0), real], axis=1)
    mask = np.arange(padding + 4)[None, None, None] >= padding
    positions = np.maximum(np.arange(padding + 4) - padding, 0)[None]
    whole = attention(padded, mask=mask, positions=positions)
    np.testing.assert_allclose(whole[:, padding:], alone, rtol=1e-10, atol=1e-12)
    kv_cache, last = nn.KVCache(), padding + 3
    attention(padded[:, :last], mask=mask[..., :last], positions=positions[:, :last], kv_cache=kv_cache)
    newest = attention(padded[:, last:], mask=mask, positions=positions[:, last:], kv_cache=kv_cache)
    np.testing.assert_allclose(newest[:, 0], alone[:, -1], rtol=1e-10, atol=1e-12)


def test_only_distances_count(randomized):
    attention = llama_like(randomized)
    x = np.random.default_rng(1).normal(size=(2, 5, 8))
    moved = attention(x, positions=np.arange(5) + 1000)
    np.testing.assert_allclose(moved, attention(x), rtol=1e-9, atol=1e-10)
    assert np.abs(attention(x, positions=2 * np.arange(5)) - attention(x)).max() > 1e-3


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_is_the_mask_of_a_window(causal, randomized):
    near = llama_like(randomized, causal=causal, window=2)
    x = np.random.default_rng(1).normal(size=(2, 5, 8))
    mask = F.sliding_window_mask(5, window=2, causal=causal)
    np.testing.assert_allclose(near(x), llama_like(randomized, causal=causal)(x, mask=mask), rtol=1e-10, atol=1e-12)


def test_a_head_each_is_multi_head_attention(randomized):
    ours = randomized(nn.GroupedQueryAttention(6, 3, causal=True, **F64))
    packed = nn.MultiHeadAttention(6, 3, causal=True, **F64)
    parts = [ours.q_proj, ours.k_proj, ours.v_proj]
    packed.load_state_dict(
        {
            "in_proj_weight": np.concatenate([part.weight for part in parts], axis=1),
            "in_proj_bias": np.concatenate([part.bias for part in parts]),
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 4, 6))
    y, cache = ours.forward(x)
    expected, packed_cache = packed.forward(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    (dx, dmemory, dvalues, dbias), grads = ours.backward(dy, cache)
    (dx_packed, _, _), grads_packed = packed.backward(dy, packed_cache)
    assert dmemory is dvalues is dbias is None
    np.testing.assert_allclose(dx, dx_packed, rtol=1e-10, atol=1e-13)
    together = np.concatenate([grads[f"{name}_proj"]["weight"] for name in "qkv"], axis=1)
    np.testing.assert_allclose(together, grads_packed["in_proj_weight"], rtol=1e-10, atol=1e-13)


def test_what_stands_for_another_gets_its_gradient(randomized):
    """x as its own memory, and a memory as its own values: the gradients of the copies add up."""
    attention = randomized(nn.GroupedQueryAttention(4, 4, 2, widths=nn.AttentionWidths(3), **F64))
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 5, 4))
    gradients = []
    for inputs in ((x,), (x, x), (x, x, x), (x, None, x)):
        (dx, dmemory, dvalues, _), _ = attention.backward(dy, attention.forward(*inputs)[1])
        copies = [None, dmemory, dvalues][: len(inputs)]
        assert [copy is None for copy in (None, dmemory, dvalues)][: len(inputs)] == [
            True,
            *(a is None for a in inputs[1:]),
        ]
        gradients.append(dx + sum(copy for copy in copies if copy is not None))
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-10, atol=1e-13)


def test_a_memory_s_padding_is_never_seen(randomized):
    attention = randomized(nn.GroupedQueryAttention(4, 4, 2, widths=nn.AttentionWidths(2, memory=6, value=3), **F64))
    rng = np.random.default_rng(0)
    x, memory, values = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 5, 3))
    real = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    results = []
    for garbage in (0.0, 1e3, np.nan):
        spoilt = [np.where(real[..., None], array, garbage) for array in (memory, values)]
        y, cache = attention.forward(x, *spoilt, mask=F.padding_mask(real))
        (dx, dmemory, dvalues, _), _ = attention.backward(np.ones_like(y), cache)
        assert not dmemory[~real].any()
        assert not dvalues[~real].any()
        results.append([y, dx, dmemory, dvalues])
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(results[0][0][1], np.broadcast_to(attention.out_proj.bias, (3, 4)))  # saw nothing
    assert not results[0][1][1].any()


@pytest.mark.parametrize("make", [nn.GroupedQueryAttention, nn.MultiHeadAttention])
def test_dropout_falls_on_the_probabilities(make, randomized):
    """Not on the scores before, nor on the values gathered: of an identity, attention gathers its own weights."""
    attention = randomized(make(4, 2, dropout=0.5, **F64))
    x = np.random.default_rng(0).normal(size=(2, 6, 4))
    with nn.trace(attention) as t:
        attention.forward(x, rng=np.random.default_rng(3))
    (site,) = (site for name, site in t.sites.items() if name.endswith("attention") and "/" in name)
    query, key, value = site.inputs[:3]
    identity = np.broadcast_to(np.eye(6), (2, 2, 6, 6))
    probabilities, _ = F.scaled_dot_product_attention(query, key, identity)
    dropped, _ = F.scaled_dot_product_attention(query, key, identity, dropout=0.5, rng=np.random.default_rng(3))
    kept = dropped != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(dropped, 2 * probabilities * kept, rtol=1e-12)
    np.testing.assert_allclose(site.output, dropped @ value, rtol=1e-12)


@pytest.mark.parametrize("kind", ["packed", "grouped"])
def test_weights_say_who_looks_where(kind, randomized):
    attention = nn.MultiHeadAttention(8, 4, causal=True, dropout=0.5, **F64)
    if kind == "grouped":
        attention = llama_like(randomized, dropout=0.5)
    x = np.random.default_rng(0).normal(size=(2, 5, 8))
    (y, weights), cache = randomized(attention).forward(x, need_weights=True, rng=np.random.default_rng(1))
    assert weights.shape == (2, 4, 5, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert not np.triu(weights, 1).any()
    assert (np.tril(weights) > 0).sum() == 2 * 4 * 15, "before dropout"
    np.testing.assert_array_equal(attention(x, rng=np.random.default_rng(1)), y)
    before = [weights.copy(), y.copy()]
    attention.backward(y, cache)
    np.testing.assert_array_equal(weights, before[0])
    np.testing.assert_array_equal(y, before[1])
    kv_cache = nn.KVCache()
    attention(x[:, :4], kv_cache=kv_cache)
    (_, newest), _ = attention.forward(x[:, 4:], kv_cache=kv_cache, need_weights=True)
    np.testing.assert_allclose(newest, weights[:, :, 4:], rtol=1e-10)


def test_float32_stays_float32_and_starts_at_pytorchs_scale():
    attention = nn.GroupedQueryAttention(
        64, 4, 2, widths=nn.AttentionWidths(8), scale=0.5, rotary=nn.Rotary("interleaved"), causal=True, rng=0
    )
    y, cache = attention.forward(np.ones((2, 3, 64), np.float32))
    (dx, *_), grads = attention.backward(y, cache)
    assert {array.dtype for array in (y, dx, *nn.flatten(grads).values())} == {np.dtype(np.float32)}
    for projection, columns in ((attention.q_proj, 32), (attention.k_proj, 16)):
        bound = np.sqrt(6 / (64 + columns))
        assert 0.98 * bound < np.abs(projection.weight).max() <= bound
        assert not projection.bias.any()
    assert repr(attention).startswith("GroupedQueryAttention(64, num_heads=4, num_kv_heads=2, causal=True, scale=0.5")


def build(*sizes, **options):
    return lambda: nn.GroupedQueryAttention(*(sizes or (8, 4, 2)), rng=0, **options)


def call(x=(2, 3, 8), memory=None, values=None, options=None, **settings):
    attention = build(**(options or {}))()
    arrays = [None if shape is None else np.ones(shape, np.float32) for shape in (x, memory, values)]
    return lambda: attention(*arrays, **settings)


@pytest.mark.parametrize(
    ("bias", "expected"),
    [(True, "qkvo"), (False, ""), ("qkv", "qkv")],
)
def test_which_projections_have_a_bias(bias, expected):
    names = [name for name, _ in build(bias=bias)().named_parameters()]
    assert "".join(name[0] for name in names if name.endswith("bias")) == expected


ROTARY = {"rotary": nn.Rotary("half")}
REFUSED = {
    "kv heads that do not divide": (build(8, 4, 3), "num_kv_heads that divide the 4 heads, got 3"),
    "more kv heads than heads": (build(8, 4, 8), "num_kv_heads that divide the 4 heads, got 8"),
    "no kv heads": (build(8, 4, 0), "num_kv_heads as a whole number of at least 1, got 0"),
    "heads that do not divide": (build(9, 4, 2), "heads that divide the width 9, or widths.head, got 4"),
    "odd heads under rotary": (build(12, 4, 2, **ROTARY), "a rotary of an even width .*got 3"),
    "a rotary by its layout's name": (build(8, 4, 2, rotary="half"), "a Rotary or None, got 'half'"),
    "rotary wider than a head": (build(8, 4, 2, rotary=nn.Rotary("half", width=4)), "at most 2, .*got 4"),
    "a width by its name": (build(8, 4, 2, widths={"head": 2}), "widths as AttentionWidths, got {'head': 2}"),
    "another bias": (build(8, 4, 2, bias="o"), "bias True, False or 'qkv', got 'o'"),
    "window of zero": (build(8, 4, 2, window=0), "window .*got 0"),
    "dropout of one": (build(8, 4, 2, dropout=1.0), "dropout .*got 1.0"),
    "x of two axes": (call(x=(3, 8)), r"x \(B, Tq, 8\).*got \(3, 8\)"),
    "x too wide": (call(x=(2, 3, 9)), r"x \(B, Tq, 8\).*got \(2, 3, 9\)"),
    "memory too wide": (call(memory=(2, 3, 9)), r"memory \(B, Tk, 8\).*got .*\(2, 3, 9\)"),
    "memory of another batch": (call(memory=(3, 3, 8)), r"memory \(B, Tk, 8\).*got .*\(3, 3, 8\)"),
    "no memory of another width": (
        call(options={"widths": nn.AttentionWidths(memory=5)}),
        r"memory \(B, Tk, 5\).*None",
    ),
    "values longer than the memory": (call(memory=(2, 3, 8), values=(2, 4, 8)), r"values .*got .*\(2, 4, 8\)"),
    "no values of their own": (
        call(memory=(2, 3, 8), options={"widths": nn.AttentionWidths(value=5)}),
        r"values \(B, Tk, 5\), got .*None",
    ),
    "memory under rotary": (call(memory=(2, 3, 8), options=ROTARY), "no memory with rotary"),
    "positions without rotary": (call(positions=np.arange(3)), "no positions without a rotary"),
    "memory beside a kv_cache": (call(memory=(2, 3, 8), kv_cache=nn.KVCache()), "no memory with a KVCache"),
    "values beside a kv_cache": (call(values=(2, 3, 8), kv_cache=nn.KVCache()), "no memory with a KVCache"),
}


def test_a_width_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^AttentionWidths: expected head as a whole number of at least 1, got 0$"):
        nn.AttentionWidths(head=0)


@pytest.mark.parametrize(("made", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(made, message):
    with pytest.raises(ValueError, match=rf"^GroupedQueryAttention: expected [^\n]*{message}[^\n]*$"):
        made()


@pytest.mark.parametrize("attention", [nn.MultiHeadAttention(8, 4, rng=0), build()()], ids=["packed", "grouped"])
def test_a_call_that_is_refused_leaves_the_cache_as_it_was(attention):
    kv_cache, x = nn.KVCache(), np.ones((1, 3, 8), np.float32)
    attention(x, kv_cache=kv_cache)
    wrong = (
        {"mask": np.ones((1, 1, 3, 3), bool)},
        {"bias": np.ones((4, 5), np.float32)},
        {"bias": np.ones((1, 4, 3, 5), np.float32)},
    )
    for settings in wrong:
        with pytest.raises(ValueError, match=rf"^{type(attention).__name__}: expected .* \(1, 4, 3, 6\)"):
            attention(x, kv_cache=kv_cache, **settings)
        assert len(kv_cache) == 3
    with pytest.raises(ValueError, match=f"^{type(attention).__name__}: expected one dtype"):
        attention(x, bias=np.ones((4, 8)), kv_cache=kv_cache)
    assert len(kv_cache) == 3
    attention(x, bias=np.ones((4, 8), np.float32), mask=np.ones((1, 1, 3, 6), bool), kv_cache=kv_cache)
    assert len(kv_cache) == 6


def test_backward_after_a_cache_is_refused():
    attention = build()()
    _, cache = attention.forward(np.ones((1, 3, 8), np.float32), kv_cache=nn.KVCache())
    with pytest.raises(ValueError, match="GroupedQueryAttention: backward after a forward with kv_cache"):
        attention.backward(np.ones((1, 3, 8), np.float32), cache)
