"""The constructors: seeds, dtypes, scales of the draw, and what they refuse."""

import math

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn
from numtx.nn import init

DRAWN = {
    "Linear": lambda **s: nn.Linear(5, 7, **s),
    "Embedding": lambda **s: nn.Embedding(9, 6, **s),
    "LearnedPositions": lambda **s: nn.LearnedPositions(9, 6, **s),
    "FeedForward": lambda **s: nn.FeedForward(4, 10, **s),
    "MultiHeadAttention": lambda **s: nn.MultiHeadAttention(6, 3, **s),
    "DecoderBlock": lambda **s: nn.DecoderBlock(6, 3, 8, **s),
}
FIXED = {"LayerNorm": lambda **s: nn.LayerNorm(4, **s), "RMSNorm": lambda **s: nn.RMSNorm(4, **s)}


def weights(module):
    return {name: array.copy() for name, array in module.named_parameters()}


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def differ(a, b):
    return any(not np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_a_seed_gives_the_weights(make):
    first = weights(make(rng=3))
    assert_same(first, weights(make(rng=3)))
    assert_same(first, weights(make(rng=np.random.default_rng(3))))
    assert differ(first, weights(make(rng=4)))
    assert differ(weights(make(rng=None)), weights(make(rng=None)))


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_a_generator_goes_on_from_module_to_module(make):
    rng = np.random.default_rng(3)
    first, second = weights(make(rng=rng)), weights(make(rng=rng))
    assert differ(first, second)


@pytest.mark.parametrize("make", [*DRAWN.values(), *FIXED.values()], ids=[*DRAWN, *FIXED])
def test_one_seed_gives_the_same_weights_in_both_dtypes(make):
    single, double = make(rng=3), make(rng=3, dtype=np.float64)
    assert {array.dtype for _, array in single.named_parameters()} == {np.dtype(np.float32)}
    assert {array.dtype for _, array in double.named_parameters()} == {np.dtype(np.float64)}
    assert_same(weights(single), {name: a.astype(np.float32) for name, a in weights(double).items()})


def test_parts_are_drawn_apart():
    """One draw scaled for two parts would correlate fully."""
    block = nn.DecoderBlock(8, 2, 8, rng=0)
    drawn = [array.ravel()[:64] for _, array in block.named_parameters() if array.ndim == 2]
    assert len(drawn) == 4
    assert (np.abs(np.corrcoef(drawn)) < 0.5).sum() == 4 * 3


def test_scales_of_the_draw():
    linear = nn.Linear(64, 500, rng=0, dtype=np.float64)
    for array in (linear.weight, linear.bias):
        assert np.abs(array).max() <= 1 / 8
        assert abs(array.std() * 8 * math.sqrt(3) - 1) < 0.1
    assert abs(nn.Embedding(500, 64, rng=0).weight.std() - 1) < 0.02
    assert abs(nn.Embedding(500, 64, std=0.02, rng=0).weight.std() / 0.02 - 1) < 0.02
    assert abs(nn.LearnedPositions(500, 64, std=0.02, rng=0).weight.std() / 0.02 - 1) < 0.02
    attention = nn.MultiHeadAttention(64, 2, rng=0, dtype=np.float64)
    bound = math.sqrt(6 / (64 + 192))
    assert 0.99 * bound < np.abs(attention.in_proj_weight).max() <= bound
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()


def test_norms_start_as_they_should():
    for norm in (nn.LayerNorm(4), nn.RMSNorm(4)):
        assert (norm.weight == 1).all()
    assert not nn.LayerNorm(4).bias.any()


def test_initialisers():
    assert init.normal((2, 3), 0.5, 0).dtype == np.float32
    assert abs(init.normal((400, 400), 0.5, 0).std() - 0.5) < 0.01
    drawn = init.uniform((400, 400), 0.5, 0, np.float64)
    assert -0.5 <= drawn.min() < -0.499
    assert 0.499 < drawn.max() < 0.5
    drawn = init.xavier_uniform((100, 200), 0, np.float64)
    assert 0.99 * math.sqrt(6 / 300) < np.abs(drawn).max() <= math.sqrt(6 / 300)


def test_a_dead_dropout_is_the_identity():
    x = np.arange(6.0).reshape(2, 3)
    for module, rng in ((nn.Dropout(0.5), None), (nn.Dropout(0.0), np.random.default_rng(0))):
        y, cache = module.forward(x, rng=rng)
        np.testing.assert_array_equal(y, x)
        dx, grads = module.backward(2 * x, cache)
        np.testing.assert_array_equal(dx, 2 * x)
        assert grads == {}


def test_dropout_drops_and_scales_and_backward_uses_the_same_draw():
    x = np.ones((50, 40))
    y, cache = nn.Dropout(0.25).forward(x, rng=np.random.default_rng(0))
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert 0.2 < (y == 0).mean() < 0.3
    np.testing.assert_array_equal(nn.Dropout(0.25).backward(x, cache)[0], y)


def test_feed_forward_drops_between_its_two_products(randomized):
    """Behind the activation; with relu, before it would be the same."""
    x = np.random.default_rng(1).normal(size=(3, 4))
    model = randomized(nn.FeedForward(4, 6, "gelu", dropout=0.5, dtype=np.float64))
    y = model.forward(x, rng=np.random.default_rng(5))[0]
    hidden, _ = F.gelu(x @ model.up.weight + model.up.bias)
    kept = np.random.default_rng(5).random(hidden.shape, dtype=np.float32) >= 0.5
    np.testing.assert_allclose(y, (hidden * kept * 2) @ model.down.weight + model.down.bias, rtol=1e-12)
    without = hidden @ model.down.weight + model.down.bias
    np.testing.assert_allclose(model(x), without, rtol=1e-12)


REFUSED = {
    "heads that do not divide": (
        lambda: nn.MultiHeadAttention(8, 3),
        r"MultiHeadAttention: expected heads .* 8, got 3",
    ),
    "no heads": (lambda: nn.MultiHeadAttention(8, 0), r"MultiHeadAttention: expected .*got 0"),
    "half a head": (lambda: nn.MultiHeadAttention(8, 2.0), r"MultiHeadAttention: expected .*got 2\.0"),
    "no width": (lambda: nn.MultiHeadAttention(0, 1), r"MultiHeadAttention: expected .*got 0"),
    "block's heads": (lambda: nn.DecoderBlock(8, 3, 8), r"MultiHeadAttention: expected heads .* 8, got 3"),
    "empty window": (lambda: nn.MultiHeadAttention(8, 2, window=0), r"MultiHeadAttention: expected .*window.*got 0"),
    "attention dropout": (lambda: nn.MultiHeadAttention(8, 2, dropout=1.0), r"MultiHeadAttention: .*got 1\.0"),
    "activation": (lambda: nn.FeedForward(4, 8, "swish"), r"FeedForward: expected .* tanh, got 'swish'"),
    "no hidden": (lambda: nn.FeedForward(4, 0), r"(FeedForward|Linear): expected .*got 0"),
    "feed-forward dropout": (lambda: nn.FeedForward(4, 8, dropout=-0.1), r"FeedForward: expected .*got -0\.1"),
    "no inputs": (lambda: nn.Linear(0, 3), r"Linear: expected .*got 0"),
    "negative outputs": (lambda: nn.Linear(2, -3), r"Linear: expected .*got -3"),
    "fractional outputs": (lambda: nn.Linear(2, 3.0), r"Linear: expected .*got 3\.0"),
    "integer weights": (lambda: nn.Linear(2, 3, dtype=int), r"\w+: expected .*dtype.*got int64"),
    "rate of one": (lambda: nn.Dropout(1.0), r"Dropout: expected .*got 1\.0"),
    "residual dropout": (lambda: nn.PreNorm(nn.LayerNorm(4), nn.FeedForward(4, 8), 2.0), r"PreNorm: .*got 2\.0"),
    "post-norm dropout": (lambda: nn.PostNorm(nn.LayerNorm(4), nn.FeedForward(4, 8), 2.0), r"PostNorm: .*got 2\.0"),
    "odd sinusoids": (lambda: nn.SinusoidalPositions(3), r"sinusoidal_?positions: expected an even width, got 3"),
    "layout": (lambda: nn.SinusoidalPositions(4, layout="both"), r"sinusoidal_?positions: .*layout .*got 'both'"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_are_refused_at_construction_in_one_line(make, message):
    with pytest.raises(ValueError, match=rf"(?i)^{message}[^\n]*$"):
        make()


WRONG_INPUTS = {
    "linear width": (lambda: nn.Linear(2, 3)(np.ones((4, 3), np.float32)), "linear: expected x"),
    "linear dtype": (
        lambda: nn.Linear(2, 3)(np.ones((4, 2))),
        "linear: .* one dtype, got x float64 and weight float32",
    ),
    "linear ints": (lambda: nn.Linear(2, 3)(np.ones((4, 2), int)), "linear: expected x of dtype float32 .*, got int64"),
    "norm width": (lambda: nn.LayerNorm(4)(np.ones((2, 3), np.float32)), "layer_norm: expected weight"),
    "rms width": (lambda: nn.RMSNorm(4)(np.ones((2, 3), np.float32)), "rms_norm: expected weight"),
    "ids over": (lambda: nn.Embedding(4, 2)(np.array([4])), r"embedding: expected ids in \[0, 4\), got 4"),
    "ids under": (lambda: nn.Embedding(4, 2)(np.array([-1])), r"embedding: expected ids in \[0, 4\), got -1"),
    "float ids": (lambda: nn.Embedding(4, 2)(np.array([1.0])), "embedding: expected integer ids, got float64"),
    "truth as ids": (lambda: nn.Embedding(4, 2)(np.array([True])), "embedding: expected integer ids, got bool"),
    "dropout ints": (lambda: nn.Dropout(0.1)(np.ones(2, int)), "dropout: expected x of dtype float32 .*, got int64"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_inputs_that_do_not_fit_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        call()
