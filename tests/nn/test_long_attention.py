"""Attention components take the tiled form where sequences are long, and give the same."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.nn import attention_parts


@pytest.fixture
def called(monkeypatch):
    """Which form was called, in order; sequences of 4 are long."""
    names = []

    def noting(name, function):
        def call(*args, **keywords):
            names.append(name)
            return function(*args, **keywords)

        return call

    for name in ("tiled_attention", "scaled_dot_product_attention"):
        for full in (name, name + "_backward"):
            monkeypatch.setattr(F, full, noting(full, getattr(F, full)))
    monkeypatch.setattr(attention_parts, "LONG", 4)
    return names


COMPONENTS = {
    "multi-head": lambda: nn.MultiHeadAttention(8, 2, causal=True, rng=0, dtype=np.float64),
    "grouped": lambda: nn.GroupedQueryAttention(8, 4, 2, rotary=nn.Rotary("half"), window=3, rng=0, dtype=np.float64),
}


@pytest.mark.parametrize("make", COMPONENTS.values(), ids=COMPONENTS)
def test_long_and_short_give_the_same(make, called, monkeypatch):
    module = make()
    x, dy = np.random.default_rng(1).standard_normal((2, 2, 6, 8))
    mask = F.padding_mask(np.array([[1] * 6, [1] * 4 + [0] * 2]))
    y, cache = module.forward(x, mask=mask)
    (dx, *_), grads = module.backward(dy, cache)
    assert called == ["tiled_attention", "tiled_attention_backward"]
    monkeypatch.setattr(attention_parts, "LONG", 1000)
    expected, cache = module.forward(x, mask=mask)
    (expected_dx, *_), expected_grads = module.backward(dy, cache)
    assert called[2:] == ["scaled_dot_product_attention", "scaled_dot_product_attention_backward"]
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-10, atol=1e-12)
    ours, theirs = nn.flatten(grads), nn.flatten(expected_grads)
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("make", COMPONENTS.values(), ids=COMPONENTS)
def test_where_weights_are_asked_for_they_exist(make, called):
    module = make()
    x = np.random.default_rng(1).standard_normal((1, 6, 8))
    (y, weights), _ = module.forward(x, need_weights=True)
    assert called == ["scaled_dot_product_attention"]
    assert weights.shape == (1, module.num_heads, 6, 6)
    np.testing.assert_allclose(module(x), y, rtol=1e-12, atol=1e-13)


def test_a_query_at_a_time_is_not_long(called, monkeypatch):
    monkeypatch.setattr(attention_parts, "LONG", 16)
    module, cache = COMPONENTS["multi-head"](), nn.KVCache()
    x = np.random.default_rng(1).standard_normal((1, 80, 8))
    full = module(x)
    assert called == ["tiled_attention"]
    steps = [module.forward(x[:, n : n + 1], kv_cache=cache)[0] for n in range(80)]
    assert called[1:] == ["scaled_dot_product_attention"] * 80
    np.testing.assert_allclose(np.concatenate(steps, axis=1), full, rtol=1e-11, atol=1e-12)


def test_what_is_long():
    assert attention_parts.suits_tiles(768, 768)
    assert not attention_parts.suits_tiles(1, 1 << 24)
    assert not attention_parts.suits_tiles(767, 768)
