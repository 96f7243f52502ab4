"""Right implementations with other arithmetic than numtx's, each with a cache of its own, pass the battery."""

import numpy as np
import pytest

from numtx.testing import SPECS, cases, diagnose, rejection
from numtx.testing.mistakes import attention_textbook, cross_entropy, tiled_attention


def _linear(x, weight, bias=None):
    y = np.einsum("...i,io->...o", x, weight)
    return (y if bias is None else y + bias), (x, weight, bias)


def _linear_backward(dy, cache):
    x, weight, bias = cache
    before = tuple(range(dy.ndim - 1))
    dweight = np.tensordot(x, dy, (before, before)) if before else np.outer(x, dy)
    return np.einsum("...o,io->...i", dy, weight), dweight, None if bias is None else dy.sum(axis=before)


def _embedding(ids, weight):
    return weight[ids], {"ids": ids, "shape": weight.shape}


def _embedding_backward(dy, cache):
    dweight = np.zeros(cache["shape"], dy.dtype)
    np.add.at(dweight, cache["ids"], dy)
    return dweight


def _layer_norm(x, weight, bias=None, eps=1e-5):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    y = weight * (x - mean) / np.sqrt(var + eps)
    return (y if bias is None else y + bias), (x, mean, var, weight, bias, eps)


def _layer_norm_backward(dy, cache):
    x, mean, var, weight, bias, eps = cache
    count, centred = x.shape[-1], x - mean
    dxhat = dy * weight
    dvar = (dxhat * centred).sum(-1, keepdims=True) * -0.5 * (var + eps) ** -1.5
    dmean = -dxhat.sum(-1, keepdims=True) / np.sqrt(var + eps)
    dx = dxhat / np.sqrt(var + eps) + dvar * 2 * centred / count + dmean / count
    before = tuple(range(x.ndim - 1))
    dweight = (dy * centred / np.sqrt(var + eps)).sum(before)
    return dx, dweight, None if bias is None else dy.sum(before)


def _softmax(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True), (x, axis)


def _softmax_backward(dy, cache):
    x, axis = cache
    y = np.moveaxis(_softmax(x, axis)[0], axis, -1)
    jacobian = y[..., :, None] * (np.eye(y.shape[-1], dtype=y.dtype) - y[..., None, :])
    return np.moveaxis((jacobian @ np.moveaxis(dy, axis, -1)[..., None])[..., 0], -1, axis)


def _silu(x):
    return x / (1 + np.exp(-np.clip(x, -80, None))), x


def _silu_backward(dy, x):
    s = 1 / (1 + np.exp(-np.clip(x, -80, None)))
    return dy * s + dy * x * s * (1 - s)


def _dropout(x, p=0.5, rng=None):
    """Another draw than numtx's: only the statistics can judge it."""
    if rng is None or p == 0:
        return x.copy(), np.ones_like(x)
    factor = ((rng.uniform(size=x.shape) < 1 - p) / (1 - p)).astype(x.dtype)
    return x * factor, factor


def _dropout_backward(dy, factor):
    return dy * factor


_attention, _tiled, _entropy = attention_textbook.Textbook(), tiled_attention.Tiled(), cross_entropy.Textbook()
RIGHT = {
    "linear": (_linear, _linear_backward),
    "embedding": (_embedding, _embedding_backward),
    "layer_norm": (_layer_norm, _layer_norm_backward),
    "softmax": (_softmax, _softmax_backward),
    "silu": (_silu, _silu_backward),
    "dropout": (_dropout, _dropout_backward),
    "scaled_dot_product_attention": (_attention.forward, _attention.backward),
    "tiled_attention": (_tiled.forward, _tiled.backward),
    "cross_entropy": (_entropy.forward, _entropy.backward),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_implementation_with_its_own_cache_passes(name):
    spec = SPECS[name]
    for case in cases(spec, 12):
        finding = rejection(spec, case, RIGHT[name])
        assert finding is None, f"{finding} at {case}"
    assert diagnose(name, *RIGHT[name]) is None
