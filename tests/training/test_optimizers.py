"""The optimizers against their formulas, written once more, a parameter at a time."""

import math

import numpy as np
import pytest

from numtx import nn
from numtx.training import SGD, Adam, AdamW, FlatParameters, Workers, optimizers


def make_model(dtype=np.float64):
    return nn.FeedForward(6, 10, "relu", rng=3, dtype=dtype)


def gradients_of(model, step):
    rng = np.random.default_rng([9, step])
    return {name: rng.standard_normal(array.shape).astype(array.dtype) for name, array in model.named_parameters()}


def is_decayed(name):
    return name.endswith("weight")


def sgd(p, g, state, t, lr, weight_decay, momentum):
    g = g + weight_decay * p
    state["b"] = momentum * state.get("b", 0) + g
    return p - lr * state["b"]


def adam(p, g, state, t, lr, weight_decay, betas, eps, decoupled):
    if decoupled:
        p = p - lr * weight_decay * p
    else:
        g = g + weight_decay * p
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g**2
    m = state["m"] / (1 - betas[0] ** t)
    v = state["v"] / (1 - betas[1] ** t)
    return p - lr * m / (np.sqrt(v) + eps)


def adamw_formula(**settings):
    return lambda *arguments: adam(*arguments, **settings, decoupled=True)


CASES = {
    "sgd": (lambda m: SGD(m, 0.1), lambda *a: sgd(*a, 0, 0)),
    "sgd momentum decay": (lambda m: SGD(m, 0.1, momentum=0.9, weight_decay=0.2), lambda *a: sgd(*a, 0.2, 0.9)),
    "adam": (lambda m: Adam(m, 0.1), lambda *a: adam(*a, 0, (0.9, 0.999), 1e-8, False)),
    "adam decay": (
        lambda m: Adam(m, 0.1, (0.7, 0.8), 1e-3, weight_decay=0.3),
        lambda *a: adam(*a, 0.3, (0.7, 0.8), 1e-3, False),
    ),
    "adamw": (
        lambda m: AdamW(m, 0.1, (0.7, 0.8), 1e-3, weight_decay=0.3),
        lambda *a: adam(*a, 0.3, (0.7, 0.8), 1e-3, True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_update_is_the_formula(case):
    make, formula = CASES[case]
    model = make_model()
    expected = {name: array.copy() for name, array in model.named_parameters()}
    states = {name: {} for name in expected}
    optimizer = make(model)
    for step in range(5):
        grads = gradients_of(model, step)
        lr = 0.1 / (step + 1)
        optimizer.step(nn.unflatten(grads), lr)
        for name, p in expected.items():
            if is_decayed(name):
                expected[name] = formula(p, grads[name], states[name], step + 1, lr)
            else:  # without decay
                bare = {"sgd": lambda *a: sgd(*a, 0, getattr(optimizer, "momentum", 0))}
                other = lambda *a: adam(*a, 0, optimizer.betas, optimizer.eps, False)  # noqa: E731
                update = bare.get(case.split()[0], other)
                expected[name] = update(p, grads[name], states[name], step + 1, lr)
    for name, array in model.named_parameters():
        np.testing.assert_allclose(array, expected[name], rtol=1e-12, atol=1e-14)


def test_default_rate_is_the_constructor_s():
    a, b = make_model(), make_model()
    SGD(a, 0.25).step(gradients_of(a, 0))
    SGD(b, 9.0).step(gradients_of(b, 0), lr=0.25)
    np.testing.assert_array_equal(a.up.weight, b.up.weight)


def test_who_is_decayed_may_be_chosen():
    model = make_model()
    before = {name: array.copy() for name, array in model.named_parameters()}
    optimizer = AdamW(model, 0.1, weight_decay=0.5, decay=lambda name, array: name == "up.weight")
    optimizer.step({name: np.zeros_like(array) for name, array in before.items()})
    for name, array in model.named_parameters():
        np.testing.assert_allclose(array, before[name] * (0.95 if name == "up.weight" else 1), rtol=1e-15)


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.1, 0.9), lambda m: Adam(m, 0.1), lambda m: AdamW(m, 0.1)])
def test_blocks_and_threads_change_no_bit(make, monkeypatch, worth_threads):
    models = [nn.FeedForward(40, 60, "relu", rng=1) for _ in range(3)]
    first, small, threaded = map(make, models)
    with Workers(3) as workers:
        for step in range(3):
            first.step(gradients_of(models[0], step))
            with monkeypatch.context() as patch:
                patch.setattr(optimizers, "BLOCK", 64)
                small.step(gradients_of(models[1], step))
                patch.setattr(optimizers, "BLOCK_IN_THREADS", 128)
                threaded.step(gradients_of(models[2], step), workers=workers)
    np.testing.assert_array_equal(first.flat.buffer, small.flat.buffer)
    np.testing.assert_array_equal(first.flat.buffer, threaded.flat.buffer)


