"""Rows of padding and positions with an offset, beside PyTorch and Transformers."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity tests need PyTorch: pip install 'numtx[parity]'")
pytest.importorskip("transformers", reason="parity tests need it: pip install 'numtx[parity]'")
import torch

from numtx import nn

F64 = {"dtype": np.float64}
IDS = np.array([[3, 0, 2, 2], [2, 3, 1, 0]])


def gradient(module, y, dy):
    (result,) = torch.autograd.grad(y, [module.weight], torch.from_numpy(dy))
    return result.numpy()


@pytest.mark.parametrize("padding_idx", [None, 0, 2])
def test_embedding(padding_idx):
    ours = nn.Embedding(5, 3, padding_idx=padding_idx, rng=0, **F64)
    theirs = torch.nn.Embedding(5, 3, padding_idx=padding_idx, dtype=torch.float64)
    theirs.weight.data = torch.from_numpy(ours.weight)
    dy = np.random.default_rng(1).normal(size=(2, 4, 3))
    y, cache = ours.forward(IDS)
    expected = theirs(torch.from_numpy(IDS))
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_allclose(ours.backward(dy, cache)[1]["weight"], gradient(theirs, expected, dy), rtol=1e-12)


@pytest.mark.parametrize("old", [0, 3])
def test_bart_s_positions(old):
    bart = pytest.importorskip("transformers.models.bart.modeling_bart")
    from their_version import CACHE_LENGTH

    theirs = bart.BartLearnedPositionalEmbedding(9, 3).double()
    ours = nn.LearnedPositions(9, 3, offset=theirs.offset, rng=0, **F64)
    assert ours.weight.shape == tuple(theirs.weight.shape)
    theirs.weight.data = torch.from_numpy(ours.weight)
    x, dy = np.zeros((2, 4, 3)), np.random.default_rng(1).normal(size=(2, 4, 3))
    y, cache = ours.forward(x, positions=np.arange(old, old + 4))
    expected = theirs(torch.from_numpy(IDS), **{CACHE_LENGTH: old}).expand(2, 4, 3)
    np.testing.assert_array_equal(y, expected.detach().numpy())
    np.testing.assert_allclose(ours.backward(dy, cache)[1]["weight"], gradient(theirs, expected, dy), rtol=1e-12)
