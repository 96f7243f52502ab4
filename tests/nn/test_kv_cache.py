"""The caches: they grow, follow beams, give back what was put in, and refuse what does not belong to them."""

from itertools import pairwise

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


# Beams --------------------------------------------------------------------------------------------------------------


def copied(key, value, rows, length):
    return key[rows][:, :, :length], value[rows][:, :, :length]


@given(data=st.data(), seed=st.integers(0, 99))
def test_any_turn_of_growing_reordering_and_cropping_gives_what_copies_give(data, seed):
    rng = np.random.default_rng(seed)
    cache, batch = nn.KVCache(), 3
    key, value = np.zeros((batch, 2, 0, 4)), np.zeros((batch, 2, 0, 5))
    for act in data.draw(st.lists(st.sampled_from(["append", "reorder", "crop"]), min_size=1, max_size=12)):
        if act == "reorder" and key.shape[2]:
            rows = np.array(data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=7)))
            cache.reorder(rows)
            key, value = copied(key, value, rows, key.shape[2])
            batch = len(rows)
        elif act == "crop":
            length = data.draw(st.integers(0, key.shape[2]))
            cache.crop(length)
            key, value = copied(key, value, np.arange(batch), length)
        new = rng.normal(size=(batch, 2, data.draw(st.integers(1, 9)), 9))
        key, value = np.concatenate([key, new[..., :4]], axis=2), np.concatenate([value, new[..., 4:]], axis=2)
        got = cache.append(new[..., :4], new[..., 4:])
        np.testing.assert_array_equal(got[0], key)
        np.testing.assert_array_equal(got[1], value)
        assert len(cache) == key.shape[2]


def test_a_step_of_beams_moves_nothing_but_what_parts_them():
    """The past that two beams share is not written again, nor a beam that goes on as it was."""
    cache, rng = nn.KVCache(), np.random.default_rng(0)
    cache.append(*rng.normal(size=(2, 1, 1, 30, 4)))
    cache.reorder(np.zeros(3, int))  # three beams of one prompt
    key, _ = cache.append(*rng.normal(size=(2, 3, 1, 2, 4)))
    buffer, before = key.base, key.copy()
    buffer[1, :, :30] = np.nan  # whatever would be copied of the shared past, or of row 1, spoils the others
    cache.reorder(np.array([1, 1, 2]))
    assert cache._key.base is buffer or cache._key is buffer, "in place"
    np.testing.assert_array_equal(buffer[0, :, :30], before[0, :, :30])
    np.testing.assert_array_equal(buffer[0, :, 30:32], before[1, :, 30:32])
    np.testing.assert_array_equal(buffer[2, :, :32], before[2])


def test_beams_that_change_places():
    cache = nn.KVCache()
    key = np.arange(3.0).reshape(3, 1, 1, 1)
    cache.append(key, key)
    cache.reorder(np.array([2, 0, 1]))
    got, _ = cache.append(key, key)
    np.testing.assert_array_equal(got[:, 0, 0, 0], [2, 0, 1])


REORDERS = {
    "a row that is not there": (np.array([0, 3]), r"rows in \[0, 3\), got 3"),
    "a row before the first": (np.array([-1]), r"rows in \[0, 3\), got -1"),
    "none": (np.array([], int), r"rows as integers \(B,\), not empty, got int64 \(0,\)"),
    "numbers": (np.zeros(3), r"rows as integers .* got float64 \(3,\)"),
    "of two axes": (np.zeros((3, 1), int), r"rows as integers .* got int64 \(3, 1\)"),
}


@pytest.mark.parametrize(("rows", "message"), REORDERS.values(), ids=REORDERS)
@pytest.mark.parametrize("kind", [nn.KVCache, nn.MemoryCache])
def test_rows_that_are_refused(kind, rows, message):
    cache = kind()
    (cache.append if kind is nn.KVCache else cache.fill)(ones(3, 2, 4, 4), ones(3, 2, 4, 4))
    with pytest.raises(ValueError, match=rf"^{kind.__name__}: expected [^\n]*{message}$"):
        cache.reorder(rows)


@pytest.mark.parametrize("length", [4, -1, 1.0])
def test_a_crop_that_is_refused(length):
    cache = nn.KVCache()
    cache.append(ones(1, 1, 3, 2), ones(1, 1, 3, 2))
    with pytest.raises(ValueError, match=r"^KVCache: expected [^\n]*length[^\n]*$"):
        cache.crop(length)
    assert len(cache) == 3


