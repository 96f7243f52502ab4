"""A component as a pair: its parameters are inputs, and its mistakes are seen."""

import numpy as np
import pytest

from numtx import nn
from numtx.testing import Drawer, battery, find_spec
from numtx.testing.adapter import Built, Draft, component_case, component_spec, draw_parameters


def failed(spec, case):
    return {(f.check, f.subject) for f in battery(spec, case) if not f.ok}


def build(kind):
    return lambda dtype: kind(3, 3, rng=0, dtype=dtype)


def spec_of(kind):
    return component_spec(
        "toy",
        build(kind),
        lambda d: Draft({}, {"x": d.array((2, 3))}),
        lambda p, options, x: x @ p["weight"] + p["bias"],
    )


def test_parameters_become_inputs():
    spec = find_spec("FeedForward")
    case = spec.draw(Drawer(0))
    names = spec.gradient_names(case)
    assert names[0] == "x"
    assert {"up.weight", "down.weight"} <= set(names)
    (y, cache), pair = spec.pair().forward(**case.keywords()), spec.pair()
    gradients = pair.backward(np.ones_like(y), cache)
    assert [g.shape for g in gradients] == [case.inputs[name].shape for name in names]


def test_norm_weights_are_not_ones_and_biases_not_zeros():
    block = nn.DecoderBlock(4, 2, 5, rng=0)
    drawn = draw_parameters(Drawer(0, scale=0.02), block)
    assert set(drawn) == {name for name, _ in block.named_parameters()}
    weight = drawn["attention.norm.weight"]
    assert (weight != 1).all()
    assert (weight > 0.4).all()
    assert all((array != 0).all() for array in drawn.values())
    assert np.abs(drawn["feed_forward.sublayer.up.weight"]).max() < 0.2


def test_a_right_component_passes():
    assert failed(spec_of(nn.Linear), spec_of(nn.Linear).draw(Drawer(0))) == set()


def test_a_gradient_that_is_missing_fails():
    class Frozen(nn.Linear):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            return dx, {"weight": grads["weight"]}

    spec = spec_of(Frozen)
    assert failed(spec, spec.draw(Drawer(0))) == {("gradient's shape", "bias")}


def test_a_gradient_of_nothing_fails():
    class More(nn.Linear):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            return dx, {**grads, "other": grads["bias"]}

    spec = spec_of(More)
    assert ("runs", "-") in failed(spec, spec.draw(Drawer(0)))


def test_a_wrong_parameter_gradient_is_named():
    class Halved(nn.Linear):
        def backward(self, dy, cache):
            dx, grads = super().backward(dy, cache)
            return dx, {**grads, "bias": grads["bias"] / 2}

    spec = spec_of(Halved)
    assert ("gradient", "bias") in failed(spec, spec.draw(Drawer(0)))


def test_state_on_the_component_fails():
    class Keeping(nn.Linear):
        def forward(self, x):
            y, self._cache = super().forward(x)
            return y, None

        def backward(self, dy, cache):
            return super().backward(dy, self._cache)

    spec = spec_of(Keeping)
    assert {check for check, _ in failed(spec, spec.draw(Drawer(0)))} == {"interleaved forwards"}


def test_one_instance_serves_all_calls_of_a_dtype():
    built = Built(build(nn.Linear), {})
    assert built.at(np.float32) is built.at("float32")
    assert built.at(np.float64).dtype == np.float64


def test_a_case_by_hand_is_the_same_every_time():
    draft = Draft({}, {"x": np.ones((1, 3))})
    first, second = (component_case(build(nn.Linear), draft) for _ in range(2))
    assert (first.inputs["weight"] == second.inputs["weight"]).all()


@pytest.mark.parametrize("name", ["DecoderBlock", "GPT2LMHeadModel"])
def test_a_zero_gradient_of_a_key_bias_is_no_failure(name):
    spec = find_spec(name)
    assert failed(spec, spec.draw(Drawer(1, scale=1.0))) == set()
