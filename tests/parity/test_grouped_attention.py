"""Grouped heads, widths of their own, rotary positions and shown weights beside PyTorch's and Transformers' attention.

Every oracle is a function of inputs and parameters in our layout, so that each of them has a gradient to compare.
"""

import itertools

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
attend = torch.nn.functional.scaled_dot_product_attention
functional_call = torch.func.functional_call

SCALES = (0.02, 0.5, 1.0)
GROUPS = ((4, 2), (4, 1), (6, 3), (3, 3))  # heads, and key and value heads
REAL = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)  # padding on both sides
F64 = {"dtype": np.float64}


def normal(rng, shape, scale=1.0):
    """Normal numbers that float32 holds exactly, so that both precisions start from the same point."""
    return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)


def allowed(tq, tk, causal=False, window=None, mask=None):
    """Where one may attend, (Tq, Tk) or four axes, as a tensor; the last query stands at the last key."""
    ahead = torch.arange(tk)[None] - torch.arange(tq)[:, None] - (tk - tq)
    seen = torch.ones(tq, tk, dtype=torch.bool)
    if causal:
        seen = seen & (ahead <= 0)
    if window is not None:
        seen = seen & (ahead.abs() < window)
    return seen if mask is None else seen & torch.from_numpy(mask)


def added(seen, bias=None):
    """The same as numbers to add: 0, or -∞ where one may not attend."""
    return (torch.zeros(()) if bias is None else bias).masked_fill(~seen, -torch.inf)


# --- the pair --------------------------------------------------------------------------------------------------------


def run_pair(inputs, dy, dtype=np.float64, **settings):
    inputs = {name: array.astype(dtype) for name, array in inputs.items()}
    y, cache = F.scaled_dot_product_attention(**inputs, **settings)
    gradients = F.scaled_dot_product_attention_backward(dy.astype(dtype), cache)
    named = dict(zip(("query", "key", "value", "bias"), gradients, strict=True))
    return {"y": y}, {name: named[name] for name in inputs}


def pair_case(heads, scale, lengths=(3, 5), widths=(4, 3), seed=0):
    """Key and value of different widths; and dy."""
    rng, (H, Hkv), (tq, tk), (D, Dv) = np.random.default_rng(seed), heads, lengths, widths
    inputs = {"query": normal(rng, (2, H, tq, D), scale), "key": normal(rng, (2, Hkv, tk, D), scale)}
    inputs["value"] = normal(rng, (2, Hkv, tk, Dv), scale)
    return inputs, normal(rng, (2, H, tq, Dv))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("heads", GROUPS)
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads(causal, heads, scale, agree, differentiate):
    """Against PyTorch's enable_gqa, with padding, a window, a bias and a row that sees nothing."""
    for lengths, window, padded in itertools.product(((5, 5), (3, 5), (7, 5)), (None, 2), (False, True)):
        inputs, dy = pair_case(heads, scale, lengths)
        mask = REAL[:, None, None] if padded else None
        seen = allowed(*lengths, causal, window, mask)

        def oracle(query, key, value, seen=seen):
            return attend(query, key, value, attn_mask=seen, enable_gqa=True)

        where = f"{lengths} window {window} padded {padded}"
        ours = run_pair(inputs, dy, causal=causal, window=window, mask=mask)
        agree(where, ours, differentiate(oracle, inputs, dy))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("heads", GROUPS)
def test_bias_of_grouped_heads(heads, scale, agree, differentiate):
    inputs, dy = pair_case(heads, scale)
    rng = np.random.default_rng(1)
    mask = rng.random((2, heads[0], 3, 5)) < 0.7
    mask[0, :, 1] = False
    for shape in ((1, heads[0], 3, 5), (2, 1, 3, 5), (2, heads[0], 1, 5)):
        inputs["bias"] = normal(rng, shape)
        seen = allowed(3, 5, mask=mask)

        def oracle(query, key, value, bias, seen=seen):
            return attend(query, key, value, attn_mask=added(seen, bias), enable_gqa=True)

        ours = run_pair(inputs, dy, mask=mask)
        assert not ours[0]["y"][0, :, 1].any()
        agree(str(shape), ours, differentiate(oracle, inputs, dy))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("heads", GROUPS)
