"""Rotary, ALiBi and T5's buckets beside Transformers' own functions; gradients by PyTorch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numtx import functional as F
from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need Transformers: pip install 'numtx[parity]'")

from transformers.models.bloom.modeling_bloom import build_alibi_tensor  # noqa: E402
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as turn_neox  # noqa: E402
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as turn_gptj  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding  # noqa: E402
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention, T5Config  # noqa: E402

LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def turn(x, cos, sin, layout):
    """Transformers' rotary of the first numbers of a head: cos and sin are (T, width / 2) or (B, T, width / 2)."""
    cos, sin = (table if table.ndim == 3 else table[None] for table in (cos, sin))
    if layout == "half":
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        return turn_neox(x, x, cos, sin)[0]
    width = 2 * cos.shape[-1]
    turned = turn_gptj(x[..., :width].transpose(1, 2), sin, cos).transpose(1, 2)  # GPT-J keeps heads as (B, T, H, D)
    return torch.cat([turned, x[..., width:]], -1)


@st.composite
def calls(draw):
    """Arguments of `F.rotary`: every size, both layouts, whole heads and parts, and any positions."""
    batch, heads, length, pairs = (draw(st.integers(1, top)) for top in (3, 3, 6, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    shape = draw(st.sampled_from([None, (length,), (batch, length)]))
    arguments = {
        "positions": None if shape is None else rng.integers(0, draw(st.sampled_from([8, 3000])), shape),
        "layout": draw(st.sampled_from(["half", "interleaved"])),
        "base": draw(st.sampled_from([10000.0, 500000.0])),
        "width": draw(st.sampled_from([None, 2 * draw(st.integers(1, pairs))])),
    }
    return rng.standard_normal((batch, heads, length, 2 * pairs)), rng.standard_normal((batch, heads, 1, 1)), arguments


@given(calls())
def test_rotary(agree, differentiate, call):
    x, scale, arguments = call
    dy = x[::-1] * scale + 0.5
    width = arguments["width"] or x.shape[3]
    positions = np.arange(x.shape[2]) if arguments["positions"] is None else arguments["positions"]
    exponent = torch.arange(0, width, 2).double() / width
    angle = torch.from_numpy(positions).double()[..., None] / arguments["base"] ** exponent
    theirs = differentiate(lambda x: turn(x, angle.cos(), angle.sin(), arguments["layout"]), {"x": x}, dy)
    y, cache = F.rotary(x, **arguments)
    agree("rotary", ({"y": y}, {"x": F.rotary_backward(dy, cache)}), theirs)


@given(calls())
def test_rotary_in_float32_within_noise(within_noise, call):
    x, scale, arguments = call
    x, dy = x.astype(np.float32), (x[::-1] * scale).astype(np.float32)
    width = arguments["width"] or x.shape[3]
    positions = np.arange(x.shape[2]) if arguments["positions"] is None else arguments["positions"] % 8
    frequency = torch.from_numpy(F.rotary_frequencies(width, base=arguments["base"])).double()
    angle = torch.from_numpy(positions).double()[..., None] * frequency
    y, cache = F.rotary(x, **{**arguments, "positions": positions})

    def oracle(x):
        return turn(x, angle.cos().to(x.dtype), angle.sin().to(x.dtype), arguments["layout"])

    ours = ({"y": y}, {"x": F.rotary_backward(dy, cache)})
    within_noise("rotary", ours, oracle, {"x": x.astype(np.float64)}, dy.astype(np.float64))


def llama_rotary(width, base, scaling):
    config = {"hidden_size": 2 * width, "num_attention_heads": 2, "head_dim": width, "max_position_embeddings": 4096}
    return LlamaRotaryEmbedding(LlamaConfig(**config, rope_theta=base, rope_scaling=scaling and dict(scaling)))


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3], ids=["unscaled", "linear", "llama3"])
@pytest.mark.parametrize("base", [10000.0, 100000.0, 500000.0])
@pytest.mark.parametrize("width", [2, 8, 64, 80, 128])
def test_rotary_frequencies_are_llamas(width, base, scaling):
    """To the last bit of float32; PyTorch's own power is one bit off now and then."""
    theirs = llama_rotary(width, base, scaling).inv_freq.numpy()
    ours = F.rotary_frequencies(width, base=base, scaling=scaling)
    assert ours.dtype == theirs.dtype == np.float32
    assert np.all(np.abs(ours - theirs) <= np.spacing(theirs))
    assert np.mean(ours != theirs) <= 0.05


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3], ids=["unscaled", "linear", "llama3"])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_far_positions_are_turned_as_llama_does(base, scaling):
    """Where float32's angles are off by thousandths, they are off by the same."""
    rng = np.random.default_rng(0)
    x, positions = rng.standard_normal((2, 3, 40, 128)).astype(np.float32), rng.integers(60_000, 120_000, (2, 40))
    cos, sin = llama_rotary(128, base, scaling)(torch.from_numpy(x), torch.from_numpy(positions))
    theirs = turn(torch.from_numpy(x), cos[..., :64], sin[..., :64], "half").numpy()
    settings = {"layout": "half", "base": base, "scaling": scaling}
    ours, _ = F.rotary(x, positions, **settings)
    in_float64, _ = F.rotary(x.astype(np.float64), positions, **settings)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert np.max(np.abs(in_float64 - theirs)) > 1e-3


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 6, 8, 12, 16, 20, 40, 71, 112])
def test_alibi_slopes_are_blooms_and_mpts(num_heads):
    bloom = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)[:, 0, 1].numpy()
    np.testing.assert_allclose(F.alibi_slopes(num_heads), bloom, rtol=2e-6)  # powers of a rounded number
    mpt = build_mpt_alibi_tensor(num_heads, 7).numpy()[:, 0]
    np.testing.assert_allclose(F.alibi(num_heads, 1, 7), mpt, rtol=3e-7)


