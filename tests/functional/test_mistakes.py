"""Every classic mistake of a pair is rejected by the battery, and right implementations are not."""

import math
from itertools import islice

import numpy as np
import pytest

from numtx import functional
from numtx.testing import MISTAKES, SCALES, SPECS, Drawer, accepts, cases, diagnose, planted, rejected, rejection
from numtx.testing.battery import movement, outcome
from numtx.testing.mistakes import attention_textbook, cross_entropy

FUNCTIONAL = [mistake for mistake in MISTAKES.values() if mistake.owner == "numtx.functional"]
PAIRS = [spec for spec in SPECS.values() if hasattr(functional, spec.name)]
each = pytest.mark.parametrize("mistake", FUNCTIONAL, ids=lambda mistake: mistake.name)

MOVES = 1e-5
CASES, DRAWS = 3, 200  # so many cases that move the result, out of at most so many drawn

# These need huge, tied or far-off numbers, or a second call, to show: what the scales draw is not moved by them.
AT_THE_WITNESS_ALONE = {
    "softmax without subtracting the maximum",
    "log_softmax as the logarithm of softmax",
    "binary cross-entropy by the logarithm of the sigmoid",
    "layer_norm with the one-pass variance",
    "cross-entropy with 1e-9 added to the probabilities",
    "cross-entropy targets found by comparing logit values",
    "dropout mask shared by two branches",
}


@each
def test_rejected_at_its_witness(mistake):
    spec, case = SPECS[mistake.of], mistake.witness()
    assert rejection(spec, case) is None, "the right pair fails at this witness"
    finding = rejected(mistake, spec)
    assert finding is not None, f"{mistake.name}: the battery accepts it"
    by_numbers = finding.check not in ("runs", "gradient's shape", "result's shape")
    assert by_numbers, f"{mistake.name}: a witness shows wrong numbers, not {finding.check}: {finding.note}"


def _moved(mistake, spec, case):
    right = outcome(spec, case)
    with planted(mistake):
        try:
            return movement(right, outcome(spec, case))
        except Exception:
            return math.inf


@pytest.mark.parametrize("scale", SCALES)
@each
def test_rejected_where_it_moves_the_result(mistake, scale):
    spec = SPECS[mistake.of]
    draws = 20 if mistake.name in AT_THE_WITNESS_ALONE else DRAWS
    drawn = (spec.draw(Drawer(seed, scale=scale)) for seed in range(draws))
    moving = list(islice((case for case in drawn if _moved(mistake, spec, case) > MOVES), CASES))
    assert bool(moving) != (mistake.name in AT_THE_WITNESS_ALONE), "whether it shows at this scale"
    for case in moving:
        assert rejected(mistake, spec, case) is not None, f"{mistake.name}: the battery accepts {case}"


@each
def test_is_named(mistake):
    """Somebody whose op is this mistake is told so, and is never told another one."""
    with planted(mistake):
        pair = SPECS[mistake.of].pair()
    named = diagnose(mistake.of, *pair)
    assert named is None or named.name == mistake.name


@pytest.mark.parametrize("spec", PAIRS, ids=lambda spec: spec.name)
def test_every_op_has_mistakes(spec):
    assert [mistake for mistake in FUNCTIONAL if mistake.of == spec.name]


# Right implementations, each with a cache of its own and other arithmetic than numtx's.


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


_attention, _entropy = attention_textbook.Textbook(), cross_entropy.Textbook()
RIGHT = {
    "linear": (_linear, _linear_backward),
    "embedding": (_embedding, _embedding_backward),
    "layer_norm": (_layer_norm, _layer_norm_backward),
    "softmax": (_softmax, _softmax_backward),
    "silu": (_silu, _silu_backward),
    "dropout": (_dropout, _dropout_backward),
    "scaled_dot_product_attention": (_attention.forward, _attention.backward),
    "cross_entropy": (_entropy.forward, _entropy.backward),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_implementation_with_its_own_cache_passes(name):
    spec = SPECS[name]
    for case in cases(spec, 9):
        finding = rejection(spec, case, RIGHT[name])
        assert finding is None, f"{finding} at {case}"
    assert accepts(spec, islice(cases(spec, seed=1), 3), RIGHT[name])
    assert diagnose(name, *RIGHT[name]) is None