def test_tree_flat_gradients_and_buffer_are_one():
    models = [make_model() for _ in range(3)]
    tree, flat, buffer = (AdamW(model, 0.1) for model in models)
    grads = gradients_of(models[0], 0)
    gradients = flat.flat.gradients()
    gradients.assign(grads)
    tree.step(nn.unflatten(grads))
    flat.step(gradients)
    buffer.step(gradients.buffer)
    np.testing.assert_array_equal(tree.flat.buffer, flat.flat.buffer)
    np.testing.assert_array_equal(tree.flat.buffer, buffer.flat.buffer)


def test_gradients_are_not_changed():
    model = make_model()
    grads = gradients_of(model, 0)
    for optimizer in (SGD(model, 0.1, 0.9, 0.1), Adam(model, 0.1, weight_decay=0.1), AdamW(model, 0.1)):
        optimizer.step(grads)
    for name, array in gradients_of(model, 0).items():
        np.testing.assert_array_equal(grads[name], array)


@pytest.mark.parametrize("make", [lambda m: SGD(m, 0.1, 0.9), lambda m: AdamW(m, 0.1)])
def test_state_goes_on_bit_for_bit(make):
    a, b = make_model(np.float32), make_model(np.float32)
    whole, first = make(a), make(b)
    for step in range(3):
        whole.step(gradients_of(a, step))
        first.step(gradients_of(b, step))
    state = {name: array.copy() for name, array in first.state_dict().items()}
    second = make(b)
    second.load_state_dict(state)
    for step in range(3, 6):
        whole.step(gradients_of(a, step))
        second.step(gradients_of(b, step))
    np.testing.assert_array_equal(whole.flat.buffer, second.flat.buffer)
    assert second.steps == 6


def test_state_names_the_parameters():
    state = AdamW(make_model()).state_dict()
    assert state["exp_avg.up.weight"].shape == (6, 10)
    assert state["step"].dtype == np.int64


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("step"),
        lambda s: s.update(other=np.ones(1)),
        lambda s: s.update({"exp_avg.up.bias": np.ones(3)}),
        lambda s: s.update({"exp_avg.up.bias": np.ones(10, np.float32)}),
    ],
)
def test_state_that_does_not_fit_is_refused(change):
    optimizer = AdamW(make_model())
    state = optimizer.state_dict()
    change(state)
    with pytest.raises(ValueError, match="AdamW: expected"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SGD(m, -1.0),
        lambda m: SGD(m, momentum=1.0),
        lambda m: Adam(m, betas=(0.9, 1.0)),
        lambda m: Adam(m, eps=0.0),
        lambda m: AdamW(m, weight_decay=-0.1),
        lambda m: AdamW(FlatParameters(m), decay=lambda name, array: True),
    ],
)
def test_bad_settings(make):
    with pytest.raises(ValueError, match=r"^(SGD|Adam|AdamW): expected"):
        make(make_model())


def test_gradients_of_another_model_are_refused():
    other = FlatParameters(nn.FeedForward(6, 11, "relu", rng=0, dtype=np.float64))
    optimizer = AdamW(make_model())
    for grads in (other.gradients(), np.zeros(3), {"up": {"weight": np.zeros((6, 10))}}):
        with pytest.raises(ValueError, match="expected"):
            optimizer.step(grads)
    assert optimizer.steps == 0


def test_a_new_optimizer_takes_the_model_over():
    model = make_model()
    first, second = SGD(model, 0.5), SGD(model, 0.5)
    before = model.up.bias.copy()
    ones = {name: np.ones_like(array) for name, array in model.named_parameters()}
    second.step(ones)
    first.step(ones)
    np.testing.assert_allclose(model.up.bias, before - 1)


def test_training_lowers_a_loss():
    model = nn.Linear(3, 2, rng=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = x @ rng.standard_normal((3, 2)).astype(np.float32)
    optimizer = AdamW(model, 0.05, weight_decay=0.0)
    for _ in range(200):
        out, cache = model.forward(x)
        _, grads = model.backward((out - y) / len(x), cache)
        optimizer.step(grads)
    assert math.sqrt(float(((model(x) - y) ** 2).mean())) < 0.02
