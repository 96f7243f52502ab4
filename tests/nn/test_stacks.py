"""Encoder and decoder layers and stacks of them: what goes to which part, what is refused, where dropout stands."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn
from numtx.nn.attention_parts import merge_heads, split_heads

F64 = {"dtype": np.float64}
X, DY = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
MEMORY = np.random.default_rng(1).normal(size=(2, 5, 4))
MEMORY_MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], bool)[:, None, None, :]


def encoder_layer(seed=0, **settings):
    return nn.TransformerEncoderLayer(4, 2, 6, **{"dropout": 0.0, **settings}, rng=seed, **F64)


def decoder_layer(seed=0, **settings):
    return nn.TransformerDecoderLayer(4, 2, 6, **{"dropout": 0.0, **settings}, rng=seed, **F64)


def stack_of(layer, layers=2, **settings):
    return nn.Stack([layer(seed, **settings) for seed in range(layers)], nn.LayerNorm(4, **F64))


# What goes where ---------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A sublayer that gives back what it got, and writes down what else it was given."""

    def __init__(self, name, log, inputs=3):
        self.name, self.log, self.inputs = name, log, inputs

    def forward(self, x, *others, rng=None, **settings):
        self.log.append((self.name, len(others), settings))
        return x, ()

    def backward(self, dy, cache):
        return (dy, *[None] * (self.inputs - 1)) if self.inputs > 1 else dy, {}


def test_each_part_is_given_what_is_its_own():
    log = []
    parts = [Recorder("self", log), Recorder("cross", log), Recorder("feed forward", log, inputs=1)]
    cache, mask, positions = nn.KVCache(), np.ones((1, 1, 1, 3), bool), np.arange(3)
    nn.DecoderLayer(*parts)(X, MEMORY)
    assert log == [("self", 0, {}), ("cross", 1, {}), ("feed forward", 0, {})], "and nothing that was not given"
    log.clear()
    bias = np.zeros((2, 5))
    given = {"mask": mask, "positions": positions, "kv_cache": cache}
    nn.DecoderLayer(*parts).forward(X, MEMORY, bias, **given, memory_mask=MEMORY_MASK)
    assert [(name, others) for name, others, _ in log] == [("self", 0), ("cross", 1), ("feed forward", 0)]
    assert log[0][2] == {"bias": bias, **given}
    assert log[1][2] == {"mask": MEMORY_MASK}
    assert log[2][2] == {}
    log.clear()
    nn.EncoderLayer(parts[0], parts[2]).forward(X, bias, **given)
    assert log == [("self", 0, {"bias": bias, **given}), ("feed forward", 0, {})]


class Plain(nn.Module):
    """A layer with x alone."""

    def forward(self, x, *, rng=None):
        return 2 * x, ()

    def backward(self, dy, cache):
        return 2 * dy, {}


@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_a_stack_of_layers_that_take_x_alone(keep):
    stack = nn.Stack([Plain(), Plain(), Plain()])
    y, cache = stack.forward(X, keep=keep)
    np.testing.assert_array_equal(y, 8 * X)
    (dx, dmemory, dbias), grads = stack.backward(DY, cache)
    np.testing.assert_array_equal(dx, 8 * DY)
    assert dmemory is dbias is None
    assert nn.flatten(grads) == {}


def test_positions_reach_the_attention():
    def attention(seed):
        return nn.GroupedQueryAttention(4, 2, 1, rotary=nn.Rotary("half"), causal=True, rng=seed, **F64)

    def layer(seed):
        norms = [nn.RMSNorm(4, **F64) for _ in range(2)]
        return nn.EncoderLayer(
            nn.PreNorm(norms[0], attention(seed)), nn.PreNorm(norms[1], nn.FeedForward(4, 6, "silu", rng=seed, **F64))
        )

    stack = nn.Stack([layer(0), layer(1)], nn.RMSNorm(4, **F64))
    np.testing.assert_array_equal(stack(X, positions=np.arange(3)), stack(X))
    assert not np.allclose(stack(X, positions=np.array([0, 1, 4])), stack(X))
    np.testing.assert_allclose(stack(X, positions=np.arange(3) + 7), stack(X), rtol=1e-10)  # rotary: distances alone
    caches = [nn.KVCache(), nn.KVCache()]
    pieces = [stack(X[:, t : t + 1], kv_cache=caches) for t in range(3)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), stack(X), rtol=1e-10)


