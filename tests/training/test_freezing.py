"""What is frozen is not trained: not laid out, not updated, by threads and processes neither; and groups of rates."""

import numpy as np
import pytest

from numtx import nn
from numtx.training import SGD, Adam, AdamW, FlatParameters, ShardedGradients, Workers, optimizers, rates_by_pattern


def feed_forward(dtype=np.float64):
    return nn.FeedForward(6, 10, "relu", rng=3, dtype=dtype)


def drawn(model, step=0):
    rng = np.random.default_rng([9, step])
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in model.trainable_parameters()}


def copies(model):
    return {name: array.copy() for name, array in model.named_parameters()}


# --- frozen ---------------------------------------------------------------------------------------------------------


def test_frozen_parameters_stay_where_they_are():
    model = feed_forward()
    nn.freeze(model, "up.*")
    up = model.up.weight
    flat = FlatParameters(model)
    assert list(flat.views) == ["down.weight", "down.bias"]
    assert model.up.weight is up
    assert not np.shares_memory(up, flat.buffer)


def test_nothing_to_train_is_refused():
    model = feed_forward()
    nn.freeze(model)
    with pytest.raises(ValueError, match=r"^FlatParameters: expected parameters .* got none that is not frozen$"):
        AdamW(model)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_an_update_leaves_them_alone(make):
    model, alone = feed_forward(), feed_forward()
    nn.freeze(model, "up.*", "down.bias")
    before = copies(model)
    optimizer, whole = make(model, 0.1), make(alone, 0.1)
    for step in range(3):
        grads = drawn(alone, step)
        optimizer.step({"down.weight": grads["down.weight"]})
        whole.step(grads)
    for name, array in model.named_parameters():
        expected = alone.get_parameter(name) if name == "down.weight" else before[name]
        np.testing.assert_array_equal(array, expected, err_msg=name)
    assert {name.partition(".")[2] for name in optimizer.state_dict() if name != "step"} <= {"down.weight"}


def test_a_gradient_of_a_frozen_parameter_is_refused():
    model = feed_forward()
    nn.freeze(model, "up.*")
    optimizer = SGD(model, 0.1)
    grads = drawn(model)
    with pytest.raises(ValueError, match=r"an unexpected up\.bias"):
        optimizer.step(grads | {"up.bias": np.zeros(10)})


@pytest.mark.parametrize("change", [nn.freeze, nn.unfreeze])
def test_freezing_after_the_optimizer_was_made_is_refused(change):
    model = feed_forward()
    nn.freeze(model, "up.*")
    optimizer = SGD(model, 0.1)
    grads = drawn(model)
    optimizer.step(grads)
    before = copies(model)
    change(model, "up.bias" if change is nn.unfreeze else "down.bias")
    with pytest.raises(
        ValueError, match=r"^FlatParameters: expected the parameters that were flattened.*(up|down)\.bias"
    ):
        optimizer.step(grads)
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("patterns", [["body.stack.*"], ["body.embedding.weight"], ["*.bias", "body.stack.layers.0.*"]])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_processes_train_the_rest_alone(make_model, tokens, patterns, threads, worth_threads):
    def trained(threads, forked):
        model = make_model(dropout=0.2)
        nn.freeze(model, *patterns)
        with Workers(threads) as workers:
            sharded = ShardedGradients(AdamW(model, 1e-2), 2, seed=1, workers=workers)
            for step in range(2):
                batch = {"input_ids": tokens[step : step + 64].reshape(4, 16), "labels": tokens[1:65].reshape(4, 16)}
                if forked:
                    with sharded:
                        sharded(batch, step)
                        sharded.update(1e-2)
                else:
                    sharded(batch, step)
                    sharded.update(1e-2)
        return model

    alone, model, before = trained(1, False), trained(threads, True), make_model(dropout=0.2)
    moved = {name for name, array in model.named_parameters() if (array != before.get_parameter(name)).any()}
    assert moved == {name for name, _ in model.trainable_parameters()}
    for name, array in model.named_parameters():
        np.testing.assert_array_equal(array, alone.get_parameter(name), err_msg=name)


# --- groups ---------------------------------------------------------------------------------------------------------


