"""PreNorm and PostNorm: what they compute, and sublayers with several inputs."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn

KINDS = {"pre": nn.PreNorm, "post": nn.PostNorm}


def by_definition(kind, norm, sublayer, x, *others):
    if kind == "pre":
        return x + sublayer(norm(x), *others)
    return norm(x + sublayer(x, *others))


@pytest.fixture
def parts(randomized):
    norm = randomized(nn.LayerNorm(4, dtype=np.float64), seed=1)
    attention = randomized(nn.MultiHeadAttention(4, 2, dtype=np.float64), seed=2)
    return norm, attention


X, MEMORY, DY = np.random.default_rng(0).normal(size=(3, 2, 3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_formula(kind, parts):
    norm, attention = parts
    bias = np.random.default_rng(1).normal(size=(1, 2, 3, 3))
    mask = F.padding_mask([[1, 1, 0], [1, 1, 1]])
    y = KINDS[kind](norm, attention)(X, MEMORY, bias, mask=mask)

    def sublayer(h, *others):
        return attention(h, *others, mask=mask)

    np.testing.assert_array_equal(y, by_definition(kind, norm, sublayer, X, MEMORY, bias))


def directional(f, x, direction, dy):
    h = 1e-5
    return np.sum(dy * (f(x + h * direction) - f(x - h * direction))) / (2 * h)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_input_of_a_sublayer_with_several(kind, parts):
    module = KINDS[kind](*parts)
    bias = np.random.default_rng(1).normal(size=(1, 2, 3, 3))
    inputs = {"x": X, "memory": MEMORY, "bias": bias}
    _, cache = module.forward(X, MEMORY, bias)
    dinputs, _ = module.backward(DY, cache)
    assert len(dinputs) == 3
    for k, (name, array) in enumerate(inputs.items()):
        direction = np.random.default_rng(k).normal(size=array.shape)

        def moved(value, name=name):
            return module(*{**inputs, name: value}.values())

        numeric = directional(moved, array, direction, DY)
        np.testing.assert_allclose(np.sum(dinputs[k] * direction), numeric, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stand_where_the_inputs_stood(kind, parts):
    """A tuple from a sublayer of several inputs, None for one not given, an array from a sublayer of one input."""
    norm, attention = parts
    module = KINDS[kind](norm, attention)
    y, cache = module.forward(X)
    dx, dmemory, dbias = module.backward(y, cache)[0]
    assert dx.shape == X.shape
    assert dmemory is None
    assert dbias is None
    module = KINDS[kind](norm, nn.FeedForward(4, 6, rng=0, dtype=np.float64))
    y, cache = module.forward(X)
    dx, grads = module.backward(y, cache)
    assert isinstance(dx, np.ndarray)
    assert list(grads) == ["norm", "sublayer"]


class Nothing(nn.Module):
    """A norm or sublayer that gives back what it got."""

    def forward(self, x, *, rng=None):
        return x, ()

    def backward(self, dy, cache):
        return dy, {}


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_falls_on_the_branch_not_on_the_residual(kind):
    x = np.ones((20, 30, 4))
    module = KINDS[kind](Nothing(), Nothing(), dropout=0.5)
    y, cache = module.forward(x, rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {1.0, 3.0}
    assert 0.4 < (y == 3).mean() < 0.6
    np.testing.assert_array_equal(module.backward(x, cache)[0], y)
    np.testing.assert_array_equal(module(x), 2 * x)


@pytest.mark.parametrize("kind", KINDS)
def test_sublayer_and_branch_do_not_share_a_draw(kind):
    """Of two draws at one half a quarter survives, of one draw used twice a half."""
    x = np.ones((20, 30, 4))
    module = KINDS[kind](Nothing(), nn.Dropout(0.5), dropout=0.5)
    y, cache = module.forward(x, rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {1.0, 5.0}
    assert 0.2 < (y == 5).mean() < 0.3
    np.testing.assert_array_equal(module.backward(x, cache)[0], y)
