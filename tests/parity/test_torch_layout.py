"""Weights go PyTorch -> numtx -> PyTorch unchanged, bit for bit, under PyTorch's names and in its order."""

import numpy as np
import pytest

from numtx import nn

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")

C, H, F, V = 6, 3, 10, 7


def torch_stack(kind, layer, norm):
    settings = {"enable_nested_tensor": False} if kind is torch.nn.TransformerEncoder else {}
    return kind(layer, 2, torch.nn.LayerNorm(C) if norm else None, **settings)


def our_stack(layer, norm):
    return nn.Stack([layer(C, H, F) for _ in range(2)], nn.LayerNorm(C) if norm else None)


def grouped_layer():
    """An encoder's layer with GroupedQueryAttention in it."""
    parts = nn.GroupedQueryAttention(C, H), nn.FeedForward(C, F, "relu")
    return nn.EncoderLayer(*(nn.PostNorm(nn.LayerNorm(C), part) for part in parts))


class Above(nn.Module):
    """A module above components: its children keep their names."""

    def __init__(self):
        self.embedding = nn.Embedding(V, C)
        self.encoder = our_stack(nn.TransformerEncoderLayer, norm=True)
        self.decoder = our_stack(nn.TransformerDecoderLayer, norm=True)
        self.head = nn.Linear(C, V, bias=False)