def test_grouped_heads_in_float32(heads, scale, within_noise):
    inputs, dy = pair_case(heads, scale, (5, 5))
    seen = allowed(5, 5, causal=True)

    def oracle(query, key, value):
        return attend(query, key, value, attn_mask=seen, enable_gqa=True)

    within_noise(str(heads), run_pair(inputs, dy, np.float32, causal=True), oracle, inputs, dy)


# --- the component ---------------------------------------------------------------------------------------------------


def randomised(attention, inputs, seed=3, scale=0.5):
    """Inputs and parameters by name, all random."""
    rng = np.random.default_rng(seed)
    drawn = {name: normal(rng, array.shape, scale) for name, array in attention.named_parameters()}
    return inputs | drawn


def run(attention, inputs, dy, dtype=np.float64, **settings):
    """Result and gradients of a component under these inputs and parameters."""
    inputs = {name: array.astype(dtype) for name, array in inputs.items()}
    names = [name for name, _ in attention.named_parameters()]
    attention.load_state_dict({name: inputs[name] for name in names})
    given = {name: array for name, array in inputs.items() if name not in names}
    y, cache = attention.forward(**given, **settings)
    dinputs, grads = attention.backward(dy.astype(dtype), cache)
    order = ("x", "memory", "values", "bias") if len(dinputs) == 4 else ("x", "memory", "bias")
    named = dict(zip(order, dinputs, strict=True))
    assert {name for name, gradient in named.items() if gradient is not None} == set(given)
    named |= nn.flatten(grads)
    assert set(named) == {*order, *names}
    return {"y": y}, {name: named[name] for name in inputs}


def grouped_oracle(attention, seen):
    """The same attention of PyTorch's pieces, without rotary positions."""

    def heads(x, p, name, count):
        y = x @ p[f"{name}.weight"] + p.get(f"{name}.bias", torch.zeros(()))
        return y.unflatten(-1, (count, -1)).transpose(1, 2)

    def oracle(x, memory=None, values=None, bias=None, **p):
        memory = x if memory is None else memory
        values = memory if values is None else values
        query = heads(x, p, "q_proj", attention.num_heads)
        key, value = (heads(a, p, n, attention.num_kv_heads) for a, n in ((memory, "k_proj"), (values, "v_proj")))
        mixed = attend(query, key, value, attn_mask=added(seen, bias), scale=attention.scale, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2) @ p["out_proj.weight"] + p.get("out_proj.bias", torch.zeros(()))

    return oracle


BUILT = {
    "grouped": {"num_kv_heads": 2},
    "multi-query without biases": {"num_kv_heads": 1, "bias": False},
    "wide heads": {"num_kv_heads": 2, "widths": {"head": 5}},
    "values of another width": {"num_kv_heads": 2, "widths": {"head": 4, "value_head": 3}, "scale": 1.0},
    "no bias at the end": {"num_kv_heads": 4, "bias": "qkv"},
}


def build(options, *, memory=None, value=None, **settings):
    widths = nn.AttentionWidths(**options.get("widths", {}), memory=memory, value=value)
    return nn.GroupedQueryAttention(8, 4, **{**options, "widths": widths}, **settings)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", BUILT.values(), ids=BUILT)
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(causal, options, scale, agree, differentiate):
    attention = build(options, causal=causal, window=3 if causal else None, **F64)
    rng = np.random.default_rng(0)
    dy, mask = normal(rng, (2, 5, 8)), REAL[:, None, None]
    inputs = randomised(attention, {"x": normal(rng, (2, 5, 8)), "bias": normal(rng, (1, 4, 5, 5))}, scale=scale)
    oracle = grouped_oracle(attention, allowed(5, 5, causal, attention.window, mask))
    agree("self", run(attention, inputs, dy, mask=mask), differentiate(oracle, inputs, dy))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", BUILT.values(), ids=BUILT)
