"""Components beside PyTorch's modules in float64: values, input gradients and the gradient of every parameter."""

from functools import partial

import numpy as np
import pytest
from torch_names import ATTENTION, BLOCK, LINEAR, NORM, under

from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
TF = torch.nn.functional

F64 = {"dtype": np.float64}
TORCH = {"dtype": torch.float64}
SCALES = (0.02, 0.5, 1.0)

CROSS_BLOCK = (
    {name: other.replace("norm2", "norm3") for name, other in BLOCK.items()}
    | under("cross.norm", "norm2", NORM)
    | under("cross.sublayer", "multihead_attn", ATTENTION)
)


def normal(rng, *shape, scale=1.0):
    return scale * rng.standard_normal(shape)


def without_bias(names):
    return {name: other for name, other in names.items() if not name.endswith("bias")}


def in_our_layout(names, arrays):
    """PyTorch's arrays under our names and in our layout."""
    taken = {name: arrays[other.removesuffix(".T")] for name, other in names.items()}
    return {name: array.T if names[name].endswith(".T") else array for name, array in taken.items()}


def by_projection(arrays):
    """Query, key and value apart: together, a large gradient of the value would hide an error of the key's."""
    apart = {}
    for name, array in arrays.items():
        if "in_proj" in name:
            apart |= {f"{name} {part}": a for part, a in zip("qkv", np.split(array, 3, axis=-1), strict=True)}
        else:
            apart[name] = array
    return apart


def compare(agree, ours, theirs, names, inputs, call, scale=0.5, **settings):
    """Give both the same random parameters and inputs; `call(*tensors)` is PyTorch's forward. The same numbers?"""
    rng = np.random.default_rng(17)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            # Norm weights that are not ones, biases that are not zeros.
            mean = 0.7 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(torch.from_numpy(mean + normal(rng, *parameter.shape, scale=scale)))
    parameters = dict(theirs.named_parameters())
    assert sorted(other.removesuffix(".T") for other in names.values()) == sorted(parameters)
    ours.load_state_dict(in_our_layout(names, {name: p.detach().numpy() for name, p in parameters.items()}))

    leaves = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in inputs.items()}
    result = call(*leaves.values())
    dy = normal(rng, *result.shape)
    gradients = torch.autograd.grad(result, [*leaves.values(), *parameters.values()], torch.from_numpy(dy))
    gradients = dict(zip([*leaves, *parameters], (g.numpy() for g in gradients), strict=True))
    expected = {name: gradients.pop(name) for name in inputs} | by_projection(in_our_layout(names, gradients))

    y, cache = ours.forward(*inputs.values(), **settings)
    dinputs, grads = ours.backward(dy, cache)
    dinputs = [d for d in (dinputs if isinstance(dinputs, tuple) else (dinputs,)) if d is not None]
    flat = nn.flatten(grads)
    assert set(flat) == set(names), "one gradient for every parameter"
    got = dict(zip(inputs, dinputs, strict=True)) | by_projection({name: flat[name] for name in names})
    agree(type(ours).__name__, ({"y": y}, got), ({"y": result.detach().numpy()}, expected))


# --- small parts -----------------------------------------------------------------------------------------------------


