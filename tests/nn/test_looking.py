"""Hidden states and attention weights of a stack, whatever is kept, and without a trace of having looked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn
from numtx.nn import attention_parts, rows

F64 = {"dtype": np.float64}
RNG = np.random.default_rng(0)
X, DY, MEMORY = RNG.normal(size=(5, 4, 6)), RNG.normal(size=(5, 4, 6)), RNG.normal(size=(5, 3, 6))
BOTH = {"output_hidden_states": True, "output_attentions": True}


def stack_of(kind, dropout=0.0, norm=True, **settings):
    make = nn.TransformerDecoderLayer if kind == "decoder" else nn.TransformerEncoderLayer
    layers = [make(6, 2, 8, dropout, causal=True, **settings, **F64) for _ in range(3)]
    return nn.Stack(layers, nn.LayerNorm(6, **F64) if norm else None)


def inputs_of(kind):
    return (X, MEMORY) if kind == "decoder" else (X,)


@pytest.mark.parametrize("keep", ["all", "inputs", None])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_states_are_what_a_shorter_stack_gives(kind, norm, keep, randomized):
    stack = randomized(stack_of(kind, norm=norm))
    seen, _ = stack.forward(*inputs_of(kind), keep=keep, **BOTH)
    assert isinstance(seen, nn.StackOutput)
    assert len(seen.hidden_states) == 4
    assert seen.hidden_states[0] is X
    assert seen.hidden_states[-1] is seen.y
    for length in (1, 2):
        shorter = nn.Stack(list(stack.layers)[:length])
        np.testing.assert_array_equal(seen.hidden_states[length], shorter.forward(*inputs_of(kind), keep=keep)[0])
    expected = stack.norm(nn.Stack(list(stack.layers))(*inputs_of(kind))) if norm else None
    if norm:
        np.testing.assert_allclose(seen.y, expected, rtol=1e-12)
    assert [a.shape for a in seen.attentions] == [(5, 2, 4, 4)] * 3
    for weights in (*seen.attentions, *(seen.cross_attentions or ())):
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert not any(np.triu(weights, 1).any() for weights in seen.attentions), "causal: these are the own ones"
    if kind == "decoder":
        assert [a.shape for a in seen.cross_attentions] == [(5, 2, 4, 3)] * 3
    else:
        assert seen.cross_attentions is None


def test_nothing_but_what_was_asked_for(randomized):
    stack = randomized(stack_of("decoder"))
    states = stack(X, MEMORY, output_hidden_states=True)
    assert states.attentions is states.cross_attentions is None
    weights = stack(X, MEMORY, output_attentions=True)
    assert weights.hidden_states is None
    assert isinstance(stack(X, MEMORY), np.ndarray)
    np.testing.assert_array_equal(states.y, weights.y)


@given(
    keep=st.sampled_from(["all", "inputs"]),
    dropout=st.sampled_from([0.0, 0.4]),
    norm_first=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_backward_is_the_same_bits_with_and_without(kind, keep, dropout, norm_first, seed, randomized):
    stack = randomized(stack_of(kind, dropout, norm_first=norm_first), seed)
    results = []
    for asked in ({}, {"output_hidden_states": True}, BOTH):
        y, cache = stack.forward(*inputs_of(kind), rng=np.random.default_rng(3), keep=keep, **asked)
        y = y.y if asked else y
        dinputs, grads = stack.backward(DY, cache)
        results.append([y, *(d for d in dinputs if d is not None), *nn.flatten(grads).values()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_was_seen_is_not_changed_by_backward(randomized):
    stack = randomized(stack_of("decoder", 0.3))
    seen, cache = stack.forward(X, MEMORY, rng=np.random.default_rng(1), **BOTH)
    arrays = [*seen.hidden_states, *seen.attentions, *seen.cross_attentions]
    before = [array.copy() for array in arrays]
    stack.backward(DY, cache)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_a_long_one_is_recomputed_in_the_form_in_which_it_was_looked_at(keep, randomized, monkeypatch):
    """Tiled attention shows no weights, and draws its dropout otherwise: backward must not change over to it."""
    monkeypatch.setattr(attention_parts, "LONG", 3)
    stack = randomized(stack_of("encoder", 0.5))
    calls = []
    monkeypatch.setattr(attention_parts.F, "tiled_attention", lambda *a, **s: calls.append(1) or None)
    seen, cache = stack.forward(X, rng=np.random.default_rng(3), keep=keep, output_attentions=True)
    (dx, *_), _ = stack.backward(DY, cache)
    assert not calls
    step, direction = 1e-6, np.random.default_rng(4).normal(size=X.shape)
    ys = [
        stack.forward(X + h * direction, rng=np.random.default_rng(3), output_attentions=True)[0].y
        for h in (step, -step)
    ]
    assert np.sum((ys[0] - ys[1]) * DY) / (2 * step) == pytest.approx(np.sum(dx * direction), rel=1e-6)
    assert seen.attentions[0].shape == (5, 2, 4, 4)


def test_a_large_batch_is_seen_whole_though_it_would_be_computed_by_rows(randomized, monkeypatch):
    monkeypatch.setattr(rows, "TOKENS", 8)
    stack = randomized(stack_of("encoder"))
    mask = (np.arange(4) < np.array([4, 2, 3, 1, 4])[:, None])[:, None, None]
    for asked in ({"output_hidden_states": True}, {"output_attentions": True}, BOTH):
        seen = stack(X, mask=mask, **asked)
        whole, _ = stack.forward(X, mask=mask, keep="all", **asked)
        for a, b in zip(seen, whole, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(np.stack(a), np.stack(b))
        np.testing.assert_allclose(seen.y, stack(X, mask=mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_while_decoding_the_newest_queries_are_seen_over_all_keys(kind, randomized):
    stack = randomized(stack_of(kind))
    whole = stack(*inputs_of(kind), **BOTH)
    caches = stack.new_cache()
    for a, b in ((0, 2), (2, 3), (3, 4)):
        step = stack(X[:, a:b], *inputs_of(kind)[1:], kv_cache=caches, **BOTH)
        for got, expected in zip(step.hidden_states, whole.hidden_states, strict=True):
            np.testing.assert_allclose(got, expected[:, a:b], rtol=1e-10, atol=1e-12)
        for got, expected in zip(step.attentions, whole.attentions, strict=True):
            np.testing.assert_allclose(got, expected[:, :, a:b, :b], rtol=1e-10, atol=1e-12)
        for got, expected in zip(step.cross_attentions or (), whole.cross_attentions or (), strict=True):
            np.testing.assert_allclose(got, expected[:, :, a:b], rtol=1e-10, atol=1e-12)


def test_weights_are_those_before_dropout(randomized):
    stack = randomized(stack_of("encoder", 0.9))
    seen, _ = stack.forward(X, rng=np.random.default_rng(0), output_attentions=True)
    np.testing.assert_allclose(seen.attentions[0].sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(seen.attentions[0], stack(X, output_attentions=True).attentions[0])


def test_a_decoder_and_a_trace_see_the_same(randomized):
    blocks = [nn.DecoderBlock(6, 2, 8, **F64) for _ in range(2)]
    stack = randomized(nn.Decoder(blocks, nn.LayerNorm(6, **F64)))
    plain = stack(X, **BOTH)
    with nn.trace(stack) as t:
        (traced, cache) = stack.forward(X, **BOTH)
        stack.backward(DY, cache)
    for a, b in zip(plain[1:3], traced[1:3], strict=True):
        np.testing.assert_allclose(np.stack(a), np.stack(b), rtol=1e-12, atol=1e-14)
    site = t["layers.1.attention"]
    assert [part.shape for part in site.output] == [(5, 4, 6), (5, 2, 4, 4)]
    assert t.first_nonfinite() is None


@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_and_residuals_hand_the_weights_on(norm_first, randomized):
    layer = randomized(nn.TransformerDecoderLayer(6, 2, 8, 0.0, norm_first=norm_first, causal=True, **F64))
    (y, (own, over)), _ = layer.forward(X, MEMORY, need_weights=True)
    np.testing.assert_array_equal(y, layer(X, MEMORY))
    attended, shown = layer.attention(X, need_weights=True)
    np.testing.assert_array_equal(own, shown)
    np.testing.assert_array_equal(over, layer.cross_attention(attended, MEMORY, need_weights=True)[1])