@pytest.mark.parametrize("has_values", [False, True])
def test_cross_attention(has_values, options, scale, agree, differentiate):
    attention = build(options, memory=6, value=3 if has_values else None, **F64)
    rng = np.random.default_rng(0)
    inputs, dy = {"x": normal(rng, (2, 3, 8)), "memory": normal(rng, (2, 5, 6))}, normal(rng, (2, 3, 8))
    if has_values:
        inputs["values"] = normal(rng, (2, 5, 3))
    inputs, mask = randomised(attention, inputs, scale=scale), REAL[:, None, None]
    oracle = grouped_oracle(attention, allowed(3, 5, mask=mask))
    agree("cross", run(attention, inputs, dy, mask=mask), differentiate(oracle, inputs, dy))


def test_float32_is_within_rounding_noise(within_noise):
    for options in BUILT.values():
        attention = build(options, causal=True)
        rng = np.random.default_rng(0)
        inputs, dy = randomised(attention, {"x": normal(rng, (2, 5, 8))}), normal(rng, (2, 5, 8))
        oracle = grouped_oracle(attention, allowed(5, 5, causal=True))
        within_noise(str(options), run(attention, inputs, dy, np.float32), oracle, inputs, dy)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [True, False])
def test_multihead_attention_with_kdim_and_vdim(bias, scale, agree, differentiate):
    theirs = torch.nn.MultiheadAttention(6, 3, bias=bias, kdim=5, vdim=4, batch_first=True)
    ours = nn.GroupedQueryAttention(6, 3, widths=nn.AttentionWidths(memory=5, value=4), bias=bias, **F64)
    rng = np.random.default_rng(0)
    inputs = {"x": normal(rng, (2, 3, 6)), "memory": normal(rng, (2, 5, 5)), "values": normal(rng, (2, 5, 4))}
    inputs, dy = randomised(ours, inputs, scale=scale), normal(rng, (2, 3, 6))

    def oracle(x, memory, values, **p):
        # By hand and not by `torch_state_dict`, which would hide a mistake that it makes both ways.
        arrays = {f"{name}_weight": p[f"{name}.weight"].T for name in ("q_proj", "k_proj", "v_proj")}
        arrays["out_proj.weight"] = p["out_proj.weight"].T
        if bias:
            arrays["in_proj_bias"] = torch.cat([p[f"{name}.bias"] for name in ("q_proj", "k_proj", "v_proj")])
            arrays["out_proj.bias"] = p["out_proj.bias"]
        settings = {"key_padding_mask": torch.from_numpy(~REAL), "need_weights": False}
        return functional_call(theirs, arrays, (x, memory, values), settings)[0]

    agree("kdim", run(ours, inputs, dy, mask=REAL[:, None, None]), differentiate(oracle, inputs, dy))


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads", [(4, 2), (4, 1), (3, 3)])
def test_llama(heads, bias, scale, agree, differentiate):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    (H, Hkv), width, D, base = heads, 12, 4, 100.0
    config = llama.LlamaConfig(
        hidden_size=width, num_attention_heads=H, num_key_value_heads=Hkv, head_dim=D, attention_bias=bias,
        attn_implementation="sdpa",
    )  # fmt: skip
    theirs = llama.LlamaAttention(config, layer_idx=0).eval()
    rotary = nn.Rotary("half", base=base)
    ours = nn.GroupedQueryAttention(
        width, H, Hkv, widths=nn.AttentionWidths(D), rotary=rotary, causal=True, bias=bias, **F64
    )
    rng = np.random.default_rng(0)
    inputs, dy = randomised(ours, {"x": normal(rng, (2, 5, width))}, scale=scale), normal(rng, (2, 5, width))
    positions = np.array([[0, 1, 2, 3, 4], [3, 4, 7, 8, 30]])
    # Transformers' own table is in float32: here the same formula in float64.
    angle = torch.from_numpy(positions)[..., None] / base ** (torch.arange(0, D, 2) / D)
    angle = torch.cat([angle, angle], dim=-1)  # (B, T, D)

    def oracle(x, **p):
        names = {
            name.replace("out_proj", "o_proj"): tensor.T if tensor.ndim == 2 else tensor for name, tensor in p.items()
        }
        mask = added(allowed(5, 5, causal=True))[None, None]
        return functional_call(
            theirs, names, (x,), {"position_embeddings": (angle.cos(), angle.sin()), "attention_mask": mask}
        )[0]

    agree("llama", run(ours, inputs, dy, positions=positions), differentiate(oracle, inputs, dy))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("cross", [False, True])