class Named(torch.nn.Module):
    """A PyTorch module under the name "norm", so that its weight is drawn around 0.7."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias, scale, agree):
    names = LINEAR if bias else without_bias(LINEAR)
    theirs = torch.nn.Linear(5, 3, bias=bias, **TORCH)
    x = normal(np.random.default_rng(0), 2, 4, 5)
    compare(agree, nn.Linear(5, 3, bias, **F64), theirs, names, {"x": x}, theirs, scale)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias, agree):
    names = under("", "norm", NORM if bias else without_bias(NORM))
    names = {name.removeprefix("."): other for name, other in names.items()}
    theirs = Named(torch.nn.LayerNorm(6, eps=1e-3, bias=bias, **TORCH))
    x = 2 + normal(np.random.default_rng(0), 2, 4, 6)
    compare(agree, nn.LayerNorm(6, 1e-3, bias, **F64), theirs, names, {"x": x}, theirs.norm)


def test_rms_norm(agree):
    theirs = Named(torch.nn.RMSNorm(6, eps=1e-3, **TORCH))
    x = normal(np.random.default_rng(0), 2, 4, 6)
    compare(agree, nn.RMSNorm(6, 1e-3, **F64), theirs, {"weight": "norm.weight"}, {"x": x}, theirs.norm)


def test_embedding(agree):
    ids = np.array([[3, 0, 3], [3, 1, 6]])
    ours, theirs = nn.Embedding(7, 4, **F64), torch.nn.Embedding(7, 4, **TORCH)
    ours.load_state_dict({"weight": theirs.weight.detach().numpy()})
    y, cache = ours.forward(ids)
    dy = normal(np.random.default_rng(0), 2, 3, 4)
    dids, grads = ours.backward(dy, cache)
    result = theirs(torch.from_numpy(ids))
    result.backward(torch.from_numpy(dy))
    assert dids is None
    agree("Embedding", ({"y": y}, grads), ({"y": result.detach().numpy()}, {"weight": theirs.weight.grad.numpy()}))


@pytest.mark.parametrize("positions", [None, [0, 1, 5], [[4, 2, 2], [0, 7, 4]]])
def test_learned_positions(positions, agree):
    theirs = torch.nn.Embedding(8, 4, **TORCH)
    where = torch.tensor([0, 1, 2] if positions is None else positions)
    x = normal(np.random.default_rng(0), 2, 3, 4)
    positions = None if positions is None else np.array(positions)
    compare(
        agree, nn.LearnedPositions(8, 4, **F64), theirs, {"weight": "weight"}, {"x": x}, lambda x: x + theirs(where),
        positions=positions,
    )  # fmt: skip


def test_tied_head(agree, differentiate):
    rng = np.random.default_rng(0)
    inputs, dy = {"x": normal(rng, 2, 3, 4), "weight": normal(rng, 7, 4)}, normal(rng, 2, 3, 7)

    def oracle(x, weight):
        return TF.linear(x, weight)

    y, cache = nn.TiedLMHead().forward(*inputs.values())
    (dx, dweight), grads = nn.TiedLMHead().backward(dy, cache)
    assert grads == {}
    agree("TiedLMHead", ({"y": y}, {"x": dx, "weight": dweight}), differentiate(oracle, inputs, dy))


ACTIVATIONS = {"relu": TF.relu, "gelu": TF.gelu, "gelu_tanh": partial(TF.gelu, approximate="tanh"), "silu": TF.silu}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward(activation, scale, agree):
    theirs = torch.nn.ModuleDict({"up": torch.nn.Linear(4, 9, **TORCH), "down": torch.nn.Linear(9, 4, **TORCH)})
    names = under("up", "up", LINEAR) | under("down", "down", LINEAR)
    x = normal(np.random.default_rng(0), 2, 3, 4)
    act = ACTIVATIONS[activation]
    compare(
        agree, nn.FeedForward(4, 9, activation, **F64), theirs, names, {"x": x},
        lambda x: theirs["down"](act(theirs["up"](x))), scale,
    )  # fmt: skip


# --- attention -------------------------------------------------------------------------------------------------------

WIDTH, HEADS = 6, 3
REAL = np.array([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)  # padding left and right


def future(tq, tk):
    """PyTorch's boolean mask: True where one may *not* attend."""
    return torch.ones(tq, tk, dtype=torch.bool).triu(tk - tq + 1)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention(bias, causal, padded, scale, agree):
    ours = nn.MultiHeadAttention(WIDTH, HEADS, causal=causal, bias=bias, **F64)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=True, **TORCH)
    x = normal(np.random.default_rng(0), 2, 5, WIDTH)
    # Causal with left padding leaves rows without a key; need_weights=False takes the path that makes them zero.
    options = {"need_weights": False, "attn_mask": future(5, 5) if causal else None}
    options["key_padding_mask"] = torch.from_numpy(~REAL) if padded else None
    compare(
        agree, ours, theirs, ATTENTION if bias else without_bias(ATTENTION), {"x": x},
        lambda x: theirs(x, x, x, **options)[0], scale, mask=REAL[:, None, None, :] if padded else None,
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_cross_attention(causal, padded, scale, agree):
    ours = nn.MultiHeadAttention(WIDTH, HEADS, causal=causal, **F64)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **TORCH)
    rng = np.random.default_rng(0)
    inputs = {"x": normal(rng, 2, 3, WIDTH), "memory": normal(rng, 2, 5, WIDTH)}
    options = {"need_weights": False, "attn_mask": future(3, 5) if causal else None}
    options["key_padding_mask"] = torch.from_numpy(~REAL) if padded else None
    compare(
        agree, ours, theirs, ATTENTION, inputs, lambda x, memory: theirs(x, memory, memory, **options)[0], scale,
        mask=REAL[:, None, None, :] if padded else None,
    )  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_attention_bias_and_its_gradient(causal, agree):
    ours = nn.MultiHeadAttention(WIDTH, HEADS, causal=causal, **F64)
    theirs = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **TORCH)
    rng = np.random.default_rng(0)
    inputs = {
        "x": normal(rng, 2, 3, WIDTH),
        "memory": normal(rng, 2, 5, WIDTH),
        "bias": normal(rng, 2, HEADS, 3, 5, scale=2.0),
    }

    def call(x, memory, bias):
        scores = bias.masked_fill(future(3, 5), -torch.inf) if causal else bias
        return theirs(x, memory, memory, attn_mask=scores.reshape(2 * HEADS, 3, 5), need_weights=False)[0]

    compare(agree, ours, theirs, ATTENTION, inputs, call)


