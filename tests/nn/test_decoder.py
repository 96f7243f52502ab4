"""The stack: one result whatever is kept, the memory that keeping costs, and many calls at once."""

import gc
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn


def decoder(layers=2, width=4, *, dropout=0.0, dtype=np.float64):
    blocks = [
        nn.DecoderBlock(width, 2, 2 * width, dropout=dropout, attention_dropout=dropout, rng=i, dtype=dtype)
        for i in range(layers)
    ]
    return nn.Decoder(blocks, nn.LayerNorm(width, dtype=dtype))


def everything(module, x, dy, **settings):
    """Output, input gradient and parameter gradients of one call, by name."""
    y, cache = module.forward(x, **settings)
    dx, grads = module.backward(dy, cache)
    return {"y": y, "dx": dx, **nn.flatten(grads)}


def assert_same_bits(got, expected):
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


@given(
    layers=st.integers(1, 3),
    dropout=st.sampled_from([0.0, 0.4]),
    padding=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_keeping_inputs_gives_the_same_bits_as_keeping_all(layers, dropout, padding, dtype, seed, randomized):
    model = randomized(decoder(layers, dropout=dropout, dtype=dtype), seed)
    x, dy = np.random.default_rng(seed).normal(size=(2, 3, 5, 4)).astype(dtype)
    mask = F.padding_mask([[1, 1, 0, 1, 1]] * 3) if padding else None
    results = [
        everything(model, x, dy, mask=mask, rng=np.random.default_rng(7), keep=keep) for keep in ("all", "inputs")
    ]
    assert_same_bits(results[1], results[0])
    y, cache = model.forward(x, mask=mask, rng=np.random.default_rng(7), keep=None)
    np.testing.assert_array_equal(y, results[0]["y"])
    assert cache is None


def test_what_is_kept_does_not_change_what_the_generator_gives_next():
    model, x = decoder(dropout=0.5), np.ones((1, 2, 4))
    after = []
    for keep in ("all", "inputs", None):
        rng = np.random.default_rng(0)
        model.forward(x, rng=rng, keep=keep)
        after.append(rng.random())
    assert len(set(after)) == 1


def test_backward_twice_gives_the_same(randomized):
    model = randomized(decoder(dropout=0.3))
    x, dy = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    for keep in ("all", "inputs"):
        _, cache = model.forward(x, rng=np.random.default_rng(0), keep=keep)
        first, again = (nn.flatten(model.backward(dy, cache)[1]) for _ in range(2))
        assert_same_bits(again, first)


class OnlyDrop(nn.Module):
    """A block that does nothing but drop."""

    def forward(self, x, *, mask=None, kv_cache=None, rng=None):
        return F.dropout(x, 0.5, rng)

    def backward(self, dy, cache):
        return F.dropout_backward(dy, cache), {}


@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_layers_draw_apart(keep):
    """Of two draws at one half a quarter survives, of one draw used twice a half."""
    model = nn.Decoder([OnlyDrop(), OnlyDrop()], nn.Dropout(0.0))
    x = np.ones((20, 30, 4))
    y, cache = model.forward(x, rng=np.random.default_rng(0), keep=keep)
    assert 0.2 < (y > 0).mean() < 0.3
    np.testing.assert_array_equal(model.backward(x, cache)[0], y)
    np.testing.assert_array_equal(model.forward(x)[0], x)


def test_a_call_keeps_nothing_and_backward_is_refused():
    model, x = decoder(), np.ones((1, 2, 4))
    for settings in ({"keep": None}, {"kv_cache": [nn.KVCache(), nn.KVCache()]}):
        y, cache = model.forward(x, **settings)
        assert cache is None
        with pytest.raises(ValueError, match=r"^Decoder: backward after a forward with keep=None or a kv_cache[^\n]*$"):
            model.backward(y, cache)


@pytest.mark.parametrize("keep", ["some", True, 0])
def test_keep_is_one_of_three(keep):
    with pytest.raises(ValueError, match=r"^Decoder: expected keep 'all', 'inputs' or None, got [^\n]*$"):
        decoder().forward(np.ones((1, 2, 4)), keep=keep)


@pytest.mark.parametrize("caches", [0, 1, 3])
def test_a_cache_for_every_layer(caches):
    kv_cache = [nn.KVCache() for _ in range(caches)]
    with pytest.raises(ValueError, match=r"^Decoder: expected [^\n]*2[^\n]*$"):
        decoder().forward(np.ones((1, 2, 4)), kv_cache=kv_cache)
    assert [len(cache) for cache in kv_cache] == [0] * caches


@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_cached_pieces_equal_the_whole(pieces, randomized):
    model = randomized(decoder())
    x = np.random.default_rng(1).normal(size=(2, sum(pieces), 4))
    kv_cache = [nn.KVCache() for _ in range(2)]
    outputs = [model(piece, kv_cache=kv_cache) for piece in np.split(x, np.cumsum(pieces)[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(outputs, axis=1), model(x), rtol=1e-10, atol=1e-12)


# Memory -----------------------------------------------------------------------------------------------------------

SHAPE = (4, 32, 16)
ONE = 4 * 32 * 16 * 8  # bytes of one activation


def peak(call):
    """Most bytes that were in use above those before, in the second of two calls."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        top = tracemalloc.get_traced_memory()[1] - before
        del result
    finally:
        tracemalloc.stop()
    return top


def growth(keep, backward=False):
    """How many activations a layer more costs."""
    x = np.random.default_rng(0).normal(size=SHAPE)

    def call_of(model):
        def call():
            y, cache = model.forward(x, keep=keep)
            return model.backward(y, cache) if backward else (y, cache)

        return call

    few, many = (peak(call_of(decoder(layers, width=16))) for layers in (2, 12))
    return (many - few) / 10 / ONE


def test_without_keep_no_activation_outlives_its_layer():
    assert growth(None) < 0.1


def test_keeping_inputs_costs_one_activation_a_layer():
    assert 0.9 < growth("inputs") < 1.5
    assert growth("all") > 8


def test_recomputing_in_backward_holds_one_layer_at_a_time():
    parameters = decoder(1, width=16).layers[0].num_parameters() * 8 / ONE
    assert growth("inputs", backward=True) < 1.5 + parameters  # the gradients must live, the caches must not
    assert growth("all", backward=True) > 8


def test_a_call_keeps_nothing():
    x = np.random.default_rng(0).normal(size=SHAPE)
    shallow, deep = (peak(partial(decoder(layers, width=16), x)) for layers in (2, 12))
    assert deep - shallow < ONE


# Many calls at once -----------------------------------------------------------------------------------------------

COMPONENTS = {
    "Linear": lambda: nn.Linear(4, 4, rng=0),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "Dropout": lambda: nn.Dropout(0.5),
    "LearnedPositions": lambda: nn.LearnedPositions(9, 4, rng=0),
    "FeedForward": lambda: nn.FeedForward(4, 6, dropout=0.5, rng=0),
    "MultiHeadAttention": lambda: nn.MultiHeadAttention(4, 2, causal=True, dropout=0.5, rng=0),
    "PreNorm": lambda: nn.PreNorm(nn.RMSNorm(4), nn.FeedForward(4, 6, rng=0), dropout=0.5),
    "PostNorm": lambda: nn.PostNorm(nn.LayerNorm(4), nn.MultiHeadAttention(4, 2, rng=0), dropout=0.5),
    "Decoder": lambda: decoder(dropout=0.5, dtype=np.float32),
    "Decoder, inputs": lambda: decoder(dropout=0.5, dtype=np.float32),
}
RANDOM = ("Dropout", "FeedForward", "MultiHeadAttention", "PreNorm", "PostNorm", "Decoder", "Decoder, inputs")


def settings_of(name, seed):
    settings = {"rng": np.random.default_rng(seed)} if name in RANDOM else {}
    return settings | ({"keep": "inputs"} if name == "Decoder, inputs" else {})


def parts_of(y, dinputs, grads):
    first = dinputs[0] if isinstance(dinputs, tuple) else dinputs
    return {"y": y, "dx": first, **nn.flatten(grads)}


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first in, first out", "last in, first out"])
def test_two_forwards_then_two_backwards(name, order, randomized):
    module = randomized(COMPONENTS[name]())
    drawn = np.random.default_rng(1).normal(size=(2, 2, 2, 5, 4)).astype(np.float32)
    inputs = [(drawn[0, 0], drawn[0, 1], 3), (drawn[1, 0][:1, :3], drawn[1, 1][:1, :3], 4)]  # of two shapes
    alone = []
    for x, dy, seed in inputs:
        y, cache = module.forward(x, **settings_of(name, seed))
        alone.append(parts_of(y, *module.backward(dy, cache)))
    forwards = [module.forward(x, **settings_of(name, seed)) for x, _, seed in inputs]
    for k in order:
        y, cache = forwards[k]
        assert_same_bits(parts_of(y, *module.backward(inputs[k][1], cache)), alone[k])


def test_threads_give_the_bits_of_one_after_another(randomized):
    model = randomized(decoder(3, dropout=0.3))
    drawn = np.random.default_rng(1).normal(size=(24, 2, 2, 6, 4))

    def step(k):
        keep = ("all", "inputs")[k % 2]
        x, dy = drawn[k, :, :, : 1 + k % 6]
        return everything(model, x, dy, rng=np.random.default_rng(k), keep=keep)

    sequential = [step(k) for k in range(len(drawn))]
    ready = threading.Barrier(4)
    with ThreadPoolExecutor(4, initializer=ready.wait) as pool:
        for got, expected in zip(pool.map(step, range(len(drawn))), sequential, strict=True):
            assert_same_bits(got, expected)