class TorchAbove(torch.nn.Module):
    """The same of PyTorch's parts."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(V, C)
        layers = torch.nn.TransformerEncoderLayer(C, H, F), torch.nn.TransformerDecoderLayer(C, H, F)
        self.encoder = torch_stack(torch.nn.TransformerEncoder, layers[0], norm=True)
        self.decoder = torch_stack(torch.nn.TransformerDecoder, layers[1], norm=True)
        self.head = torch.nn.Linear(C, V, bias=False)


TWINS = {
    "Linear": (lambda: nn.Linear(5, 3), lambda: torch.nn.Linear(5, 3)),
    "Linear, square, no bias": (lambda: nn.Linear(4, 4, bias=False), lambda: torch.nn.Linear(4, 4, bias=False)),
    "Embedding": (lambda: nn.Embedding(V, C), lambda: torch.nn.Embedding(V, C)),
    "LayerNorm": (lambda: nn.LayerNorm(C), lambda: torch.nn.LayerNorm(C)),
    "RMSNorm": (lambda: nn.RMSNorm(C), lambda: torch.nn.RMSNorm(C)),
    "MultiheadAttention": (lambda: nn.MultiHeadAttention(C, H), lambda: torch.nn.MultiheadAttention(C, H)),
    "MultiheadAttention, no bias": (
        lambda: nn.MultiHeadAttention(C, H, bias=False),
        lambda: torch.nn.MultiheadAttention(C, H, bias=False),
    ),
    "MultiheadAttention, kdim and vdim": (
        lambda: nn.GroupedQueryAttention(C, H, widths=nn.AttentionWidths(memory=5, value=4)),
        lambda: torch.nn.MultiheadAttention(C, H, kdim=5, vdim=4),
    ),
    "MultiheadAttention, vdim, no bias": (
        lambda: nn.GroupedQueryAttention(C, H, widths=nn.AttentionWidths(value=4), bias=False),
        lambda: torch.nn.MultiheadAttention(C, H, vdim=4, bias=False),
    ),
    "MultiheadAttention, a projection each": (
        lambda: nn.GroupedQueryAttention(C, H),
        lambda: torch.nn.MultiheadAttention(C, H, kdim=C, vdim=C),
    ),
    "MultiheadAttention, a projection each, no bias": (
        lambda: nn.GroupedQueryAttention(C, H, bias=False),
        lambda: torch.nn.MultiheadAttention(C, H, bias=False),
    ),
    "TransformerEncoderLayer, a projection each": (
        lambda: grouped_layer(),
        lambda: torch.nn.TransformerEncoderLayer(C, H, F),
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(C, H, F),
        lambda: torch.nn.TransformerEncoderLayer(C, H, F),
    ),
    "TransformerEncoderLayer, norm first": (
        lambda: nn.TransformerEncoderLayer(C, H, F, norm_first=True),
        lambda: torch.nn.TransformerEncoderLayer(C, H, F, norm_first=True),
    ),
    "TransformerEncoderLayer, no bias": (
        lambda: nn.TransformerEncoderLayer(C, H, F, bias=False),
        lambda: torch.nn.TransformerEncoderLayer(C, H, F, bias=False),
    ),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(C, H, F),
        lambda: torch.nn.TransformerDecoderLayer(C, H, F),
    ),
    "a decoder-only block": (
        lambda: nn.DecoderBlock(C, H, F),
        lambda: torch.nn.TransformerEncoderLayer(C, H, F, norm_first=True),
    ),
    "TransformerEncoder": (
        lambda: our_stack(nn.TransformerEncoderLayer, norm=True),
        lambda: torch_stack(torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer(C, H, F), norm=True),
    ),
    "TransformerDecoder without a norm": (
        lambda: our_stack(nn.TransformerDecoderLayer, norm=False),
        lambda: torch_stack(torch.nn.TransformerDecoder, torch.nn.TransformerDecoderLayer(C, H, F), norm=False),
    ),
    "a module above": (Above, TorchAbove),
}


def arrays_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("twins", TWINS.values(), ids=TWINS)
def test_there_and_back(twins, dtype):
    ours, theirs = twins[0]().astype(dtype), twins[1]().to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
    sent = arrays_of(theirs)
    ours.load_torch_state_dict(sent)
    back = ours.torch_state_dict()
    assert list(back) == list(sent), "PyTorch's names in PyTorch's order"
    for name, array in sent.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    other = twins[1]().to(next(theirs.parameters()).dtype)
    other.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})  # strict
    for name, array in arrays_of(other).items():
        np.testing.assert_array_equal(array, sent[name], err_msg=name)


@pytest.mark.parametrize("widths", [{}, {"kdim": 5, "vdim": 4}], ids=["of one width", "kdim and vdim"])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_with_a_projection_each(bias, widths, agree):
    """The weights of one do in the other what they did, and gradients come out under PyTorch's names."""
    theirs = torch.nn.MultiheadAttention(C, H, bias=bias, batch_first=True, **widths)
    own = nn.AttentionWidths(memory=widths.get("kdim"), value=widths.get("vdim"))
    ours = nn.GroupedQueryAttention(C, H, widths=own, bias=bias, dtype=np.float64)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    ours.load_torch_state_dict(arrays_of(theirs))
    shapes = (2, 3, C), (2, 5, widths.get("kdim", C)), (2, 5, widths.get("vdim", C))
    inputs = dict(zip(("x", "memory", "values"), map(rng.normal, (0, 0, 0), (1, 1, 1), shapes), strict=True))
    leaves = {name: torch.from_numpy(array).requires_grad_() for name, array in inputs.items()}
    result, dy = theirs(*leaves.values(), need_weights=False)[0], rng.normal(size=(2, 3, C))
    wanted = leaves | dict(theirs.named_parameters())
    gradients = torch.autograd.grad(result, list(wanted.values()), torch.from_numpy(dy))
    expected = {name: gradient.numpy() for name, gradient in zip(wanted, gradients, strict=True)}
    y, cache = ours.forward(*inputs.values())
    dinputs, grads = ours.backward(dy, cache)
    got = dict(zip(inputs, dinputs, strict=False)) | ours.torch_state_dict(grads)
    assert list(got) == list(expected)
    agree(f"{widths}", ({"y": y}, got), ({"y": result.detach().numpy()}, expected))


@pytest.mark.parametrize("twins", TWINS.values(), ids=TWINS)
def test_gradients_take_the_same_way_as_weights(twins):
    """A tree that holds the weights' own numbers gives the weights' state dict, nested or dotted."""
    ours = twins[0]()
    tree = {name: array.copy() for name, array in ours.named_parameters()}
    expected = ours.torch_state_dict()
    for given in (tree, nn.unflatten(tree)):
        got = ours.torch_state_dict(given)
        assert list(got) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(got[name], array, err_msg=name)