@pytest.mark.parametrize("num_heads", [2, 4, 8])
@pytest.mark.parametrize(("tq", "tk"), [(5, 5), (1, 6), (3, 7)])
def test_attention_with_alibi_is_blooms(agree, differentiate, num_heads, tq, tk):
    """BLOOM's numbers count from the first key; under a causal mask the softmax does not see the difference."""
    rng = np.random.default_rng(tq)
    inputs = {n: rng.standard_normal((2, num_heads, t, 4)) for n, t in (("query", tq), ("key", tk), ("value", tk))}
    dy = rng.standard_normal((2, num_heads, tq, 4))
    bloom = build_alibi_tensor(torch.ones(1, tk, dtype=torch.long), num_heads, torch.float64)[None]  # (1, H, 1, Tk)
    hidden = torch.full((tq, tk), -torch.inf).triu(tk - tq + 1)

    def oracle(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bloom + hidden)

    bias, _ = nn.ALiBi(num_heads).forward(tq, tk, dtype=np.float64)
    y, cache = F.scaled_dot_product_attention(**inputs, bias=bias, causal=True)
    gradients = F.scaled_dot_product_attention_backward(dy, cache)
    agree("attention", ({"y": y}, dict(zip(inputs, gradients, strict=False))), differentiate(oracle, inputs, dy))


SIDES = [(both, n) for n in (4, 8, 10, 12, 20, 32, 64, 128) for both in (True, False)]


# Nine up to 128 is where a logarithm in float64 gives other buckets. (Odd ones for both sides are refused.)
@pytest.mark.parametrize(("bidirectional", "num_buckets"), [*SIDES, (False, 9)])
@pytest.mark.parametrize("max_distance", [66, 100, 128, 256, 1000])
def test_buckets_are_t5s(bidirectional, num_buckets, max_distance):
    settings = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    distance = np.arange(-3000, 3001)
    theirs = T5Attention._relative_position_bucket(torch.from_numpy(distance), **settings).numpy()
    np.testing.assert_array_equal(F.relative_position_bucket(distance, **settings), theirs)


@given(
    lengths=st.tuples(st.integers(1, 40), st.integers(0, 40)),
    num_heads=st.integers(1, 5),
    num_buckets=st.sampled_from([4, 8, 32]),
    is_decoder=st.booleans(),
)
def test_relative_position_bias_is_t5s(agree, lengths, num_heads, num_buckets, is_decoder):
    tq, tk = lengths[0], sum(lengths)  # the newest tq of tk tokens
    config = T5Config(
        num_heads=num_heads,
        d_model=8,
        d_kv=2,
        is_decoder=is_decoder,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=20,
    )
    theirs = T5Attention(config, has_relative_attention_bias=True, layer_idx=0)
    ours = nn.RelativePositionBias(
        num_buckets, num_heads, bidirectional=not is_decoder, max_distance=20, rng=tq, dtype=np.float64
    )
    table = theirs.relative_attention_bias.weight
    with torch.no_grad():
        table.copy_(torch.from_numpy(ours.weight))
    scores = theirs.compute_bias(tk, tk)[0, :, -tq:]  # (H, Tq, Tk)
    bias, cache = ours.forward(tq, tk)
    # The same numbers where attention's bias by distance has them: entry j - i + Tq - 1.
    entry = np.arange(tk) - np.arange(tq)[:, None] + tq - 1
    dscores = np.random.default_rng(tk).standard_normal(scores.shape)
    dbias = np.zeros_like(bias)
    np.add.at(dbias, (slice(None), entry), dscores)
    (dtable,) = torch.autograd.grad(scores, [table], torch.from_numpy(dscores))
    agree(
        "relative position bias",
        ({"y": bias[:, entry]}, {"weight": ours.backward(dbias, cache)[1]["weight"]}),
        ({"y": scores.detach().numpy()}, {"weight": dtable.numpy()}),
    )
