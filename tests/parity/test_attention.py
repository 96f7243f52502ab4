"""Scaled dot-product attention beside PyTorch's: masks, causality, window, bias, scale, dropout, gradients."""

from contextlib import nullcontext

import numpy as np
import pytest

from numtx import functional as F
from numtx.testing import small_blocks

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
attend = torch.nn.functional.scaled_dot_product_attention

SCALES = (0.02, 0.5, 1.0, 4.0)
SEEDS = range(4)
# (Tq, Tk): square, keys longer (cached decoding), queries longer (the first rows see nothing when causal), one row.
LENGTHS = ((5, 5), (3, 6), (6, 3), (1, 4))


@pytest.fixture(autouse=True, scope="module", params=["textbook", "tiled", "in small tiles"])
def form(request):
    """Both forms are held to all of this."""
    global PAIR
    name = "scaled_dot_product_attention" if request.param == "textbook" else "tiled_attention"
    PAIR = getattr(F, name), getattr(F, name + "_backward")
    with small_blocks() if "small" in request.param else nullcontext():
        yield


def normal(rng, shape, scale=1.0):
    """Normal numbers that float32 holds exactly, so that both precisions start from the same point."""
    return (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)


def draw(rng, scale, lengths, heads=3, batch=2):
    """Query, key, value and an incoming gradient; heads are strided views in two of the four, as a projection gives."""
    tq, tk = lengths
    width = int(rng.integers(2, 7))
    query = normal(rng, (batch, tq, heads, width), scale).transpose(0, 2, 1, 3)  # (B, H, Tq, D)
    key = normal(rng, (batch, tk, heads, width), scale).transpose(0, 2, 1, 3)  # (B, H, Tk, D)
    value_width = int(rng.integers(2, 7))
    value = normal(rng, (batch, heads, tk, value_width), scale)
    dy = normal(rng, (batch, heads, tq, value_width))
    return {"query": query, "key": key, "value": value}, dy


def allowed_by_position(tq, tk, causal, window):
    """(Tq, Tk) by its definition: the last query stands at the last key."""
    allowed = np.ones((tq, tk), bool)
    for i in range(tq):
        for j in range(tk):
            age = (i + tk - tq) - j
            if causal and age < 0:
                allowed[i, j] = False
            if window is not None and abs(age) >= window:
                allowed[i, j] = False
    return allowed


def oracle(mask=None, causal=False, window=None, scale=None, dropped=None):
    """PyTorch's attention under one explicit mask; a bias becomes a float mask, as its interface wants."""

    def run(query, key, value, bias=None):
        tq, tk = query.shape[-2], key.shape[-2]
        allowed = torch.from_numpy(allowed_by_position(tq, tk, causal, window))
        if mask is not None:
            allowed = allowed & torch.from_numpy(mask)
        if bias is None and dropped is None:
            return attend(query, key, value, attn_mask=allowed, scale=scale)
        if bias is not None and bias.ndim == 2:  # (H, Tq + Tk - 1): one number a distance
            distance = torch.arange(tk)[None, :] - torch.arange(tq)[:, None] + tq - 1
            bias = bias[:, distance][None]  # (1, H, Tq, Tk)
        additive = torch.zeros(()) if bias is None else bias
        additive = additive.masked_fill(~allowed, -torch.inf)
        if dropped is None:
            return attend(query, key, value, attn_mask=additive, scale=scale)
        scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5) + additive
        return (torch.softmax(scores, -1) * torch.from_numpy(dropped)) @ value

    return run


def run_numtx(inputs, dy, dtype=np.float64, **options):
    inputs = {name: array.astype(dtype) for name, array in inputs.items()}
    forward, backward = PAIR
    y, cache = forward(**inputs, **options)
    gradients = backward(dy.astype(dtype), cache)
    named = dict(zip(("query", "key", "value", "bias"), gradients, strict=True))
    assert ("bias" in inputs) == (named["bias"] is not None)
    return {"y": y}, {name: named[name] for name in inputs}


def check(agree, differentiate, inputs, dy, where="", **options):
    """Our result and gradients under these options equal PyTorch's, in float64."""
    theirs = differentiate(oracle(**options), inputs, dy)
    return agree(where, run_numtx(inputs, dy, **options), theirs)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_plain_and_causal(lengths, causal, scale, agree, differentiate):
    for seed in SEEDS:
        inputs, dy = draw(np.random.default_rng(seed), scale, lengths, heads=seed + 2)
        check(agree, differentiate, inputs, dy, causal=causal)
        check(agree, differentiate, inputs, dy, causal=causal, scale=0.3)


def test_causal_equals_torchs_lower_right_bias(agree, differentiate):
    from torch.nn.attention.bias import causal_lower_right

    for lengths in ((5, 5), (3, 6)):
        inputs, dy = draw(np.random.default_rng(1), 1.0, lengths)
        theirs = differentiate(
            lambda query, key, value, n=lengths: attend(query, key, value, attn_mask=causal_lower_right(*n)), inputs, dy
        )
        agree(str(lengths), run_numtx(inputs, dy, causal=True), theirs)


PADDING = {
    "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]],
    "right": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    "both": [[0, 1, 1, 1, 0], [0, 0, 1, 0, 0]],
    "holes": [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]],
    "a sequence of nothing": [[0, 0, 0, 0, 0], [1, 1, 1, 0, 0]],
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padding", PADDING)
def test_padding(padding, causal, scale, agree, differentiate):
    attention_mask = np.array(PADDING[padding])
    mask = F.padding_mask(attention_mask)  # (B, 1, 1, T)
    np.testing.assert_array_equal(mask, (attention_mask == 1)[:, None, None, :])
    for tq in (5, 3, 7):
        inputs, dy = draw(np.random.default_rng(tq), scale, (tq, 5))
        check(agree, differentiate, inputs, dy, mask=mask, causal=causal)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 4, 6), (2, 1, 4, 6), (1, 3, 1, 6), (2, 1, 1, 6), (2, 3, 4, 1)])