def test_one_rate_lays_out_as_none_does():
    plain, rated = FlatParameters(feed_forward()), FlatParameters(feed_forward(), rates=lambda name, array: 0.1)
    assert rated.slots == plain.slots
    assert [(g.start, g.stop, g.decay) for g in rated.groups] == [(g.start, g.stop, g.decay) for g in plain.groups]
    assert [g.decay for g in plain.groups] == [True, False]
    assert plain.groups[0].stop == plain.decayed


def test_groups_are_the_buffer():
    model = nn.Stack([nn.TransformerEncoderLayer(8, 2, 12, rng=i) for i in range(3)], nn.LayerNorm(8))
    rates = rates_by_pattern(model, {"layers.0.*": 0.25, "layers.*": 0.5})
    flat = FlatParameters(model, rates=rates)
    assert [(group.decay, group.rate) for group in flat.groups] == [
        (True, 0.25), (True, 0.5), (False, 0.25), (False, 0.5), (False, 1.0),
    ]  # fmt: skip
    assert [group.start for group in flat.groups] == [0, *(group.stop for group in flat.groups[:-1])]
    assert flat.groups[-1].stop == flat.size
    for name, slot in flat.slots.items():
        (group,) = [group for group in flat.groups if group.start <= slot.start < group.stop]
        assert group.rate == rates(name, flat.views[name])
        assert group.decay == (flat.views[name].ndim == 2)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_a_group_is_updated_at_its_rate(make):
    model = feed_forward()
    optimizer = make(model, 0.1, weight_decay=0.3, rates=rates_by_pattern(model, {"up.*": 0.25, "*.bias": 2.0}))
    singles = {factor: make(feed_forward(), 0.1, weight_decay=0.3) for factor in (0.25, 1.0, 2.0)}
    for step in range(3):
        grads = drawn(model, step)
        optimizer.step(grads, 0.05)
        for factor, single in singles.items():
            single.step(grads, 0.05 * factor)
    for name, factor in {"up.weight": 0.25, "up.bias": 0.25, "down.weight": 1.0, "down.bias": 2.0}.items():
        expected = singles[factor].flat.views[name]
        np.testing.assert_allclose(model.get_parameter(name), expected, rtol=1e-14, err_msg=name)


def test_groups_in_slices_and_threads(monkeypatch, worth_threads):
    monkeypatch.setattr(optimizers, "BLOCK", 16)
    monkeypatch.setattr(optimizers, "BLOCK_IN_THREADS", 32)

    def made():
        model = feed_forward()
        rates = rates_by_pattern(model, {"up.*": 0.25, "*.bias": 2.0})
        return AdamW(model, 0.1, weight_decay=0.3, rates=rates)

    whole, sliced, threaded = made(), made(), made()
    gradients = whole.flat.gradients()
    gradients.assign(drawn(whole.flat.model))
    whole.step(gradients)
    update = sliced.begin()
    for start in range(0, sliced.flat.size, 23):
        sliced.update_slice(start, min(start + 23, sliced.flat.size), gradients.buffer, update)
    sliced.finish(update)
    with Workers(2) as workers:
        threaded.step(gradients, workers=workers)
    np.testing.assert_array_equal(sliced.flat.buffer, whole.flat.buffer)
    np.testing.assert_array_equal(threaded.flat.buffer, whole.flat.buffer)


def test_the_first_pattern_counts():
    model = feed_forward()
    rates = rates_by_pattern(model, {"up.weight": 0.5, "up.*": 0.25})
    assert [rates(name, array) for name, array in model.named_parameters()] == [0.5, 0.25, 1.0, 1.0]


def test_refused():
    model = feed_forward()
    with pytest.raises(ValueError, match=r"^rates_by_pattern: expected a pattern that matches .* got 'upp\.\*'"):
        rates_by_pattern(model, {"up.*": 1.0, "upp.*": 0.1})
    for rate in (-1.0, np.nan, np.inf, "fast"):
        with pytest.raises(ValueError, match=r"^FlatParameters: expected a rate of at least 0 for up\.weight, got"):
            AdamW(model, rates=lambda name, array, rate=rate: rate)
    with pytest.raises(ValueError, match=r"^AdamW: expected rates to be given to FlatParameters"):
        AdamW(FlatParameters(model), rates=lambda name, array: 1.0)