def test_a_layer_that_keeps_the_gradient_of_what_it_was_lent_is_named():
    class Silent(Plain):
        def forward(self, x, memory, *, rng=None):
            return super().forward(x + memory[:, :3], rng=rng)

    stack = nn.Stack([Silent()])
    y, cache = stack.forward(X, MEMORY)
    with pytest.raises(ValueError, match=r"^Stack: expected a gradient for each of 1 lent arrays, got 0 from Silent$"):
        stack.backward(y, cache)


def test_layers_that_were_given_one_rotary_have_one_each():
    """Settings may be shared; a part has one place in the tree, or the trace would take one for the other."""
    rotary = nn.Rotary("half", base=50.0)

    def layer(seed):
        attention = nn.GroupedQueryAttention(4, 2, 1, rotary=rotary, rng=seed, **F64)
        parts = attention, nn.FeedForward(4, 6, rng=seed, **F64)
        return nn.EncoderLayer(*(nn.PreNorm(nn.LayerNorm(4, **F64), part) for part in parts))

    stack = nn.Stack([layer(0), layer(1)])
    modules = [module for _, module in stack.named_modules()]
    assert len({id(module) for module in modules}) == len(modules)
    assert rotary not in modules
    assert repr(rotary) in repr(stack)
    with nn.trace(stack) as t:
        stack.forward(X)
    turns = [name for name in t.sites if "/rotary" in name]
    assert turns == [f"layers.{i}.attention.sublayer.rotary/rotary{call}" for i in (0, 1) for call in ("", "#1")]


# Keeping ------------------------------------------------------------------------------------------------------------


