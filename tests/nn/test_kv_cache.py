"""The key-value cache: it grows, it gives back what was put in, and refuses what does not belong to it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import nn


@given(pieces=st.lists(st.integers(1, 20), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_appending_gives_everything_so_far(pieces, seed):
    rng = np.random.default_rng(seed)
    cache, keys, values = nn.KVCache(), [], []
    assert len(cache) == 0
    for length in pieces:
        keys.append(rng.normal(size=(2, 3, length, 4)))
        values.append(rng.normal(size=(2, 3, length, 5)))
        key, value = cache.append(keys[-1], values[-1])
        np.testing.assert_array_equal(key, np.concatenate(keys, axis=2))
        np.testing.assert_array_equal(value, np.concatenate(values, axis=2))
        assert len(cache) == key.shape[2]


def test_the_buffers_double_and_are_not_copied_at_every_step():
    cache, one = nn.KVCache(), np.ones((1, 1, 1, 2), np.float32)
    buffers = {cache.append(one, one)[0].base.shape[2] for _ in range(100)}
    assert len(buffers) <= 5
    assert max(buffers) < 256


def test_what_was_given_is_copied():
    cache, key = nn.KVCache(), np.ones((1, 1, 2, 2))
    cache.append(key, key)
    key[...] = 5
    np.testing.assert_array_equal(cache.append(key, key)[0][0, 0, :, 0], [1, 1, 5, 5])


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


MISFITS = {
    "another batch": (ones(2, 2, 1, 4), ones(2, 2, 1, 4)),
    "other heads": (ones(1, 3, 1, 4), ones(1, 3, 1, 4)),
    "key of another width": (ones(1, 2, 1, 3), ones(1, 2, 1, 4)),
    "key of width one": (ones(1, 2, 1, 1), ones(1, 2, 1, 4)),
    "value of another width": (ones(1, 2, 1, 4), ones(1, 2, 1, 1)),
    "value of another length": (ones(1, 2, 3, 4), ones(1, 2, 1, 4)),
    "another dtype": (ones(1, 2, 1, 4, dtype=np.float32), ones(1, 2, 1, 4, dtype=np.float32)),
}


@pytest.mark.parametrize(("key", "value"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_and_changes_nothing(key, value):
    cache = nn.KVCache()
    cache.append(ones(1, 2, 3, 4), ones(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"^KVCache: expected [^\n]*$"):
        cache.append(2 * key, 2 * value)
    assert len(cache) == 3
    whole, _ = cache.append(ones(1, 2, 1, 4), ones(1, 2, 1, 4))
    np.testing.assert_array_equal(whole, ones(1, 2, 4, 4))


def test_a_value_of_another_length_is_refused_at_the_first_call_too():
    with pytest.raises(ValueError, match=r"^KVCache: expected [^\n]*$"):
        nn.KVCache().append(ones(1, 2, 3, 4), ones(1, 2, 1, 4))


@given(pieces=st.lists(st.integers(1, 4), min_size=1, max_size=4), window=st.none() | st.integers(1, 5))
def test_attention_in_pieces_equals_attention_at_once(pieces, window, randomized):
    layer = randomized(nn.MultiHeadAttention(6, 2, causal=True, window=window, dtype=np.float64))
    x = np.random.default_rng(3).normal(size=(2, sum(pieces), 6))
    cache = nn.KVCache()
    cuts = np.cumsum(pieces)[:-1]
    y = np.concatenate([layer(piece, kv_cache=cache) for piece in np.split(x, cuts, axis=1)], axis=1)
    np.testing.assert_allclose(y, layer(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.MultiHeadAttention, nn.PreNorm, nn.DecoderBlock])
def test_backward_after_a_kv_cache_is_refused(kind):
    x = np.ones((1, 2, 4), np.float32)
    attention = nn.MultiHeadAttention(4, 2, causal=True, rng=0)
    module = {
        nn.MultiHeadAttention: attention,
        nn.PreNorm: nn.PreNorm(nn.LayerNorm(4), attention),
        nn.DecoderBlock: nn.DecoderBlock(4, 2, 8, rng=0),
    }[kind]
    y, cache = module.forward(x, kv_cache=nn.KVCache())
    with pytest.raises(ValueError, match=r"^\w+: backward after a forward with kv_cache[^\n]*$"):
        module.backward(y, cache)


def test_a_call_that_fails_leaves_the_cache_as_it_was(randomized):
    layer = randomized(nn.MultiHeadAttention(4, 2, causal=True, dtype=np.float64))
    x = np.random.default_rng(0).normal(size=(1, 3, 4))
    cache = nn.KVCache()
    layer(x[:, :2], kv_cache=cache)
    with pytest.raises(ValueError, match="mask"):
        layer(x[:, 2:], kv_cache=cache, mask=np.ones((1, 1, 1, 1), float))
    with pytest.raises(ValueError, match="mask"):
        layer(x[:, 2:], kv_cache=cache, mask=np.ones((1, 1, 1, 7), bool))
    assert len(cache) == 2
    np.testing.assert_allclose(layer(x[:, 2:], kv_cache=cache), layer(x)[:, 2:], rtol=1e-11)