def test_t5(cross, scale, agree, differentiate, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # Transformers 4 rounds the scores to float32
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    width, heads, head_width, tk = 6, 4, 3, 4 if cross else 5
    config = t5.T5Config(d_model=width, d_kv=head_width, num_heads=heads, dropout_rate=0.0, attn_implementation="eager")
    theirs = t5.T5Attention(config, has_relative_attention_bias=False, layer_idx=0).eval()
    ours = nn.GroupedQueryAttention(width, heads, widths=nn.AttentionWidths(head_width), scale=1.0, bias=False, **F64)
    rng = np.random.default_rng(0)
    inputs = {"x": normal(rng, (2, 5, width))} | ({"memory": normal(rng, (2, tk, width))} if cross else {})
    inputs["bias"] = normal(rng, (1, heads, 5, tk))
    inputs, dy = randomised(ours, inputs, scale=scale), normal(rng, (2, 5, width))

    def oracle(x, bias, memory=None, **p):
        names = {f"{name[0]}.weight": tensor.T for name, tensor in p.items()}
        return functional_call(theirs, names, (x,), {"key_value_states": memory, "position_bias": bias})[0]

    agree("t5", run(ours, inputs, dy), differentiate(oracle, inputs, dy))


# --- the weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [True, False])
def test_weights_of_each_head(packed, causal):
    """nn.MultiheadAttention's, under average_attn_weights=False."""
    widths = {} if packed else {"kdim": 5, "vdim": 4}
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True, **widths)
    rng = np.random.default_rng(0)
    query, key, value = (
        normal(rng, (2, length, w)) for length, w in ((3, 6), (5, 6 if packed else 5), (5, 6 if packed else 4))
    )
    value = key if packed else value
    arrays = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    arrays["in_proj_bias"][:] = normal(rng, 18)
    if packed:
        ours, inputs = nn.MultiHeadAttention(6, 3, causal=causal, **F64), (query, key)
    else:
        ours = nn.GroupedQueryAttention(6, 3, widths=nn.AttentionWidths(memory=5, value=4), causal=causal, **F64)
        inputs = query, key, value
    ours.load_torch_state_dict(arrays)
    (y, weights), _ = ours.forward(*inputs, mask=REAL[:, None, None], need_weights=True)
    with torch.no_grad():
        expected, shown = theirs(
            *map(torch.from_numpy, (query, key, value)), key_padding_mask=torch.from_numpy(~REAL),
            attn_mask=~allowed(3, 5, causal), average_attn_weights=False,
        )  # fmt: skip
    np.testing.assert_allclose(weights, shown.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-12, atol=1e-14)


def test_a_row_of_nothing_has_zeros_where_pytorchs_weights_are_nan():
    theirs = torch.nn.MultiheadAttention(6, 3, batch_first=True)
    ours = nn.MultiHeadAttention(6, 3, **F64)
    ours.load_state_dict({name: p.detach().numpy().T for name, p in theirs.named_parameters()})
    x = normal(np.random.default_rng(0), (2, 5, 6))
    real = REAL.copy()
    real[0] = False
    tensor, padding = torch.from_numpy(x), torch.from_numpy(~real)
    (y, weights), _ = ours.forward(x, mask=real[:, None, None], need_weights=True)
    with torch.no_grad():
        plain, _ = theirs(tensor, tensor, tensor, key_padding_mask=padding, need_weights=False)
        shown_y, shown = theirs(tensor, tensor, tensor, key_padding_mask=padding, average_attn_weights=False)
    np.testing.assert_allclose(y, plain.numpy(), rtol=1e-12, atol=1e-14)
    assert not weights[0].any()
    assert torch.isnan(shown[0]).all()
    assert torch.isnan(shown_y[0]).all()
    np.testing.assert_allclose(weights[1], shown[1].numpy(), rtol=1e-12, atol=1e-14)
