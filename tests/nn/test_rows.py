"""Inference in pieces of rows gives what the whole batch gives, with the same bits on any number of threads."""

import numpy as np
import pytest

import numtx
from numtx import functional as F
from numtx import nn
from numtx.functional import threads
from numtx.nn import rows


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(rows, "TOKENS", 8)  # two rows of four tokens
    monkeypatch.setattr(threads._state, "chosen", 1)


RNG = np.random.default_rng(0)
X, MEMORY = RNG.normal(size=(5, 4, 6)), RNG.normal(size=(5, 3, 6))
PADDED = F.padding_mask(np.arange(4) < np.array([4, 2, 3, 1, 4])[:, None])
MEMORY_PADDED = F.padding_mask(np.arange(3) < np.array([1, 2, 3, 1, 2])[:, None])


def encoder(randomized, norm=True):
    layers = [nn.TransformerEncoderLayer(6, 2, 8, dropout=0.5, dtype=np.float64) for _ in range(2)]
    return randomized(nn.Stack(layers, nn.LayerNorm(6, dtype=np.float64) if norm else None))


def decoder(randomized):
    layers = [nn.TransformerDecoderLayer(6, 2, 8, causal=True, dtype=np.float64) for _ in range(2)]
    return randomized(nn.Stack(layers))


def rotary(randomized):
    def layer():
        attention = nn.GroupedQueryAttention(6, 3, rotary=nn.Rotary("half"), causal=True, dtype=np.float64)
        return nn.EncoderLayer(
            nn.PreNorm(nn.RMSNorm(6, dtype=np.float64), attention),
            nn.PreNorm(nn.RMSNorm(6, dtype=np.float64), nn.FeedForward(6, 8, dtype=np.float64)),
        )

    return randomized(nn.Stack([layer(), layer()]))


def watched(stack, monkeypatch):
    """Return the list of the shapes of x that the first layer will be given."""
    shapes, forward = [], stack.layers[0].forward

    def watching(x, *inputs, **settings):
        shapes.append(x.shape)
        return forward(x, *inputs, **settings)

    monkeypatch.setitem(vars(stack.layers[0]), "forward", watching)
    return shapes


CASES = {
    "no mask": (encoder, (X,), {}),
    "padding": (encoder, (X,), {"mask": PADDED}),
    "one mask for all": (encoder, (X,), {"mask": RNG.random((1, 2, 4, 4)) < 0.7}),
    "a bias for each row": (encoder, (X, None, RNG.normal(size=(5, 1, 4, 4))), {"mask": PADDED}),
    "one bias for all": (encoder, (X, None, RNG.normal(size=(1, 2, 4, 4))), {}),
    "a bias by distance": (encoder, (X, None, RNG.normal(size=(2, 7))), {"mask": PADDED}),
    "a memory": (decoder, (X, MEMORY), {"mask": PADDED, "memory_mask": MEMORY_PADDED}),
    "positions for each row": (rotary, (X,), {"positions": RNG.integers(9, size=(5, 4)), "mask": PADDED}),
    "positions for all": (rotary, (X,), {"positions": np.array([3, 4, 5, 7])}),
}


@pytest.mark.parametrize(("make", "inputs", "settings"), CASES.values(), ids=CASES)
def test_pieces_give_what_the_whole_gives(make, inputs, settings, randomized, monkeypatch):
    stack = make(randomized)
    shapes = watched(stack, monkeypatch)
    pieces, cache = stack.forward(*inputs, keep=None, **settings)
    assert cache is None
    assert shapes == [(2, 4, 6), (2, 4, 6), (1, 4, 6)]
    whole, _ = stack.forward(*inputs, keep="all", **settings)
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-12)


def test_any_number_of_threads_gives_the_same_bits(randomized):
    stack = encoder(randomized)
    one = stack(X, mask=PADDED)
    before = threads.get_num_threads()
    try:
        numtx.set_num_threads(3)
        np.testing.assert_array_equal(stack(X, mask=PADDED), one)
    finally:
        numtx.set_num_threads(before)


@pytest.fixture
def seen(randomized, monkeypatch):
    stack = encoder(randomized, norm=False)
    return stack, watched(stack, monkeypatch)


def test_what_is_cut_and_what_is_not(seen):
    stack, shapes = seen
    stack(X)
    assert shapes == [(2, 4, 6), (2, 4, 6), (1, 4, 6)]
    whole = [
        lambda: stack.forward(X, keep="all"),
        lambda: stack.forward(X, keep="inputs"),
        lambda: stack.forward(X, keep=None, rng=np.random.default_rng(0)),  # dropout draws for the batch
        lambda: stack(X, kv_cache=[nn.KVCache(), nn.KVCache()]),
    ]
    for call in whole:
        shapes.clear()
        call()
        assert shapes == [X.shape]


def test_a_long_row_is_a_piece(seen, monkeypatch):
    stack, shapes = seen
    monkeypatch.setattr(rows, "TOKENS", 3)
    stack(X)
    assert shapes == [(1, 4, 6)] * 5


def test_a_trace_sees_the_batch_as_one(randomized):
    stack = encoder(randomized)
    with nn.trace(stack) as trace:
        stack(X, mask=PADDED)
    assert trace["layers.0"].output.shape == X.shape
    assert not [name for name in trace if "#" in name.partition("/")[0]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mask": np.ones((4, 1, 1, 4), bool)}, r"\(5, 2, 4, 4\), got \(4, 1, 1, 4\)"),
        ({"mask": np.ones((5, 1, 1, 3), bool)}, r"\(5, 2, 4, 4\), got \(5, 1, 1, 3\)"),
        ({"mask": [[True]]}, "boolean mask"),
        ({"memory": MEMORY}, "expected no memory"),
    ],
)
def test_what_is_wrong_is_said_with_the_shapes_of_the_whole(randomized, settings, said):
    with pytest.raises(ValueError, match=said):
        encoder(randomized)(X, **settings)


LENGTHS = {"of all lengths": [4, 2, 3, 1, 4], "one without a token": [3, 0, 4, 4, 2], "all full": [4] * 5}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_by_length_gives_real_tokens_what_padding_would_not_change(lengths, randomized, monkeypatch):
    stack = encoder(randomized)
    real = np.arange(4) < np.array(lengths)[:, None]
    mask = F.padding_mask(real)
    whole, _ = stack.forward(X, mask=mask, keep="all")
    y = rows.by_length(stack, X, mask)
    np.testing.assert_allclose(y, np.where(real[..., None], whole, 0), rtol=0, atol=1e-12)


def test_by_length_with_padding_on_the_left_and_between(randomized):
    stack = encoder(randomized)
    real = np.array([[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    whole, _ = stack.forward(X, mask=F.padding_mask(real), keep="all")
    y = rows.by_length(stack, X, F.padding_mask(real))
    np.testing.assert_allclose(y, np.where(real[..., None], whole, 0), rtol=0, atol=1e-12)


def test_by_length_computes_no_more_than_it_must(randomized, monkeypatch):
    stack = encoder(randomized)
    shapes = watched(stack, monkeypatch)
    rows.by_length(stack, X, PADDED)  # lengths 4, 2, 3, 1, 4
    assert shapes == [(2, 4, 6), (2, 3, 6), (1, 1, 6)]


def test_by_length_never_reads_padding(randomized):
    stack = encoder(randomized)
    spoiled = np.where(PADDED[:, 0, 0, :, None], X, np.nan)
    np.testing.assert_array_equal(rows.by_length(stack, spoiled, PADDED), rows.by_length(stack, X, PADDED))