def test_mask_of_any_broadcast_shape(shape, agree, differentiate):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        inputs, dy = draw(rng, 1.0, (4, 6))
        mask = rng.random(shape) < 0.6
        mask[0, 0, 0] = False  # some rows may attend to nothing
        check(agree, differentiate, inputs, dy, mask=mask)


def test_rows_without_a_key_are_zero_as_in_torch(agree, differentiate):
    inputs, dy = draw(np.random.default_rng(0), 1.0, (4, 6))
    inputs["bias"] = normal(np.random.default_rng(1), (2, 3, 4, 6))
    mask = np.ones((2, 1, 4, 6), bool)
    mask[0, 0, 1] = mask[1] = False
    check(agree, differentiate, inputs, dy, mask=mask)
    values, gradients = run_numtx(inputs, dy, mask=mask)
    assert np.all(values["y"][0, :, 1] == 0)
    assert np.all(values["y"][1] == 0)
    assert np.all(gradients["query"][0, :, 1] == 0)
    assert all(np.all(gradient[1] == 0) for gradient in gradients.values())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("window", [1, 2, 4, 50])
@pytest.mark.parametrize("causal", [False, True])
def test_window(causal, window, scale, agree, differentiate):
    for lengths in LENGTHS:
        inputs, dy = draw(np.random.default_rng(window), scale, lengths)
        check(agree, differentiate, inputs, dy, str(lengths), causal=causal, window=window)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(2, 3, 3, 6), (1, 3, 3, 6), (2, 1, 1, 6), (1, 3, 3, 1), (1, 1, 1, 1), (3, 8)])
def test_bias_and_its_gradient(shape, scale, agree, differentiate):
    # (3, 8) is (H, Tq + Tk - 1), a number for each distance.
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        inputs, dy = draw(rng, scale, (3, 6))
        inputs["bias"] = normal(rng, shape, scale)
        mask = rng.random((2, 1, 3, 6)) < 0.7
        check(agree, differentiate, inputs, dy, "alone")
        check(agree, differentiate, inputs, dy, "causal", causal=True, scale=1.0)
        check(agree, differentiate, inputs, dy, "masked", causal=True, window=4, mask=mask)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"causal": True, "window": 40}], ids=str)
def test_long_sequences(options, agree, differentiate):
    # Long enough for more than one block where attention is computed in blocks.
    rng = np.random.default_rng(0)
    inputs, dy = draw(rng, 1.0, (300, 333), heads=2)
    inputs["bias"] = normal(rng, (2, 632))
    mask = F.padding_mask(np.arange(333)[None] < np.array([[333], [290]]))
    check(agree, differentiate, inputs, dy, mask=mask, **options)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_float32_is_within_rounding_noise(lengths, scale, within_noise):
    tq, tk = lengths
    rng = np.random.default_rng(7)
    inputs, dy = draw(rng, scale, lengths)
    mask = rng.random((2, 1, 1, tk)) < 0.8
    # Where the softmax saturates, dS = P (dP - Σ dP P) is a difference of equal numbers, both of them rounded, that no
    # change of the inputs shows.
    factor = 128 if scale == 4 else 32
    for options in ({}, {"causal": True}, {"mask": mask}, {"causal": True, "mask": mask, "window": 3}):
        ours = run_numtx(inputs, dy, np.float32, **options)
        within_noise(f"{lengths} {options}", ours, oracle(**options), inputs, dy, factor)
    for shape in ((1, 3, tq, tk), (3, tq + tk - 1)):
        inputs["bias"] = normal(rng, shape, scale)
        ours = run_numtx(inputs, dy, np.float32, causal=True)
        within_noise(f"{lengths} bias {shape}", ours, oracle(causal=True), inputs, dy, factor)


@pytest.mark.parametrize("p", [0.1, 0.6])
@pytest.mark.parametrize("causal", [False, True])
def test_dropout_with_the_same_mask(causal, p, agree, differentiate):
    batch, heads, tq, tk = 2, 3, 5, 6
    rng = np.random.default_rng(2)
    inputs, dy = draw(rng, 1.0, (tq, tk))
    inputs["bias"] = normal(rng, (1, heads, tq, tk))
    # Equal scores spread a row evenly and the identity as value shows the dropped weights: 1/n · mask / (1 - p).
    zeros, identity = np.zeros((batch, heads, tq, tk)), np.broadcast_to(np.eye(tk), (batch, heads, tk, tk)).copy()
    options = {"causal": causal, "dropout": p}
    shown, _ = PAIR[0](zeros, identity, identity, rng=np.random.default_rng(4), **options)
    seen = allowed_by_position(tq, tk, causal, None).sum(-1, keepdims=True)
    dropped = shown * seen
    np.testing.assert_allclose(dropped * (dropped - 1 / (1 - p)), 0, atol=1e-12)  # either 0 or 1/(1-p)
    ours = run_numtx(inputs, dy, rng=np.random.default_rng(4), **options)
    agree(f"p {p}", ours, differentiate(oracle(causal=causal, dropped=dropped), inputs, dy))


def test_dropout_without_a_generator_is_none(agree, differentiate):
    inputs, dy = draw(np.random.default_rng(0), 1.0, (4, 4))
    agree("rng=None", run_numtx(inputs, dy, dropout=0.5), differentiate(oracle(), inputs, dy))