def test_a_cache_of_nothing_has_no_rows_to_turn():
    for cache in (nn.KVCache(), nn.MemoryCache(), nn.DecoderLayerCache()):
        cache.reorder(np.array([5, 7]))
        assert len(cache) == 0
    with pytest.raises(ValueError, match=r"^KVCache: expected rows"):
        nn.KVCache().reorder(np.array(0))


# A memory -----------------------------------------------------------------------------------------------------------


def packed(randomized, **options):
    return randomized(nn.MultiHeadAttention(6, 2, dtype=np.float64, **options))


def grouped(randomized, **options):
    return randomized(nn.GroupedQueryAttention(6, 4, 2, widths=nn.AttentionWidths(3), dtype=np.float64, **options))


MEMORY = np.random.default_rng(8).normal(size=(3, 5, 6))
SEEN = np.random.default_rng(9).random((3, 5)) < 0.6


@pytest.mark.parametrize("make", [packed, grouped])
@given(
    steps=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4),
    form=st.sampled_from(["keys", "queries", "all", None]),
    bias=st.sampled_from(["keys", "distance", "rows", None]),
    length=st.integers(1, 3),
)
def test_beams_over_a_memory_give_what_copies_of_it_give(steps, form, bias, length, make, randomized):
    """Whatever rows ask, in whatever order: those of a source side by side share its keys, others get copies."""
    attention, cache = make(randomized), nn.MemoryCache()
    rng, heads = np.random.default_rng(1), attention.num_heads
    sources, rows = np.arange(3), np.arange(3)
    for choice in ([0, 1, 2], *steps):
        if choice != [0, 1, 2]:
            rows = np.array(choice) % len(sources)
            cache.reorder(rows)
            sources = sources[rows]
        batch = len(sources)
        x = rng.normal(size=(batch, length, 6))
        mask = {
            "keys": SEEN[sources][:, None, None],
            "queries": rng.random((1, 1, length, 5)) < 0.6,
            "all": rng.random((batch, heads, length, 5)) < 0.6,
        }.get(form)
        scores = {
            "keys": rng.normal(size=(1, heads, 1, 5)),
            "distance": rng.normal(size=(heads, length + 4)),
            "rows": rng.normal(size=(batch, 1, length, 5)),
        }.get(bias)
        inputs = (None, scores) if make is grouped else (scores,)
        (expected, shown), _ = attention.forward(x, MEMORY[sources], *inputs, mask=mask, need_weights=True)
        settings = {"mask": mask, "kv_cache": cache}
        (y, weights), back = attention.forward(x, MEMORY, *inputs, **settings, need_weights=True)
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(weights, shown, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(attention(x, MEMORY, *inputs, **settings), expected, rtol=1e-11, atol=1e-12)
        assert back is None
        assert len(cache) == 5


@pytest.mark.parametrize("make", [packed, grouped])
def test_a_memory_is_projected_once_and_copied_for_no_beam(make, randomized):
    attention, cache, x = make(randomized), nn.MemoryCache(), np.ones((3, 1, 6))
    attention(x, MEMORY, kv_cache=cache)
    key = cache.key
    with nn.trace(attention) as t:
        attention(x, MEMORY, kv_cache=cache)
    products = [name for name in t.sites if name.endswith("/linear")]
    assert len(products) == 2, "of the queries, and at the end"
    for rows in (np.repeat(np.arange(3), 4), np.array([1, 0, 0, 3, 4, 4, 4, 7, 11, 10, 9, 8])):
        cache.reorder(rows)
        assert (cache.key is key, cache.beams) == (True, 4)
    cache.reorder(np.arange(8))  # the third source is done
    assert (len(cache.key), cache.beams) == (2, 4)
    np.testing.assert_array_equal(cache.key, key[:2])


def filled(attention, beams=1):
    cache = nn.MemoryCache()
    attention(np.ones((3, 1, 6)), MEMORY, kv_cache=cache)
    if beams > 1:
        cache.reorder(np.repeat(np.arange(3), beams))
    return cache


X3 = np.ones((3, 1, 6))
REFUSED = {
    "another memory": (lambda a: a(X3, MEMORY.copy(), kv_cache=filled(a)), "the very memory .*, got another"),
    "other rows": (lambda a: a(X3, MEMORY, kv_cache=filled(a, 2)), r"x of the 6 rows .*, got \(3, 1, 6\)"),
    "no memory": (lambda a: a(X3, kv_cache=nn.MemoryCache()), "a memory with a MemoryCache, got none"),
    "another batch": (lambda a: a(X3[:2], MEMORY, kv_cache=nn.MemoryCache()), "x and memory of one batch, got .*"),
    "a layer's": (
        lambda a: a(X3, kv_cache=nn.DecoderLayerCache()),
        "a KVCache or a MemoryCache, got DecoderLayerCache",
    ),
    "the tokens'": (lambda a: a(X3, MEMORY, kv_cache=nn.KVCache()), "no memory with a KVCache, .*"),
}


@pytest.mark.parametrize("make", [packed, grouped])
@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_a_memory_s_cache_is_refused(call, message, make, randomized):
    with pytest.raises(ValueError, match=rf"^(MultiHead|GroupedQuery)Attention: expected {message}$"):
        call(make(randomized))


@pytest.mark.parametrize("make", [packed, grouped])
@pytest.mark.parametrize("options", [{"causal": True}, {"window": 2}], ids=str)
def test_queries_over_a_kept_memory_have_no_places(options, make, randomized):
    cache = nn.MemoryCache()
    with pytest.raises(ValueError, match=r"^\w+Attention: expected neither causal nor window with a MemoryCache"):
        make(randomized, **options)(X3, MEMORY, kv_cache=cache)
    assert len(cache) == 0


# Beams through a stack ----------------------------------------------------------------------------------------------


def decoder(randomized, kind):
    if kind == "encoder":
        layers = [nn.TransformerEncoderLayer(6, 2, 8, causal=True, dtype=np.float64) for _ in range(2)]
    else:
        layers = [nn.TransformerDecoderLayer(6, 2, 8, causal=True, dtype=np.float64) for _ in range(2)]
    return randomized(nn.Stack(layers, nn.LayerNorm(6, dtype=np.float64)))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@given(steps=st.integers(1, 4), data=st.data())
def test_beams_of_a_stack_give_what_each_would_give_alone(kind, steps, data, randomized):
    """Three sources, two beams each; at each step every beam goes on from either of its source."""
    stack, rng = decoder(randomized, kind), np.random.default_rng(5)
    memory = (MEMORY,) if kind == "decoder" else ()
    caches = stack.new_cache()
    past = rng.normal(size=(3, 4, 6))
    stack(past, *memory, kv_cache=caches)
    rows = np.repeat(np.arange(3), 2)
    for _ in range(steps):
        for cache in caches:
            cache.reorder(rows)
        new = rng.normal(size=(6, 1, 6))
        past = np.concatenate([past[rows], new], axis=1)
        y = stack(new, *memory, kv_cache=caches)
        alone = stack(past, *(array.repeat(2, axis=0) for array in memory))
        np.testing.assert_allclose(y, alone[:, -1:], rtol=1e-10, atol=1e-12)
        rows = np.array([2 * (i // 2) + data.draw(st.integers(0, 1)) for i in range(6)])


def test_left_padding_over_a_memory_with_a_cache(randomized):
    """Positions a row, padding on the left, beams from the second step on: real rows give what they give alone."""

    def layer(seed):
        def attention(**options):
            return nn.GroupedQueryAttention(6, 3, 1, **options, rng=seed, dtype=np.float64)

        own, cross = attention(rotary=nn.Rotary("half", base=20.0), causal=True), attention()
        parts = own, cross, nn.FeedForward(6, 8, rng=seed, dtype=np.float64)
        return nn.DecoderLayer(*(nn.PreNorm(nn.RMSNorm(6, dtype=np.float64), part) for part in parts))

    stack = randomized(nn.Stack([layer(0), layer(1)]))
    x, pad = np.random.default_rng(2).normal(size=(3, 6, 6)), [2, 0, 1]
    real = np.arange(6) >= np.array(pad)[:, None]
    places, shown = np.maximum(real.cumsum(axis=1) - 1, 0), real[:, None, None]
    caches, seen = stack.new_cache(), SEEN[:, None, None]
    for beams, (a, b) in zip((1, 1, 2, 2), pairwise((0, 3, 4, 5, 6)), strict=True):
        if beams == 2 and caches[0].cross_attention.beams == 1:
            for cache in caches:
                cache.reorder(np.repeat(np.arange(3), 2))
        piece, *others = (array.repeat(beams, axis=0) for array in (x[:, a:b], places[:, a:b], shown[..., :b], seen))
        settings = dict(zip(("positions", "mask", "memory_mask"), others, strict=True))
        y = stack(piece, MEMORY, kv_cache=caches, **settings)[::beams]
        for row, first in enumerate(pad):
            alone = stack(x[row : row + 1, first:b], MEMORY[row : row + 1], memory_mask=seen[row : row + 1])
            np.testing.assert_allclose(y[row, max(first - a, 0) :], alone[0, max(a - first, 0) :], rtol=1e-10)
