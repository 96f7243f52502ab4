"""The gated feed-forward network: construction, where its dropout stands, its size, and what it refuses."""

import numpy as np
import pytest

from numtx import functional as F
from numtx import nn


def test_a_seed_gives_the_weights_in_both_dtypes():
    single, double = nn.GatedFeedForward(4, 6, rng=3), nn.GatedFeedForward(4, 6, rng=3, dtype=np.float64)
    for (name, a), (_, b) in zip(single.named_parameters(), double.named_parameters(), strict=True):
        assert (a.dtype, b.dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(a, b.astype(np.float32), err_msg=name)
    assert not np.array_equal(single.gate.weight, single.up.weight)
    assert not np.array_equal(single.gate.weight, nn.GatedFeedForward(4, 6, rng=4).gate.weight)


def test_names_and_shapes():
    shapes = {name: array.shape for name, array in nn.GatedFeedForward(4, 6, bias=False).named_parameters()}
    assert shapes == {"gate.weight": (4, 6), "up.weight": (4, 6), "down.weight": (6, 4)}
    assert len(list(nn.GatedFeedForward(4, 6).named_parameters())) == 6
    assert repr(nn.GatedFeedForward(4, 6, "glu", 0.1)).startswith("GatedFeedForward(glu, dropout=0.1\n")


def test_a_third_less_hidden_is_as_large_as_the_plain_network():
    plain, gated = nn.FeedForward(6, 24, bias=False), nn.GatedFeedForward(6, 16, bias=False)
    assert plain.num_parameters() == gated.num_parameters()


def test_drops_between_gate_and_down(randomized):
    x = np.random.default_rng(1).normal(size=(3, 4))
    model = randomized(nn.GatedFeedForward(4, 6, "glu", dropout=0.5, dtype=np.float64))
    y = model.forward(x, rng=np.random.default_rng(5))[0]
    hidden = 1 / (1 + np.exp(-(x @ model.gate.weight + model.gate.bias))) * (x @ model.up.weight + model.up.bias)
    kept = np.random.default_rng(5).random(hidden.shape, dtype=np.float32) >= 0.5
    np.testing.assert_allclose(y, (hidden * kept * 2) @ model.down.weight + model.down.bias, rtol=1e-12)
    np.testing.assert_allclose(model(x), hidden @ model.down.weight + model.down.bias, rtol=1e-12)


def test_a_shut_gate_leaves_the_last_bias_and_no_gradient_before_it(randomized):
    model = randomized(nn.GatedFeedForward(4, 6, "swiglu", dtype=np.float64))
    model.gate.weight[:] = 0
    model.gate.bias[:] = -1e3
    x = np.random.default_rng(1).normal(size=(2, 3, 4))
    y, cache = model.forward(x)
    np.testing.assert_array_equal(y, np.broadcast_to(model.down.bias, y.shape))
    dx, grads = model.backward(np.ones_like(y), cache)
    assert not dx.any()
    assert not grads["up"]["weight"].any()
    assert not grads["gate"]["weight"].any()
    np.testing.assert_array_equal(grads["down"]["bias"], np.full(4, 6.0))


def test_the_trace_sees_the_unit():
    model = nn.GatedFeedForward(4, 6, "geglu_tanh", rng=0)
    with nn.trace(model) as seen:
        model(np.ones((1, 2, 4), np.float32))
    assert list(seen)[:6] == [
        "gate/linear", "gate", "up/linear", "up", "GatedFeedForward/geglu_tanh", "GatedFeedForward/dropout",
    ]  # fmt: skip


REFUSED = {
    "activation": (lambda: nn.GatedFeedForward(4, 8, "gelu"), "of swiglu, geglu, geglu_tanh, glu, got 'gelu'"),
    "no hidden": (lambda: nn.GatedFeedForward(4, 0), "hidden .* got 0"),
    "width": (lambda: nn.GatedFeedForward(4.0, 8), r"width .* got 4\.0"),
    "dropout": (lambda: nn.GatedFeedForward(4, 8, dropout=1.0), r"dropout .* got 1\.0"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_cannot_be_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=rf"^GatedFeedForward: expected [^\n]*{message}$"):
        make()


def test_inputs_that_do_not_fit_are_refused_in_one_line():
    model = nn.GatedFeedForward(4, 8)
    for x in (np.ones((2, 3), np.float32), np.ones((2, 4)), np.ones((2, 4), int)):
        with pytest.raises(ValueError, match=r"^linear: expected [^\n]*$"):
            model(x)


def test_every_activation_has_its_pair():
    from numtx.nn.feed_forward import GATED

    for name in GATED:
        assert callable(getattr(F, name))
        assert callable(getattr(F, f"{name}_backward"))