# --- blocks ----------------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """PyTorch's TransformerEncoderLayer (without memory) or TransformerDecoderLayer, from our residual modules."""

    def __init__(self, residual, hidden, cross):
        def norm():
            return nn.LayerNorm(WIDTH, 1e-5, **F64)

        self.attention = residual(norm(), nn.MultiHeadAttention(WIDTH, HEADS, causal=True, **F64))
        if cross:
            self.cross = residual(norm(), nn.MultiHeadAttention(WIDTH, HEADS, **F64))
        self.feed_forward = residual(norm(), nn.FeedForward(WIDTH, hidden, "relu", **F64))

    def forward(self, x, memory=None, *, mask=None, memory_mask=None):
        h, attention = self.attention.forward(x, mask=mask)
        cross = None
        if memory is not None:
            h, cross = self.cross.forward(h, memory, mask=memory_mask)
        y, feed_forward = self.feed_forward.forward(h)
        return y, (attention, cross, feed_forward)

    def backward(self, dy, cache):
        attention, cross, feed_forward = cache
        grads, dmemory = {}, None
        dh, grads["feed_forward"] = self.feed_forward.backward(dy, feed_forward)
        if cross is not None:
            (dh, dmemory, _), grads["cross"] = self.cross.backward(dh, cross)
        (dx, _, _), grads["attention"] = self.attention.backward(dh, attention)
        return (dx, dmemory), grads


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("residual", [nn.PreNorm, nn.PostNorm])
def test_encoder_layer(residual, scale, agree):
    theirs = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 10, dropout=0.0, batch_first=True, norm_first=residual is nn.PreNorm, **TORCH
    )
    right = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
    compare(
        agree, Layer(residual, 10, cross=False), theirs, BLOCK, {"x": normal(np.random.default_rng(0), 2, 5, WIDTH)},
        lambda x: theirs(x, src_mask=future(5, 5), src_key_padding_mask=torch.from_numpy(~right)), scale,
        mask=right[:, None, None, :],
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("residual", [nn.PreNorm, nn.PostNorm])
def test_decoder_layer_with_memory(residual, scale, agree):
    theirs = torch.nn.TransformerDecoderLayer(
        WIDTH, HEADS, 10, dropout=0.0, batch_first=True, norm_first=residual is nn.PreNorm, **TORCH
    )
    rng = np.random.default_rng(0)
    compare(
        agree, Layer(residual, 10, cross=True), theirs, CROSS_BLOCK,
        {"x": normal(rng, 2, 4, WIDTH), "memory": normal(rng, 2, 5, WIDTH)},
        lambda x, memory: theirs(
            x, memory, tgt_mask=future(4, 4), memory_key_padding_mask=torch.from_numpy(~REAL)
        ),
        scale, memory_mask=REAL[:, None, None, :],
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_decoder_block(activation, scale, agree):
    theirs = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 10, dropout=0.0, activation=ACTIVATIONS[activation], layer_norm_eps=1e-4, batch_first=True,
        norm_first=True, **TORCH,
    )  # fmt: skip
    compare(
        agree, nn.DecoderBlock(WIDTH, HEADS, 10, activation=activation, eps=1e-4, **F64), theirs, BLOCK,
        {"x": normal(np.random.default_rng(0), 2, 5, WIDTH)}, lambda x: theirs(x, src_mask=future(5, 5)), scale,
    )  # fmt: skip


@pytest.mark.parametrize("keep", ["all", "inputs"])
def test_decoder_stack(keep, agree):
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, 10, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, **TORCH
    )
    final = torch.nn.LayerNorm(WIDTH, **TORCH)
    theirs = torch.nn.TransformerEncoder(layer, 3, norm=final, enable_nested_tensor=False)
    layers = [nn.DecoderBlock(WIDTH, HEADS, 10, activation="gelu", **F64) for _ in range(3)]
    names = under("norm", "norm", NORM)
    for i in range(3):
        names |= under(f"layers.{i}", f"layers.{i}", BLOCK)
    compare(
        agree, nn.Decoder(layers, nn.LayerNorm(WIDTH, **F64)), theirs, names,
        {"x": normal(np.random.default_rng(0), 2, 5, WIDTH)}, lambda x: theirs(x, mask=future(5, 5)), keep=keep,
    )  # fmt: skip