@given(
    norm_first=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    masked=st.booleans(),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_keeping_inputs_gives_the_same_bits_as_keeping_all(norm_first, dropout, masked, biased, seed, randomized):
    model = randomized(stack_of(decoder_layer, norm_first=norm_first, dropout=dropout, causal=True), seed)
    bias = np.random.default_rng(seed).normal(size=(2, 5)) if biased else None
    settings = {"memory_mask": MEMORY_MASK} if masked else {}
    results = []
    for keep in ("all", "inputs"):
        y, cache = model.forward(X, MEMORY, bias, rng=np.random.default_rng(7), keep=keep, **settings)
        (dx, dmemory, dbias), grads = model.backward(DY, cache)
        assert (dbias is None) == (bias is None)
        results.append(
            {"y": y, "dx": dx, "dmemory": dmemory, **nn.flatten(grads)} | ({"dbias": dbias} if biased else {})
        )
    assert list(results[0]) == list(results[1])
    for name, array in results[0].items():
        np.testing.assert_array_equal(results[1][name], array, err_msg=name)
    y = model.forward(X, MEMORY, bias, rng=np.random.default_rng(7), keep=None, **settings)[0]
    np.testing.assert_array_equal(y, results[0]["y"])


def test_gradients_stand_in_the_order_of_the_parameters():
    for norm in (None, nn.LayerNorm(4, **F64)):
        stack = nn.Stack([decoder_layer(seed) for seed in range(11)], norm)
        y, cache = stack.forward(X, MEMORY)
        assert list(nn.flatten(stack.backward(y, cache)[1])) == list(stack.state_dict())


def test_one_layer_used_by_a_bias_of_both_forms():
    """The gradient has the shape that was given, and the numbers by distance are sums over the full table's."""
    stack = stack_of(encoder_layer)
    by_distance = np.random.default_rng(2).normal(size=(2, 5))
    full = np.stack([by_distance[:, 2 - i : 5 - i] for i in range(3)], axis=1)[None]  # (1, H, Tq, Tk)
    gradients = []
    for bias in (by_distance, full):
        _, cache = stack.forward(X, None, bias)
        (_, dmemory, dbias), _ = stack.backward(DY, cache)
        assert dmemory is None
        assert dbias.shape == bias.shape
        gradients.append(dbias)
    summed = np.zeros_like(by_distance)
    for i, j in np.ndindex(3, 3):
        summed[:, j - i + 2] += gradients[1][0, :, i, j]
    np.testing.assert_allclose(gradients[0], summed, rtol=1e-9, atol=1e-15)


# Dropout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_stands_where_pytorch_has_it(norm_first):
    """Written out: on the probabilities of both attentions, behind the activation, and between sublayer and sum.

    The masks are those of a generator of the same seed, drawn in that order.
    """
    layer = decoder_layer(dropout=0.25, norm_first=norm_first, activation="gelu")
    rng = np.random.default_rng(5)

    def dropped(x):
        return F.dropout(x, 0.25, rng)[0]

    def attention(sublayer, x, memory):
        qkv = [np.split(array @ sublayer.in_proj_weight + sublayer.in_proj_bias, 3, axis=-1) for array in (x, memory)]
        query, key, value = (split_heads(part, 2) for part in (qkv[0][0], *qkv[1][1:]))
        p, _ = F.softmax(query @ key.swapaxes(-1, -2) / np.sqrt(2))
        # Attention draws with the keys down and the queries across.
        p = dropped(p.swapaxes(-1, -2)).swapaxes(-1, -2)
        return sublayer.out_proj(merge_heads(p @ value))

    def feed_forward(sublayer, x):
        return sublayer.down(dropped(F.gelu(sublayer.up(x))[0]))

    h = X
    for part, formula, others in (
        (layer.attention, lambda sublayer, x: attention(sublayer, x, x), ()),
        (layer.cross_attention, attention, (MEMORY,)),
        (layer.feed_forward, feed_forward, ()),
    ):
        if norm_first:
            h = h + dropped(formula(part.sublayer, part.norm(h), *others))
        else:
            h = part.norm(h + dropped(formula(part.sublayer, h, *others)))
    y, _ = layer.forward(X, MEMORY, rng=np.random.default_rng(5))
    np.testing.assert_allclose(y, h, rtol=1e-10)


@pytest.mark.parametrize("keep", ["all", "inputs", None])
def test_no_two_places_share_a_draw(keep):
    """Neither in a layer nor in a stack: each layer draws from a generator of its own."""
    stack = nn.Stack([decoder_layer(seed, dropout=0.5) for seed in range(2)])
    x, memory = np.ones((2, 40, 4)), np.ones((2, 40, 4))
    with nn.trace(stack) as t:
        stack.forward(x, memory, rng=np.random.default_rng(0), keep=keep)
    parts = ("attention", "cross_attention", "feed_forward")
    zeros = [t[f"layers.{i}.{part}/dropout"].output == 0 for i in range(2) for part in parts]
    for i, j in itertools.combinations(range(len(zeros)), 2):
        assert 0.4 < (zeros[i] == zeros[j]).mean() < 0.6


def test_without_rng_there_is_none():
    layer = decoder_layer(dropout=0.5)
    np.testing.assert_array_equal(layer(X, MEMORY), decoder_layer(dropout=0.0)(X, MEMORY))


# Decoding -----------------------------------------------------------------------------------------------------------


@given(pieces=st.lists(st.integers(1, 3), min_size=1, max_size=4), norm_first=st.booleans())
def test_cached_pieces_over_a_memory_equal_the_whole(pieces, norm_first, randomized):
    model = randomized(stack_of(decoder_layer, norm_first=norm_first, causal=True))
    x = np.random.default_rng(1).normal(size=(2, sum(pieces), 4))
    caches = [nn.KVCache(), nn.KVCache()]
    split = np.split(x, np.cumsum(pieces)[:-1], axis=1)
    outputs = [model(piece, MEMORY, kv_cache=caches, memory_mask=MEMORY_MASK) for piece in split]
    whole = model(x, MEMORY, memory_mask=MEMORY_MASK)
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), whole, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [encoder_layer, decoder_layer], ids=["encoder", "decoder"])
def test_backward_after_a_cache_is_refused(make):
    layer = make(causal=True)
    memory = (MEMORY,) if make is decoder_layer else ()
    y, cache = layer.forward(X, *memory, kv_cache=nn.KVCache())
    with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: backward after a forward with kv_cache[^\n]*$"):
        layer.backward(y, cache)
    stack = nn.Stack([layer])
    for settings in ({"keep": None}, {"kv_cache": [nn.KVCache()]}):
        y, cache = stack.forward(X, *memory, **settings)
        with pytest.raises(ValueError, match=r"^Stack: backward after a forward with keep=None or a kv_cache[^\n]*$"):
            stack.backward(y, cache)


