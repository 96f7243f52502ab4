"""Dropout stands where PyTorch has it: what numtx drops is dropped there, call by call, and all numbers are the same.

numtx runs as it is, and the masks that it draws are written down in the order of the calls. PyTorch's dropout takes
them from that list instead of drawing. One that stands elsewhere, before the activation or behind the residual sum,
finds a mask of another shape, or gives other numbers.
"""

from copy import deepcopy

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.models import Transformer

torch = pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
TF = torch.nn.functional
# Said of every model whose padded batches it will not compute by nested tensors.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")

C, H, HIDDEN, RATE = 8, 2, 12, 0.3
F64 = {"dtype": np.float64}


@pytest.fixture
def drawn(monkeypatch):
    """The list of the masks that numtx draws from now on; attention's are those of its probabilities."""
    masks, dropout, attend = [], F.dropout, F.scaled_dot_product_attention

    def watched_dropout(x, p=0.5, rng=None):
        if rng is not None and p > 0:
            masks.append(dropout(np.ones(x.shape), p, deepcopy(rng))[0] != 0)
        return dropout(x, p, rng)

    def watched_attention(query, key, value, bias=None, **settings):
        rng = settings.get("rng")
        if rng is not None and settings["dropout"] > 0:
            # Of an identity, attention gathers what it multiplies values by: zero where dropped, or where masked.
            identity = np.broadcast_to(np.eye(key.shape[2]), (*key.shape[:3], key.shape[2]))
            gathered, _ = attend(query, key, identity, bias, **{**settings, "rng": deepcopy(rng)})
            masks.append(gathered != 0)
        return attend(query, key, value, bias, **settings)

    monkeypatch.setattr(F, "dropout", watched_dropout)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched_attention)
    return masks


def replay(monkeypatch, masks):
    """Let PyTorch drop what these masks say, one after the other; the list of what is left of them."""
    left = list(masks)

    def dropout(x, p=0.5, training=True, inplace=False):
        assert training
        assert p == RATE
        mask = left.pop(0)
        assert mask.shape == tuple(x.shape), "another place"
        return x * torch.from_numpy(mask) / (1 - p)

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert dropout_p == RATE
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if is_causal:  # which PyTorch finds out by looking at the mask
            scores = scores.masked_fill(FUTURE, -torch.inf)
        weights = (scores if attn_mask is None else scores + attn_mask).softmax(-1)
        return dropout(weights, dropout_p) @ value

    monkeypatch.setattr(TF, "dropout", dropout)
    monkeypatch.setattr(TF, "scaled_dot_product_attention", attention)
    return left


def normal(rng, *shape):
    return rng.standard_normal(shape)


FUTURE = torch.ones(4, 4, dtype=torch.bool).triu(1)
CAUSAL = np.tri(4, dtype=bool)[None, None]
LAYER = {"nhead": H, "dim_feedforward": HIDDEN, "dropout": RATE}
TWINS = {
    "TransformerEncoderLayer": (
        lambda **o: nn.TransformerEncoderLayer(C, H, HIDDEN, RATE, **o, causal=True, rng=0, **F64),
        lambda **o: torch.nn.TransformerEncoderLayer(C, **LAYER, **o, batch_first=True),
        ("x",), {}, {"src_mask": FUTURE}, 3 + 1,
    ),
    "TransformerDecoderLayer": (
        lambda **o: nn.TransformerDecoderLayer(C, H, HIDDEN, RATE, **o, causal=True, rng=0, **F64),
        lambda **o: torch.nn.TransformerDecoderLayer(C, **LAYER, **o, batch_first=True),
        ("x", "memory"), {}, {"tgt_mask": FUTURE}, 4 + 2,
    ),
    "Transformer": (
        lambda **o: Transformer(C, H, 2, 2, HIDDEN, RATE, **o, rng=0, **F64),
        lambda **o: torch.nn.Transformer(C, H, 2, 2, HIDDEN, RATE, **o, batch_first=True),
        ("memory", "x"), {"tgt_mask": CAUSAL}, {"tgt_mask": FUTURE}, 2 * (4 + 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("twins", TWINS.values(), ids=TWINS)
def test_the_same_masks_in_the_same_places(twins, norm_first, activation, drawn, monkeypatch, agree):
    make, make_theirs, names, settings, their_settings, places = twins
    options = {"norm_first": norm_first, "activation": activation}
    ours, theirs = make(**options), make_theirs(**options).train()
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(0.5 * normal(rng, *parameter.shape) + (parameter.ndim == 1)))
    ours.load_torch_state_dict({name: p.detach().numpy() for name, p in theirs.named_parameters()})
    arrays = {"x": normal(rng, 2, 4, C), "memory": normal(rng, 2, 5, C)}
    inputs, dy = {name: arrays[name] for name in names}, normal(rng, 2, 4, C)

    y, cache = ours.forward(*inputs.values(), **settings, rng=np.random.default_rng(11))
    dinputs, grads = ours.backward(dy, cache)
    got = dict(zip(inputs, dinputs, strict=False)) | ours.torch_state_dict(grads)
    assert len(drawn) == places
    for i, mask in enumerate(drawn):
        alike = [other for other in drawn[:i] if other.shape == mask.shape and (other == mask).all()]
        assert not alike, "two places with one draw"

    left = replay(monkeypatch, drawn)
    leaves = {name: torch.from_numpy(array).requires_grad_() for name, array in inputs.items()}
    result = theirs(*leaves.values(), **their_settings)
    assert not left
    wanted = leaves | dict(theirs.named_parameters())
    gradients = torch.autograd.grad(result, list(wanted.values()), torch.from_numpy(dy))
    expected = {name: gradient.numpy() for name, gradient in zip(wanted, gradients, strict=True)}
    agree(type(ours).__name__, ({"y": y}, got), ({"y": result.detach().numpy()}, expected))
