"""Multi-head attention against loops over rows, heads and queries; who may influence whom, proved from gradients."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn


def by_loops(layer, x, memory=None, bias=None, mask=None):
    """Every query by itself: its scores, its softmax, its weighted sum."""
    memory = x if memory is None else memory
    width, heads = layer.width, layer.num_heads
    head_width = width // heads
    projection_bias = np.zeros(3 * width) if layer.in_proj_bias is None else layer.in_proj_bias
    w_q, w_k, w_v = np.split(layer.in_proj_weight, 3, axis=1)
    b_q, b_k, b_v = np.split(projection_bias, 3)
    batch, tq, tk = len(x), x.shape[1], memory.shape[1]
    y = np.zeros((batch, tq, width))
    for b in range(batch):
        q, k, v = x[b] @ w_q + b_q, memory[b] @ w_k + b_k, memory[b] @ w_v + b_v
        for h in range(heads):
            part = slice(h * head_width, (h + 1) * head_width)
            for i in range(tq):
                seen = [j for j in range(tk) if may_attend(layer, i, j, tq, tk) and (mask is None or mask[b, h, i, j])]
                if not seen:
                    continue
                scores = [q[i, part] @ k[j, part] / math.sqrt(head_width) for j in seen]
                if bias is not None:
                    scores = [score + bias[b, h, i, j] for score, j in zip(scores, seen, strict=True)]
                weights = np.exp(np.array(scores) - max(scores))
                y[b, i, part] = (weights / weights.sum()) @ v[seen][:, part]
    out_bias = 0 if layer.out_proj.bias is None else layer.out_proj.bias
    return y @ layer.out_proj.weight + out_bias


def may_attend(layer, i, j, tq, tk):
    distance = i + tk - tq - j  # how far key j lies behind query i
    if layer.causal and distance < 0:
        return False
    return layer.window is None or (distance < layer.window and (layer.causal or distance > -layer.window))


CASES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "tq": st.integers(1, 6),
        "tk": st.none() | st.integers(1, 6),  # None: self-attention
        "heads": st.sampled_from([1, 2, 3]),
        "head_width": st.integers(1, 4),
        "causal": st.booleans(),
        "window": st.none() | st.integers(1, 7),
        "bias": st.booleans(),
        "scores": st.booleans(),
        "mask": st.sampled_from(["none", "padding", "full"]),
        "seed": st.integers(0, 2**16),
    }
)


def build(case, randomized):
    layer = nn.MultiHeadAttention(
        case["heads"] * case["head_width"],
        case["heads"],
        causal=case["causal"],
        window=case["window"],
        bias=case["bias"],
        dtype=np.float64,
    )
    rng = np.random.default_rng(case["seed"])
    tk = case["tq"] if case["tk"] is None else case["tk"]
    x = rng.normal(size=(case["batch"], case["tq"], layer.width))
    memory = None if case["tk"] is None else rng.normal(size=(case["batch"], tk, layer.width))
    shape = (case["batch"], case["heads"], case["tq"], tk)
    bias = rng.normal(size=shape) if case["scores"] else None
    mask = None
    if case["mask"] == "padding":
        mask = rng.random((case["batch"], 1, 1, tk)) < 0.6
    elif case["mask"] == "full":
        mask = rng.random(shape) < 0.6
    return randomized(layer, seed=case["seed"] + 1), x, memory, bias, mask, shape


@given(case=CASES)
def test_equals_loops_over_heads(case, randomized):
    layer, x, memory, bias, mask, shape = build(case, randomized)
    full = None if mask is None else np.broadcast_to(mask, shape)
    y, cache = layer.forward(x, memory, bias, mask=mask)
    np.testing.assert_allclose(y, by_loops(layer, x, memory, bias, full), rtol=1e-10, atol=1e-10)
    (dx, dmemory, dbias), _ = layer.backward(np.ones_like(y), cache)
    assert dx.shape == x.shape
    assert (dmemory is None) == (memory is None)
    assert (dbias is None) == (bias is None)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize(("tq", "tk"), [(2, 5), (5, 2), (4, 4), (1, 5), (70, 150)])
def test_the_newest_query_stands_at_the_newest_key(tq, tk, window, causal, randomized):
    """Causal and window count from the end, whichever side is longer; 70 queries take more than one block."""
    layer = randomized(nn.MultiHeadAttention(4, 2, causal=causal, window=window, dtype=np.float64))
    x, memory = (np.random.default_rng(k).normal(size=(1, length, 4)) for k, length in enumerate((tq, tk)))
    np.testing.assert_allclose(layer(x, memory), by_loops(layer, x, memory), rtol=1e-10, atol=1e-10)


@given(case=CASES, data=st.data())
def test_one_output_has_gradients_for_exactly_what_it_may_see(case, randomized, data):
    layer, x, _, bias, mask, shape = build({**case, "tk": case["tk"] or case["tq"]}, randomized)
    memory = np.random.default_rng(case["seed"] + 2).normal(size=(shape[0], shape[3], layer.width))
    b, i = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[2] - 1))
    y, cache = layer.forward(x, memory, bias, mask=mask)
    dy = np.zeros_like(y)
    dy[b, i] = np.random.default_rng(1).normal(size=layer.width)
    (_, dmemory, _), _ = layer.backward(dy, cache)
    full = np.ones(shape, bool) if mask is None else np.broadcast_to(mask, shape)
    for j in range(shape[3]):
        seen = may_attend(layer, i, j, *shape[2:]) and full[b, :, i, j].any()
        assert dmemory[b, j].any() == seen, f"query {i}, key {j}"
    assert not np.delete(dmemory, b, axis=0).any()


@given(case=CASES)
def test_what_is_masked_may_be_anything(case, randomized):
    """Bit-identical whatever stands in a masked key, a NaN included, and masked keys get a gradient of zero."""
    layer, x, _, bias, _, shape = build({**case, "tk": case["tk"] or case["tq"]}, randomized)
    rng = np.random.default_rng(case["seed"] + 2)
    memory = rng.normal(size=(shape[0], shape[3], layer.width))
    real = rng.random((shape[0], shape[3])) < 0.6
    mask = F.padding_mask(real)
    results = []
    for garbage in (0.0, 1e3, np.nan):
        spoilt = np.where(real[..., None], memory, garbage)
        y, cache = layer.forward(x, spoilt, bias, mask=mask)
        (dx, dmemory, dbias), _ = layer.backward(np.ones_like(y), cache)
        assert not dmemory[~real].any()
        results.append([y, dx, dmemory, np.zeros(1) if dbias is None else dbias])
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_memory_that_is_x_is_self_attention(randomized):
    layer = randomized(nn.MultiHeadAttention(6, 3, causal=True, dtype=np.float64))
    x, dy = np.random.default_rng(1).normal(size=(2, 2, 5, 6))
    alone, cache = layer.forward(x)
    (dx, dmemory, _), grads = layer.backward(dy, cache)
    assert dmemory is None
    crossed, cache = layer.forward(x, x)
    (dx_crossed, dmemory, _), grads_crossed = layer.backward(dy, cache)
    np.testing.assert_allclose(crossed, alone, rtol=1e-12)
    np.testing.assert_allclose(dx_crossed + dmemory, dx, rtol=1e-10, atol=1e-12)
    for name, gradient in nn.flatten(grads).items():
        np.testing.assert_allclose(nn.flatten(grads_crossed)[name], gradient, rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_window_of_one_sees_itself_alone(randomized):
    layer = randomized(nn.MultiHeadAttention(4, 2, window=1, dtype=np.float64))
    x = np.random.default_rng(1).normal(size=(1, 5, 4))
    value = x @ layer.in_proj_weight[:, 8:] + layer.in_proj_bias[8:]
    np.testing.assert_allclose(layer(x), value @ layer.out_proj.weight + layer.out_proj.bias, rtol=1e-12)


def test_dropout_draws_from_the_generator_alone(randomized):
    layer = randomized(nn.MultiHeadAttention(4, 2, dropout=0.5))
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    first, again, other = (layer.forward(x, rng=np.random.default_rng(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != layer(x)).any()


def wrong(x=(2, 3, 4), memory=None, **settings):
    layer = nn.MultiHeadAttention(4, 2, rng=0)
    memory = None if memory is None else np.ones(memory, np.float32)
    return lambda: layer(np.ones(x, np.float32), memory, **settings)


WRONG = {
    "x of two axes": (wrong(x=(3, 4)), "MultiHeadAttention: "),
    "x of four axes": (wrong(x=(1, 3, 2, 4)), "MultiHeadAttention: "),
    "x too wide": (wrong(x=(2, 3, 5)), "(MultiHeadAttention|linear): "),
    "memory of two axes": (wrong(memory=(2, 4)), "MultiHeadAttention: "),
    "memory too wide": (wrong(memory=(2, 3, 5)), "(MultiHeadAttention|linear): "),
    "memory of another batch": (wrong(memory=(3, 3, 4)), "MultiHeadAttention: expected .*memory"),
    "mask of numbers": (wrong(mask=np.ones((2, 1, 1, 3))), r"\w+: expected a boolean mask.*got float64"),
    "mask of two axes": (wrong(mask=np.ones((2, 3), bool)), r"\w+: expected a boolean mask.* four axes.*got \(2, 3\)"),
    "mask too long": (wrong(mask=np.ones((2, 1, 1, 4), bool)), r"\w+: expected a boolean mask.*got \(2, 1, 1, 4\)"),
    "mask as a list": (wrong(mask=[True]), r"MultiHeadAttention: expected a boolean mask.*got list \(1,\)"),
    "bias for other heads": (
        wrong(bias=np.ones((3, 5), np.float32)),
        r"\w+: .* bias for 2 heads.*got \(3, 5\)",
    ),
    "memory beside a kv_cache": (wrong(memory=(2, 3, 4), kv_cache=nn.KVCache()), "MultiHeadAttention: "),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        call()