# Bad input ----------------------------------------------------------------------------------------------------------

WIDER = nn.DecoderLayer(
    nn.PostNorm(nn.LayerNorm(4, **F64), nn.MultiHeadAttention(4, 2, causal=True, rng=0, **F64)),
    nn.PostNorm(
        nn.LayerNorm(4, **F64), nn.GroupedQueryAttention(4, 2, widths=nn.AttentionWidths(memory=5), rng=0, **F64)
    ),
    nn.PostNorm(nn.LayerNorm(4, **F64), nn.FeedForward(4, 6, rng=0, **F64)),
)
OWN = "TransformerDecoderLayer: expected "
CROSS = "MultiHeadAttention: expected "
MASK = CROSS + r"a boolean mask, .* of four axes that broadcast to \(2, 2, 3, 5\), "
WRONG = {
    "no memory": (lambda layer, **s: layer.forward(X, None, **s), OWN + r"a memory \(B, Tk, C\), got None"),
    "another batch": (
        lambda layer, **s: layer.forward(X, MEMORY[:1], **s),
        OWN + r"x \(B, T, C\) and memory \(B, Tk, C\) of one batch, got \(2, 3, 4\) and \(1, 5, 4\)",
    ),
    "a memory of two axes": (
        lambda layer, **s: layer.forward(X, MEMORY[0], **s),
        OWN + r".* got \(2, 3, 4\) and \(5, 4\)",
    ),
    "another dtype": (
        lambda layer, **s: layer.forward(X, MEMORY.astype(np.float32), **s),
        OWN + r"one dtype, got x float64 and memory float32",
    ),
    "a memory mask of another length": (
        lambda layer, **s: layer.forward(X, MEMORY, memory_mask=MEMORY_MASK[..., :4], **s),
        MASK + r"got \(2, 1, 1, 4\)",
    ),
    "a memory mask of two axes": (
        lambda layer, **s: layer.forward(X, MEMORY, memory_mask=MEMORY_MASK[:, 0, 0], **s),
        MASK + r"got \(2, 5\)",
    ),
    "a memory mask of numbers": (
        lambda layer, **s: layer.forward(X, MEMORY, memory_mask=MEMORY_MASK.astype(int), **s),
        MASK + r"got int64 \(2, 1, 1, 5\)",
    ),
    "a memory mask of another batch": (
        lambda layer, **s: layer.forward(X, MEMORY, memory_mask=np.ones((3, 1, 1, 5), bool), **s),
        MASK + r"got \(3, 1, 1, 5\)",
    ),
    "a memory mask of another number of heads": (
        lambda layer, **s: layer.forward(X, MEMORY, memory_mask=np.ones((2, 3, 1, 5), bool), **s),
        MASK + r"got \(2, 3, 1, 5\)",
    ),
    "a memory of another width": (
        lambda layer, **s: layer.forward(X, np.ones((2, 5, 6)), **s),
        CROSS + r"x and memory \(B, T, 4\), got x \(2, 3, 4\) and memory \(2, 5, 6\)",
    ),
    "a memory of another width than widths.memory": (
        lambda layer, **s: WIDER.forward(X, MEMORY, **s),
        r"GroupedQueryAttention: expected x \(B, Tq, 4\), memory \(B, Tk, 5\) .* \(2, 5, 4\) and None",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_memory_is_refused_at_the_door(call, message):
    cache = nn.KVCache()
    with pytest.raises(ValueError, match=rf"^{message}$"):
        call(decoder_layer(causal=True), kv_cache=cache)
    assert len(cache) == 0, "before the cache grew"


def grown(length):
    cache = nn.KVCache()
    cache.append(np.zeros((2, 2, length, 2)), np.zeros((2, 2, length, 2)))
    return cache


STACKS = {
    "a memory for an encoder": (
        encoder_layer,
        lambda s: s(X, MEMORY),
        r"no memory for .*EncoderLayer, got one \(2, 5, 4\)",
    ),
    "no memory for a decoder": (decoder_layer, lambda s: s(X), r"a memory for layers of kind DecoderLayer, got none"),
    "a memory mask alone": (
        encoder_layer,
        lambda s: s(X, memory_mask=MEMORY_MASK),
        r"a memory with its memory_mask, .*",
    ),
    "keep": (encoder_layer, lambda s: s.forward(X, keep="some"), r"keep 'all', 'inputs' or None, got 'some'"),
    "caches of two lengths": (
        encoder_layer,
        lambda s: s(X, kv_cache=[nn.KVCache(), grown(2)]),
        r"caches of one length, got \[0, 2\]",
    ),
    "dy of another shape": (
        encoder_layer,
        lambda s: s.backward(DY[:, :2], s.forward(X)[1]),
        r"dy of the shape of y, \(2, 3, 4\), got \(2, 2, 4\)",
    ),
    "dy that would broadcast": (
        encoder_layer,
        lambda s: s.backward(np.ones(()), s.forward(X)[1]),
        r"dy of the shape of y, \(2, 3, 4\), got \(\)",
    ),
    "a cache too few": (encoder_layer, lambda s: s(X, kv_cache=[nn.KVCache()]), r"2 caches, one a layer, got 1"),
}


@pytest.mark.parametrize(("layer", "call", "message"), STACKS.values(), ids=STACKS)
def test_what_a_stack_refuses(layer, call, message):
    with pytest.raises(ValueError, match=rf"^Stack: expected {message}$"):
        call(stack_of(layer))


BUILT = {
    "heads": (lambda kind: kind(6, 4), r"MultiHeadAttention: expected heads that divide the width 6, got 4"),
    "activation": (lambda kind: kind(6, 3, activation="swish"), r"FeedForward: expected an activation of .*'swish'"),
    "hidden": (lambda kind: kind(6, 3, 0), r"FeedForward: expected hidden .* got 0"),
    "dropout": (lambda kind: kind(6, 3, 8, 1.0), r"MultiHeadAttention: expected dropout in \[0, 1\), got 1.0"),
    "eps": (lambda kind: kind(6, 3, 8, layer_norm_eps=-1.0), r"LayerNorm: expected eps .* got -1.0"),
}


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
@pytest.mark.parametrize(("build", "message"), BUILT.values(), ids=BUILT)
def test_what_a_constructor_refuses(kind, build, message):
    with pytest.raises(ValueError, match=rf"^{message}$"):
        build(kind)


def test_a_seed_gives_the_weights_and_no_part_shares_a_draw():
    for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        first, again = (kind(4, 2, 6, rng=3).state_dict() for _ in range(2))
        for name, array in first.items():
            np.testing.assert_array_equal(array, again[name])
        drawn = [array.ravel()[0] for name, array in first.items() if array.ndim == 2]
        assert len(set(drawn)) == len(drawn)
        assert {array.dtype for array in first.values()} == {np.dtype(np.float32)}


def test_a_row_that_sees_nothing_gives_zeros_and_zero_gradients():
    """Out of cross-attention into a memory that is all padding come the biases of the last projection alone."""
    layer = decoder_layer()
    hidden = np.zeros((2, 1, 1, 5), bool)
    with nn.trace(layer) as t:
        y, cache = layer.forward(X, MEMORY, memory_mask=hidden)
        (dx, dmemory, _), _ = layer.backward(DY, cache)
    assert not t["cross_attention.sublayer/scaled_dot_product_attention"].output.any()
    assert not dmemory.any()
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()
